"""Users' functions in the data plane under test: compiled from C, linked, and put into chains."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from bpf_dut import ARRIVAL, SLOT, UPLINK, VNI, Dut, Run, XdpAction
from lab.function_counts import Counted

from agent.core.model import map_layout
from agent.core.model.hooks import POINTS, Hook
from agent.core.model.map_layout import STAGE_ARRAYS, STAGE_SLOTS, U32, MapName
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.functions.compile import compile_source
from agent.datapath.functions.linker import link_process, map_of
from agent.datapath.functions.load import Place, create_map, load
from agent.datapath.functions.process_maps import LANES, PROCESS
from agent.datapath.functions.user_program import CONFIGURATION, CONFIGURATION_SIZE, PENDING, SOCKETS, UserProgram
from agent.datapath.processes.sockets import Sockets
from droplet_functions.meta import ADDRESS_SIZE, META_SIZE

LOOPBACK = 1
INSTRUCTIONS = 1_000_000
"""Those that the verifier may process of one program: the kernel's limit."""
READ_ONLY = 1 << 7
"""BPF_F_RDONLY_PROG."""
ENDPOINT_POINTS = {
    "from_endpoint": (map_layout.INTERFACE_STAGES_FROM, 0),
    "to_endpoint": (map_layout.INTERFACE_STAGES_TO, 1),
}
"""The flag of `interfaces` for each, and the position of the chain in `endpoint_stages`."""
VPC_POINTS = {"forwarded": 0, "from_underlay": 1, "dropped": 2}
"""Likewise in `vpc_stages`."""


@cache
def user_program(body: str, declarations: str = "") -> UserProgram:
    """Compile a function from the statements of its body."""
    return source_program(
        f'#include "stage.h"\n{declarations}\nint stage_function(struct stage *stage)\n{{\n{body}\n}}\n'
    )


@cache
def source_program(source: str) -> UserProgram:
    """Compile a function, once for a checkout."""
    return asyncio.run(compile_source(source, Path(os.environ["DROPLET_LAB_CACHE"])))


def chain(*slots: int) -> int:
    """Return a chain of functions in this order."""
    return sum((slot + 1) << 4 * position for position, slot in enumerate(slots))


@dataclass(frozen=True)
class Process:
    """The loaded programs of a function in a process, by their names in XDP, and the descriptors of its maps."""

    maps: dict[str, int]
    programs: dict[str, programs.LoadedProgram]

    def emptied(self) -> int:
        """Take all sockets and pending packets out of the maps; return the descriptor of the map of sockets."""
        pending, table = self.maps[map_of(PENDING)], self.maps[map_of(SOCKETS)]
        bpf.delete_batch(pending, [key for key, _ in bpf.entries(pending)])
        for lane in range(LANES):
            bpf.delete(table, U32.pack(lane))
        return table

    def close(self) -> None:
        """Free the programs and maps."""
        for fd in (*(program.fd for program in self.programs.values()), *self.maps.values()):
            os.close(fd)


class FunctionDut(Dut):
    """Maps and programs of a host on which functions may run."""

    sockets: ClassVar[Sockets | None] = None
    """Of all processes and hosts: an interface has one socket, and the kernel takes its time to free it."""

    def __init__(self, compiled: CompiledObject, hook: Hook) -> None:
        super().__init__(compiled, hook=hook)
        self._shells = dict(zip(POINTS, compiled.shells, strict=True))
        self._opened: list[int] = []
        self._processes = compiled.processes
        self._loaded: dict[tuple[int, bool], Process] = {}
        """Programs of processes by index and `closed`: the verifier takes a second for each, so they stay loaded."""
        self._filled: set[int] = set()
        """Slots that have a program."""
        self._stale: set[int] = set()
        """Slots with a program of an earlier test: no chain leads there before `chains`, which empties them first.

        The kernel waits for a grace period of RCU when a slot is emptied, but not when its program is replaced.
        """
        self.maps: dict[tuple[str, int], dict[str, int]] = {}
        """Descriptors of the maps of each function, by point and slot."""

    def close(self) -> None:
        self._forget_functions()
        for process in self._loaded.values():
            process.close()
        self._loaded.clear()
        super().close()

    def _forget_functions(self) -> None:
        for name in ("function_process", "function_answer", "function_socket"):
            self.programs.pop(name, None)
        for fd in self._opened:
            os.close(fd)
        self._opened.clear()

    @classmethod
    def close_sockets(cls) -> None:
        """Close the sockets before their network namespace is left."""
        if cls.sockets is not None:
            cls.sockets.close()
        cls.sockets = None

    def renew(self) -> None:
        super().renew()
        self._forget_functions()
        self._stale |= self._filled
        self._filled.clear()
        cpus = bpf.possible_cpus()
        zeros = bytes(map_layout.FUNCTION_TRAFFIC.size) * cpus
        for index in range(len(POINTS) * STAGE_SLOTS):
            bpf.update(self.fds[MapName.FUNCTION_COUNTERS], U32.pack(index), zeros)
        bpf.update(self.fds[MapName.HOST_STAGES], U32.pack(0), bytes(map_layout.HOST_STAGES.size))
        reasons = bytes(8) * cpus
        for index in range(len(POINTS) * STAGE_SLOTS * map_layout.STAGE_REASONS):
            bpf.update(self.fds[MapName.FUNCTION_REASONS], U32.pack(index), reasons)
        for slot in range(4):
            bpf.update(self.fds[MapName.ENDPOINT_STAGES], U32.pack(slot), bytes(map_layout.ENDPOINT_STAGES.size))

    def install(
        self,
        point: str,
        slot: int,
        user: UserProgram,
        *,
        closed: bool = False,
        configuration: bytes = b"",
        peer: bool = True,
    ) -> None:
        """Put a function into a slot of a point."""
        index = POINTS.index(point) * STAGE_SLOTS + slot
        own = {CONFIGURATION: bpf.create_map(bpf.MapType.ARRAY, 4, CONFIGURATION_SIZE, 1, READ_ONLY, "configuration")}
        own |= {
            one.name: bpf.create_map(
                bpf.MapType(one.type), one.key_size, one.value_size, one.max_entries, one.flags, one.name
            )
            for one in user.maps
        }
        self._opened += own.values()
        bpf.update(own[CONFIGURATION], U32.pack(0), configuration.ljust(CONFIGURATION_SIZE, b"\0"))
        place = Place(self._shells[point], self.kind, index, closed, peer=peer)
        fds: Mapping[str, int] = {**self.fds, **{map_of(name): fd for name, fd in own.items()}}
        loaded = load(user, place, fds, INSTRUCTIONS)
        self._opened.append(loaded)
        self._fill(index, loaded)
        self.maps[point, slot] = own

    def configure(self, point: str, slot: int, configuration: bytes) -> None:
        """Change the configuration of a function that runs."""
        value = configuration.ljust(CONFIGURATION_SIZE, b"\0")
        bpf.update(self.maps[point, slot][CONFIGURATION], U32.pack(0), value)

    def install_process(
        self,
        point: str,
        slot: int,
        *,
        served: bool = True,
        closed: bool = False,
        queues: int = 1,
        lanes: Iterable[int] = (0,),
        reasons: Iterable[int] = (),
        handed: bool = False,
    ) -> None:
        """Put a function in a process into a slot, with a socket in these lanes of its map if it is served."""
        index = POINTS.index(point) * STAGE_SLOTS + slot
        process = self._process(index, closed)
        table = process.emptied()
        if served:
            if FunctionDut.sockets is None:
                FunctionDut.sockets = Sockets((LOOPBACK,), table, LANES - 1)
            for lane in lanes:
                bpf.update(table, U32.pack(lane), U32.pack(FunctionDut.sockets.descriptors[1]))
        flags = (map_layout.PROCESS_SERVED if served else 0) | (map_layout.PROCESS_HANDED if handed else 0)
        mask = sum(1 << reason for reason in reasons) or map_layout.ALL_REASONS
        entry = map_layout.FunctionProcess((UPLINK,) * queues, 0, 3000, flags, mask)
        value = map_layout.pack_function_process(entry)
        bpf.update(self.fds[MapName.FUNCTION_PROCESSES], U32.pack(index), value)
        self.programs |= process.programs
        self._fill(index, self.programs["function_process"].fd)

    def _fill(self, index: int, program: int) -> None:
        bpf.update(self.fds[STAGE_ARRAYS[self.hook]], U32.pack(index), U32.pack(program))
        self._stale.discard(index)
        self._filled.add(index)

    def _process(self, index: int, closed: bool) -> Process:
        """Return the programs of a process at an index of the table, which are loaded at the first call."""
        if (index, closed) not in self._loaded:
            maps = {map_of(one.name): create_map(one) for one in PROCESS.maps}
            linked = [link_process(one, index=index, closed=closed) for one in self._processes]
            loaded = [programs.load(one, {**self.fds, **maps}, self.kind) for one in linked]
            self._loaded[index, closed] = Process(maps, {one.name.removeprefix("tc_"): one for one in loaded})
        return self._loaded[index, closed]

    def answer(self, frame: bytes) -> Run:
        """Let a process answer with a frame, at XDP; it arrives on the interface of an endpoint."""
        lengths = (len(frame), len(frame) - META_SIZE, len(frame) - META_SIZE - ADDRESS_SIZE)
        return self._run("function_answer", frame, ARRIVAL, 0, lengths=lengths)

    def answer_dropped(self, frame: bytes) -> XdpAction:
        """Let a process at dropped answer; the packet was counted when it was dropped, and is not again."""
        before = self.counters()
        fd = self.programs["function_answer"].fd
        verdict, _, _ = bpf.run_program(fd, frame, ifindex=ARRIVAL, kind=self.kind)
        assert self.counters() == before
        return XdpAction(verdict)

    def chains(self, point: str, *slots: int, endpoint: int = SLOT, vni: int = VNI) -> None:
        """Let packets meet functions at a point: those of one endpoint, one VPC or the host."""
        for slot in slots:
            if POINTS.index(point) * STAGE_SLOTS + slot in self._stale:
                self.empty(point, slot)
        if point in ENDPOINT_POINTS:
            self._endpoint_chain(point, chain(*slots), endpoint)
        elif point in VPC_POINTS:
            at, found = (
                VPC_POINTS[point],
                bpf.lookup(self.fds[MapName.VPC_STAGES], U32.pack(vni), map_layout.VPC_STAGES.size),
            )
            values = list(map_layout.VPC_STAGES.unpack(found or bytes(map_layout.VPC_STAGES.size)))
            values[at] = chain(*slots)
            bpf.update(self.fds[MapName.VPC_STAGES], U32.pack(vni), map_layout.VPC_STAGES.pack(*values))
            self._host(vnis=1 << (vni & 63))
        if point in {"passed", "dropped"}:
            self._host(**{point: chain(*slots)})

    def _endpoint_chain(self, point: str, word: int, endpoint: int) -> None:
        flag, at = ENDPOINT_POINTS[point]
        key, interfaces = U32.pack(endpoint), self.fds[MapName.INTERFACES]
        old = map_layout.Interface(
            *map_layout.INTERFACE.unpack(bpf.lookup(interfaces, key, map_layout.INTERFACE.size) or b"")
        )
        flags = old.flags | flag if word else old.flags & ~flag
        self.put(MapName.INTERFACES, key, map_layout.INTERFACE.pack(*old._replace(flags=flags)))
        stages = self.fds[MapName.ENDPOINT_STAGES]
        words = list(
            map_layout.ENDPOINT_STAGES.unpack(bpf.lookup(stages, key, map_layout.ENDPOINT_STAGES.size) or bytes(8))
        )
        words[at] = word
        bpf.update(stages, key, map_layout.ENDPOINT_STAGES.pack(*words))

    def open_slots(self, point: str, *slots: int) -> None:
        """Let packets pass over these slots of a point where they are empty."""
        self._host(opened=sum(1 << POINTS.index(point) * STAGE_SLOTS + slot for slot in slots))

    def empty(self, point: str, slot: int) -> None:
        """Take the program out of a slot, as another process may."""
        index = POINTS.index(point) * STAGE_SLOTS + slot
        bpf.delete(self.fds[STAGE_ARRAYS[self.hook]], U32.pack(index))
        self._stale.discard(index)
        self._filled.discard(index)

    def _host(self, vnis: int = 0, passed: int | None = None, dropped: int | None = None, opened: int = 0) -> None:
        host, layout = self.fds[MapName.HOST_STAGES], map_layout.HOST_STAGES
        old = layout.unpack(bpf.lookup(host, U32.pack(0), layout.size) or bytes(layout.size))
        words = (old[1] if passed is None else passed, old[2] if dropped is None else dropped)
        bpf.update(host, U32.pack(0), layout.pack(old[0] | vnis, *words, old[3] | opened))

    def counted(self, point: str, slot: int) -> Counted:
        """Return what a function counted, summed over the CPUs."""
        index = U32.pack(POINTS.index(point) * STAGE_SLOTS + slot)
        values = bpf.lookup_percpu(self.fds[MapName.FUNCTION_COUNTERS], index, map_layout.FUNCTION_TRAFFIC.size)
        sums = [sum(numbers) for numbers in zip(*map(map_layout.FUNCTION_TRAFFIC.unpack, values), strict=True)]
        return Counted(*sums[:8])

    def reason(self, point: str, slot: int, reason: int) -> int:
        """Return the packets that a function dropped for one of its own reasons."""
        index = (POINTS.index(point) * STAGE_SLOTS + slot) * map_layout.STAGE_REASONS + reason
        values = bpf.lookup_percpu(self.fds[MapName.FUNCTION_REASONS], U32.pack(index), 8)
        return sum(int.from_bytes(value, sys.byteorder) for value in values)
