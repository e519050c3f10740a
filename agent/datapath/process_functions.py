"""The functions of one agent, those in processes included: the kernel's part of the kind `functions`.

Passes on what is asked, and listens for a process of each function in one. A pair of an agent before this one stays
in use until its process has connected here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.core.functions.programs import UnjudgedProgram
from agent.core.functions.stages import index_of
from agent.core.model.desired_entries import Function, FunctionPlace
from agent.core.model.features import Verdict
from agent.core.model.hooks import PROCESS_ANSWER, PROCESS_SOCKET, Hook
from agent.core.model.map_layout import FUNCTION_PROCESS, PROCESS_ANSWERS_TC, PROCESS_SERVED, U32, MapName
from agent.core.plan.observed import ObservedFunction
from agent.datapath.attach.tc import TcIngress
from agent.datapath.attach.xdp import AttachableProgram
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions.functions import Functions
from agent.datapath.functions.linker import link_process, map_of
from agent.datapath.functions.process_maps import LANES
from agent.datapath.functions.user_program import PENDING, SOCKETS
from agent.datapath.loading import TYPES, Loaded
from agent.datapath.net.netlink import Netlink
from agent.datapath.net.threads import in_thread
from agent.datapath.processes.pair import (
    LONGEST,
    Pair,
    PairPrograms,
    alias_of,
    make_pair,
    own_pairs,
    remove_pair,
)
from agent.datapath.processes.served import Plumbing, ServedFunction, UnknownUserError, user_of
from agent.datapath.processes.sockets import Sockets
from agent.errors import OperatorError
from protocol.status import Fault


@dataclass(frozen=True, slots=True)
class ProcessHost:
    """What functions in processes need of the agent: `hook` is where answers continue, `folder` that of the sockets."""

    netlink: Netlink
    tc: TcIngress
    loaded: Loaded
    instance: str
    hook: Hook
    folder: Path
    hang: float


class ProcessFunctions:
    """Functions as programs, and as processes."""

    def __init__(self, functions: Functions, host: ProcessHost) -> None:
        self._functions = functions
        self._host = host
        self.reader = functions.reader
        self._served: dict[FunctionPlace, ServedFunction] = {}
        self._known_pairs = False

    async def judge(self, programs: Sequence[UnjudgedProgram]) -> Mapping[str, Verdict]:
        """As `Functions`."""
        return await self._functions.judge(programs)

    def map_bytes(self, contents: Iterable[str]) -> dict[str, int]:
        """As `Functions`."""
        return self._functions.map_bytes(contents)

    def log_of(self, key: str) -> str:
        """As `Functions`."""
        return self._functions.log_of(key)

    async def ensure(self, function: Function) -> None:
        """Put a function into its slot, and listen for its process if it is one; OSError as `Functions`."""
        await self._functions.ensure(function)
        place = function.id, function.point
        if function.program.process is None:
            await self._stop_serving(place)
            return
        try:
            uid = user_of(function.program.process.user)
        except UnknownUserError as error:
            await self._stop_serving(place)
            raise OperatorError(2, str(error)) from error
        served = self._served.get(place)
        if served is not None and served.uid == uid:
            return
        await self._stop_serving(place)
        await self._remove_unused_pairs()
        path = self._host.folder / f"{function.id}.sock"
        self._served[place] = ServedFunction(function.id, path, uid, self._plumbing(function), self._host.hang)

    async def remove(self, id_: str, point: int, slot: int) -> None:
        """As `Functions`; its process is let go."""
        await self._functions.remove(id_, point, slot)
        await self._stop_serving((id_, point))
        self._write(index_of(point, slot), None, 0)
        for near, alias in (await self._pairs()).items():
            if alias == alias_of(self._host.instance, id_, point):
                await remove_pair(self._host.netlink, near)

    async def _stop_serving(self, place: FunctionPlace) -> None:
        if (served := self._served.pop(place, None)) is not None:
            await served.close()

    def is_filled(self, point: int, slot: int) -> bool:
        """As `Functions`."""
        return self._functions.is_filled(point, slot)

    async def observe(self, only: Collection[FunctionPlace] | None = None) -> Mapping[FunctionPlace, ObservedFunction]:
        """As `Functions`; one in a process for which nothing listens is not complete."""
        found = await self._functions.observe(only)
        waiting = {place for place in found if place not in self._served and self._functions.is_process(*place)}
        return {place: replace(one, complete=False) if place in waiting else one for place, one in found.items()}

    def faults(self) -> list[Fault]:
        """Return a fault for each function whose packets reach no process."""
        return [
            Fault(
                "function_process",
                f"function {served.id}",
                f"{served.fault}: packets go past it, or are dropped if its on_fault is closed",
                f"start its process as user {served.uid}; it asks at {served.path}",
            )
            for served in self._served.values()
            if served.fault
        ]

    async def close(self) -> None:
        """Close descriptors and listen no more; processes go on with what they have."""
        for served in self._served.values():
            await served.leave()
        self._served.clear()

    def _plumbing(self, function: Function) -> Plumbing:
        index = index_of(function.point, function.slot)

        async def make() -> tuple[Pair, int, Sockets]:
            return await self._make(function, index)

        async def remove(pair: Pair) -> None:
            await remove_pair(self._host.netlink, pair.near)

        async def remove_others(kept: Collection[Pair]) -> None:
            alias = alias_of(self._host.instance, function.id, function.point)
            for near, found in (await self._pairs()).items():
                if found == alias and near not in {pair.near for pair in kept}:
                    await remove_pair(self._host.netlink, near)

        return Plumbing(make, remove, remove_others, lambda pair, lane: self._write(index, pair, lane))

    async def _make(self, function: Function, index: int) -> tuple[Pair, int, Sockets]:
        lane = (self._read(index)[1] + 1) % LANES
        maps = self._functions.open_maps(function, (PENDING, SOCKETS))
        try:
            loaded = self._load(function, index, lane, maps)
            try:
                alias = alias_of(self._host.instance, function.id, function.point)
                pair = await make_pair(self._host.netlink, self._host.tc, alias, loaded)
            finally:
                for one in loaded:
                    if one is not None:
                        os.close(one.descriptor)
            try:
                return pair, lane, await in_thread(Sockets, pair.far, maps[SOCKETS], lane)
            except BaseException:
                await remove_pair(self._host.netlink, pair.near)
                raise
        finally:
            for descriptor in maps.values():
                os.close(descriptor)

    def _load(self, function: Function, index: int, lane: int, maps: Mapping[str, int]) -> PairPrograms:
        def load(hook: Hook, name: str) -> AttachableProgram:
            compiled = self._host.loaded.hooks[hook].compiled.process(name)
            linked = link_process(compiled, index=index, closed=function.on_fault_closed, lane=lane)
            known = {**self._host.loaded.descriptors(), **{map_of(one): fd for one, fd in maps.items()}}
            found = programs.load(linked, known, TYPES[hook])
            return AttachableProgram(found.fd, found.id, found.name)

        tc = load(Hook.TC, PROCESS_ANSWER[Hook.TC]) if self._host.hook is Hook.TC else None
        return PairPrograms(load(Hook.XDP, PROCESS_ANSWER[Hook.XDP]), load(Hook.XDP, PROCESS_SOCKET), tc)

    def _read(self, index: int) -> tuple[int, ...]:
        value = self._host.loaded.maps[MapName.FUNCTION_PROCESSES].lookup(U32.pack(index))
        return FUNCTION_PROCESS.unpack(value) if value else (0, 0, 0, 0)

    def _write(self, index: int, pair: Pair | None, lane: int) -> None:
        """Let packets go to a pair, or to nobody; programs read the entry word by word, the flags first."""
        at_tc = PROCESS_ANSWERS_TC if self._host.hook is Hook.TC else 0
        near, flags = (0, at_tc) if pair is None else (pair.near, at_tc | PROCESS_SERVED)
        entry = FUNCTION_PROCESS.pack(near, lane, LONGEST, flags)
        bpf.update(self._host.loaded.maps[MapName.FUNCTION_PROCESSES].descriptor, U32.pack(index), entry)

    async def _pairs(self) -> dict[int, str]:
        return own_pairs(await self._host.netlink.links(), self._host.instance)

    async def _remove_unused_pairs(self) -> None:
        """Remove, once, what an agent before this one left and no function uses."""
        if self._known_pairs:
            return
        self._known_pairs = True
        used = {self._read(index)[0] for index in range(index_of(6, 8))}
        for near in await self._pairs():
            if near not in used:
                await remove_pair(self._host.netlink, near)
