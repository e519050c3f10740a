"""The functions of one agent, those in processes included: the kernel's part of the kind `functions`.

Passes on what is asked, and listens for a process of each function in one. A pair of an agent before this one stays
in use until its process has connected here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.core.functions.programs import UncheckedProgram
from agent.core.functions.stages import Point, index_of
from agent.core.model.desired_entries import Function, FunctionPlace
from agent.core.model.features import Verdict
from agent.core.model.hooks import PROCESS_ANSWER, PROCESS_SOCKET, Hook
from agent.core.model.map_layout import (
    ALL_REASONS,
    NO_PROCESS,
    PROCESS_ANSWERS_TC,
    PROCESS_HANDED,
    PROCESS_QUEUES,
    PROCESS_SERVED,
    STAGE_POINTS,
    STAGE_SLOTS,
    U32,
    FunctionProcess,
    MapName,
    pack_function_process,
    unpack_function_process,
)
from agent.core.plan.observed import ObservedFunction
from agent.datapath.attach.tc import TcIngress
from agent.datapath.attach.xdp import AttachableProgram
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome
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
    Pairs,
    alias_of,
    make_pair,
    own_pairs,
    remove_pair,
    unfinished_pairs,
)
from agent.datapath.processes.served import Plumbing, ServedFunction, UnknownUserError, user_of
from agent.datapath.processes.sockets import Sockets
from agent.errors import OperatorError
from protocol import status
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
        self._wanted: dict[FunctionPlace, Function] = {}
        """What documents say of each function that is served."""
        self._known_pairs = False

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        """As `Functions`."""
        return await self._functions.check(programs)

    def map_bytes(self, contents: Iterable[str]) -> dict[str, int]:
        """As `Functions`."""
        return self._functions.map_bytes(contents)

    def log_of(self, key: str) -> str:
        """As `Functions`."""
        return self._functions.log_of(key)

    async def ensure(self, function: Function) -> None:
        """Put a function into its slot, and listen for its process if it is one; OSError as `Functions`."""
        process = function.program.process
        if process is None:
            await self._functions.ensure(function)
            await self._take_out(function.place, function.slot)
            return
        try:
            uid = user_of(process.user)
        except UnknownUserError as error:
            if not self._runs(function):
                await self._fill_slot(function)
                await self._take_out(function.place, function.slot)
                self._write_selection(function)
            raise OperatorError(2, str(error)) from error
        await self._fill_slot(function)
        if not self._serves(function, uid):
            await self._serve(function, uid)
        self._wanted[function.place] = function
        self._write_selection(function)

    async def _fill_slot(self, function: Function) -> None:
        """Put the program of a process into its slot, where a closed one must not drop what it is not to see."""
        if not self._functions.is_process(*function.place):
            self._write_selection(function)
        await self._functions.ensure(function)

    async def _serve(self, function: Function, uid: int) -> None:
        place = function.place
        await self._stop_serving(place)
        await self._remove_unused_pairs()
        path = self._host.folder / f"{function.id}.sock"
        self._served[place] = ServedFunction(function.id, path, uid, self._plumbing(place), self._host.hang)

    def _runs(self, function: Function) -> bool:
        """Return whether the slot has a program, or a process that this agent serves: a refusal must not touch it."""
        if function.place in self._served:
            return True
        return self.is_filled(function.point, function.slot) and not self._functions.is_process(*function.place)

    def _serves(self, function: Function, uid: int) -> bool:
        """Return whether a function is served as it is wanted, but for what can be changed in its entry."""
        served, before = self._served.get(function.place), self._wanted.get(function.place)
        if served is None or before is None or (served.uid, before.vpc) != (uid, function.vpc):
            return False
        return _queues_of(before) == _queues_of(function) and before.on_fault_closed == function.on_fault_closed

    async def remove(self, id_: str, point: int, slot: int) -> None:
        """As `Functions`. The process is let go first: once the pins are gone, no later agent knows of its pairs."""
        await self._take_out((id_, point), slot)
        await self._functions.remove(id_, point, slot)

    async def _take_out(self, place: FunctionPlace, slot: int) -> None:
        """Let the process of a function go, also that of an agent before this one, and remove its pairs."""
        id_, point = place
        served = place in self._served
        await self._stop_serving(place)
        if not (1 <= point <= STAGE_POINTS and 0 <= slot < STAGE_SLOTS):
            return
        index = index_of(point, slot)
        if not served and not self._read(index).ifindexes:
            return
        self._write(index, (), 0, 0)
        for near, alias in (await self._pairs()).items():
            if alias == alias_of(self._host.instance, id_, point):
                await remove_pair(self._host.netlink, near)

    async def _stop_serving(self, place: FunctionPlace) -> None:
        if (served := self._served.pop(place, None)) is not None:
            await served.close()
        self._wanted.pop(place, None)

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

    def served(self) -> Mapping[FunctionPlace, status.ServedFunction]:
        """Return the functions whose packets reach a process, with its queues."""
        found = {place: served.queues for place, served in self._served.items()}
        return {
            (id_, point): status.ServedFunction(
                id_, Point(point).label, one.number, "zero_copy" if one.zero_copy else "copy"
            )
            for (id_, point), one in found.items()
            if one is not None
        }

    def _plumbing(self, place: FunctionPlace) -> Plumbing:
        async def make() -> tuple[Pairs, int, Sockets]:
            return await self._make(self._wanted[place])

        async def remove(pairs: Pairs) -> None:
            for pair in pairs:
                await remove_pair(self._host.netlink, pair.near)

        async def remove_others(kept: Collection[Pair]) -> None:
            alias = alias_of(self._host.instance, *place)
            for near, found in (await self._pairs()).items():
                if found == alias and near not in {pair.near for pair in kept}:
                    await remove_pair(self._host.netlink, near)

        def direct(pairs: Pairs, lane: int) -> None:
            function = self._wanted.get(place)
            if function is not None:
                self._write(_index(function), pairs, lane, _reasons_of(function), handed=_takes_handed(function))

        return Plumbing(make, remove, remove_others, direct)

    async def _make(self, function: Function) -> tuple[Pairs, int, Sockets]:
        """Make the pairs of one process, with a program for each and the sockets behind them."""
        netlink, lane = self._host.netlink, (self._read(_index(function)).lane + PROCESS_QUEUES) % LANES
        maps = self._functions.open_maps(function, (PENDING, SOCKETS))
        pairs: list[Pair] = []
        sockets: list[Sockets] = []
        try:
            for queue in range(_queues_of(function)):
                pairs.append(await self._make_pair(function, lane + queue, maps))  # noqa: PERF401 - kept after an error
            far = [pair.far for pair in pairs]
            await in_thread(lambda: sockets.append(Sockets(far, maps[SOCKETS], lane)))
        except BaseException:
            for made in sockets:  # by a thread whose result was not awaited to the end
                made.close()
            for pair in pairs:
                await remove_pair(netlink, pair.near)
            raise
        finally:
            for descriptor in maps.values():
                os.close(descriptor)
        return tuple(pairs), lane, sockets[0]

    async def _make_pair(self, function: Function, lane: int, maps: Mapping[str, int]) -> Pair:
        loaded: list[AttachableProgram] = []
        try:
            await in_thread(self._load, function, lane, maps, loaded)
            socket_, answer, *tc = loaded
            programs_ = PairPrograms(answer, socket_, tc[0] if tc else None)
            alias = alias_of(self._host.instance, function.id, function.point)
            return await make_pair(self._host.netlink, self._host.tc, alias, programs_)
        finally:
            for one in loaded:
                os.close(one.descriptor)

    def _load(self, function: Function, lane: int, maps: Mapping[str, int], loaded: list[AttachableProgram]) -> None:
        """Load the program of `far`, and those of `near` for XDP and, where answers continue there, tc."""
        wanted = [(Hook.XDP, PROCESS_SOCKET), (Hook.XDP, PROCESS_ANSWER[Hook.XDP])]
        if self._host.hook is Hook.TC:
            wanted.append((Hook.TC, PROCESS_ANSWER[Hook.TC]))
        known = {**self._host.loaded.descriptors(), **{map_of(one): fd for one, fd in maps.items()}}
        for hook, name in wanted:
            compiled = self._host.loaded.hooks[hook].compiled.process(name)
            linked = link_process(compiled, index=_index(function), closed=function.on_fault_closed, lane=lane)
            found = programs.load(linked, known, TYPES[hook])
            loaded.append(AttachableProgram(found.fd, found.id, found.name))

    def _read(self, index: int) -> FunctionProcess:
        value = self._host.loaded.maps[MapName.FUNCTION_PROCESSES].lookup(U32.pack(index))
        return unpack_function_process(value) if value else NO_PROCESS

    def _write(self, index: int, pairs: Pairs, lane: int, reasons: int, *, handed: bool = False) -> None:
        """Let packets go to pairs, or with none to nobody; programs read the entry word by word."""
        flags = (PROCESS_ANSWERS_TC if self._host.hook is Hook.TC else 0) | (PROCESS_SERVED if pairs else 0)
        flags |= PROCESS_HANDED if handed else 0
        entry = FunctionProcess(tuple(pair.near for pair in pairs), lane, LONGEST, flags, reasons)
        self._put(index, entry)

    def _write_selection(self, function: Function) -> None:
        """Change which packets a process is to see, whoever serves it."""
        index, now = _index(function), self._read(_index(function))
        flags = now.flags & ~PROCESS_HANDED | (PROCESS_HANDED if _takes_handed(function) else 0)
        wanted = now._replace(reasons=_reasons_of(function), flags=flags)
        if now != wanted:
            self._put(index, wanted)

    def _put(self, index: int, entry: FunctionProcess) -> None:
        descriptor = self._host.loaded.maps[MapName.FUNCTION_PROCESSES].descriptor
        bpf.update(descriptor, U32.pack(index), pack_function_process(entry))

    async def _pairs(self) -> dict[int, str]:
        return own_pairs(await self._host.netlink.links(), self._host.instance)

    async def _remove_unused_pairs(self) -> None:
        """Remove, once, what an agent before this one left and no function uses."""
        if self._known_pairs:
            return
        self._known_pairs = True
        for near in unfinished_pairs(await self._host.netlink.links()):
            await remove_pair(self._host.netlink, near)
        used = {near for index in range(STAGE_POINTS * STAGE_SLOTS) for near in self._read(index).ifindexes}
        for near in await self._pairs():
            if near not in used:
                await remove_pair(self._host.netlink, near)


def _index(function: Function) -> int:
    return index_of(function.point, function.slot)


def _queues_of(function: Function) -> int:
    return function.program.process.queues if function.program.process is not None else 0


def _takes_handed(function: Function) -> bool:
    return function.program.process is not None and function.program.process.handed


def _reasons_of(function: Function) -> int:
    """Return the outcomes that a process is to see, a bit for each: those that its document names, or all."""
    names = function.program.process.reasons if function.program.process is not None else ()
    return sum(1 << Outcome[name.upper()] for name in names) or ALL_REASONS
