"""Nanoseconds a packet: live frames through contestants on one pinned core, counted where they arrive.

Owns how a contestant is set up and measured; what the numbers mean is `sections.py`'s. Time is that of the thread: the
far end's part runs in it, as soft interrupts do; the kernel's waiting around a run (it waits for RCU) does not count,
nor does what other processes take from the core.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.core.model import map_layout
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome
from bench import frames as f
from bench import lines
from bench.contestants import Contestant, Loaded, compile_all
from bench.far_end import NOTHING
from bench.frames import INSIDE_IPV4, OVER_IPV4
from bench.lines import EGRESS, INGRESS, OURS, Group, Line
from bench.map_contents import SCALE_FIRST, Entries, MapContents, Place, Scale
from bench.profile import Part
from bench.wires import TAP, WIRE, Host, Received
from controller_sim.lab.namespaces import call_in

EMPTY, REDIRECT, BARE, KERNEL = "empty", "redirect", "bare", "kernel VXLAN + bridge"
OURS_TO_STACK = "ours, far end's stack"
FRAMES = 400_000
LINE_FRAMES = 200_000
KERNEL_FRAMES = 60_000
"""Frames of one turn; fewer through the kernel, so that all turns take about the same time."""
PATIENCE = 5.0
"""Seconds for the last frame to arrive after the run has returned."""

BARE_ENDPOINT = struct.Struct("=I6s2x")
"""struct bare_endpoint { u32 ifindex; u8 mac[6]; pad[2] }, key struct bare_key { be32 vni; be32 address }."""
BARE_PATH = struct.Struct("=4s4sI6s6s")
"""struct bare_path { be32 local, remote; u32 ifindex; u8 source[6], destination[6] }."""


class LostFramesError(RuntimeError):
    """Fewer frames arrived than were sent, or went another way: the time for a packet would be a fiction."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant in one direction: a frame that is run through a program as if it came in on an interface.

    `arrived` counts at the far end, None for a program that drops; `before` prepares a turn; `outcomes` tells how often
    packets ended as they should, None for a program that does not count.
    """

    name: str
    direction: str
    host: Host
    program: int
    frame: bytes
    ifindex: int
    arrived: Received | None
    frames: int
    before: Callable[[], None] = lambda: None
    outcomes: Callable[[], int] | None = None

    def turn(self, core: int) -> float:
        """Run the frames on one core and return nanoseconds a packet; LostFramesError when some do not arrive."""
        return call_in(self.host.namespace, lambda: self._run(core))

    def _run(self, core: int) -> float:
        os.sched_setaffinity(0, {core})
        self.before()
        start = self.arrived.packets() if self.arrived else 0
        counted = self.outcomes() if self.outcomes else 0
        began = time.thread_time_ns()
        live = bpf.BPF_F_TEST_XDP_LIVE_FRAMES
        bpf.run_program(self.program, self.frame, repeat=self.frames, ifindex=self.ifindex, flags=live)
        took = time.thread_time_ns() - began
        if missing := self._missing(start):
            raise LostFramesError(f"{self.name}, {self.direction}: {missing} of {self.frames} frames did not arrive")
        if self.outcomes and (right := self.outcomes() - counted) != self.frames:
            raise LostFramesError(
                f"{self.name}, {self.direction}: {right} of {self.frames} frames ended as they should"
            )
        return took / self.frames

    def _missing(self, start: int) -> int:
        if self.arrived is None:
            return 0
        deadline = time.monotonic() + PATIENCE
        while (missing := start + self.frames - self.arrived.packets()) > 0 and time.monotonic() < deadline:
            time.sleep(0)
        return max(0, missing)


def bare_entries(place: Place, scale: Scale | None = None) -> Entries:
    """Return the entries of the bare programs' maps: of one address each, or of a crowd."""
    vni = struct.pack("!I", f.VNI << 8)
    endpoint = BARE_ENDPOINT.pack(place.tap, f.LOCAL_MAC)
    path = BARE_PATH.pack(f.packed(OVER_IPV4.own), f.packed(OVER_IPV4.peer), place.wire, place.mac, f.PEER_MAC)
    if scale is None:
        return {
            "bare_endpoints": {vni + f.packed(INSIDE_IPV4.local): endpoint},
            "bare_paths": {vni + f.packed(INSIDE_IPV4.remote): path},
        }
    keys = [vni + (SCALE_FIRST + number).packed for number in range(scale.count)]
    return (
        {"bare_endpoints": dict.fromkeys(keys, endpoint)} if scale.local else {"bare_paths": dict.fromkeys(keys, path)}
    )


def counter(loaded: Loaded, outcome: Outcome) -> Callable[[], int]:
    """Return a function that tells how many packets have ended so."""
    fd, key = loaded.maps["outcomes"], map_layout.U32.pack(outcome)

    def packets() -> int:
        values = bpf.lookup_percpu(fd, key, map_layout.TRAFFIC.size)
        return sum(map_layout.TRAFFIC.unpack(value)[0] for value in values)

    return packets


def show(loaded: Loaded, host: Host, frame: bytes) -> None:
    """Let one frame in from the wire: what it teaches is as fresh as of a conversation under way."""
    bpf.run_program(loaded.programs["transit_xdp"], frame, ifindex=host.ifindex[WIRE])


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where contestants run: far ends that drop by XDP, far ends that receive as an endpoint does, kernel VXLAN."""

    xdp: Host
    stack: Host
    kernel: Host


class Track:
    """The hosts and every contestant that was asked for, ready to run: `entries`."""

    def __init__(self, hosts: Hosts, far_end: Loaded, load: Callable[[str], Loaded]) -> None:
        self.entries: list[Entry] = []
        self._hosts = hosts
        self._far_end = far_end
        self._load = load
        self._contents: dict[tuple[str, MapContents], Loaded] = {}

    def add_basics(self) -> None:
        """Add the yardsticks and our programs, on a small packet in IPv4 over IPv4."""
        hosts, load = self._hosts, self._load
        self._pair(OURS, hosts.xdp, self._loaded(OURS, MapContents()))
        self._pair(OURS_TO_STACK, hosts.stack, self._filled(OURS, MapContents(), hosts.stack))
        bare, redirect = load(BARE), load(REDIRECT)
        bare.fill(bare_entries(hosts.xdp.place))
        self._pair(BARE, hosts.xdp, bare)
        for slot, name in enumerate((TAP, WIRE)):
            redirect.put("leave_by", map_layout.U32.pack(slot), map_layout.U32.pack(hosts.xdp.ifindex[name]))
        self._pair(REDIRECT, hosts.xdp, redirect)
        self._pair(EMPTY, hosts.xdp, load(EMPTY))
        self._pair(KERNEL, hosts.kernel, load("pass"))

    def add_part(self, part: Part) -> None:
        """Add our programs without one part."""
        name = part.contestant.name
        self._pair(name, self._hosts.xdp, self._loaded(name, MapContents()), part.directions)

    def add_group(self, group: Group) -> None:
        """Add the lines of a group, named after both."""
        for line in group.lines:
            self._line(qualified(group, line.name), line)

    def _loaded(self, name: str, contents: MapContents) -> Loaded:
        """Return a contestant whose maps hold these contents, the same for all lines that ask for it."""
        if (name, contents) not in self._contents:
            self._contents[name, contents] = self._filled(name, contents, self._hosts.xdp)
        return self._contents[name, contents]

    def _filled(self, name: str, contents: MapContents, host: Host) -> Loaded:
        loaded = self._load(name)
        if "bare_paths" in loaded.maps:
            loaded.fill(bare_entries(host.place, contents.scale))
        else:
            loaded.fill_as_agent(contents.entries(host.place))
        return loaded

    def _line(self, name: str, line: Line) -> None:
        host, loaded = self._hosts.xdp, self._loaded(line.contestant, line.contents)
        frame = line.frame(host.mac)
        taught = line.taught(host.mac) if line.taught else None
        restore = line.restore.packed(frame) if line.restore else NOTHING

        def before() -> None:
            self._far_end.put("restores", map_layout.U32.pack(0), restore)
            if taught:
                show(loaded, host, taught)

        program, interface = ("transit_xdp", WIRE) if line.direction == INGRESS else ("transit_agent", TAP)
        self.entries.append(
            Entry(
                *(name, line.direction, host, loaded.programs[program], frame, host.ifindex[interface]),
                *(host.delivered if line.to_endpoint else host.sent, LINE_FRAMES, before),
                counter(loaded, line.outcome) if line.outcome is not None else None,
            )
        )

    def _pair(self, name: str, host: Host, loaded: Loaded, directions: tuple[str, ...] = (INGRESS, EGRESS)) -> None:
        kernel, drops, ours = name == KERNEL, name == EMPTY, "direct" in loaded.maps
        count = KERNEL_FRAMES if kernel else FRAMES
        outer = f.in_vxlan(host.mac) if kernel else f.in_geneve(host.mac)

        def before() -> None:
            self._far_end.put("restores", map_layout.U32.pack(0), NOTHING)
            if ours:
                show(loaded, host, outer)

        pair = (
            Entry(
                *(name, INGRESS, host, loaded.programs["transit_xdp"], outer, host.ifindex[WIRE]),
                *(None if drops else host.delivered, count, before),
            ),
            Entry(
                *(name, EGRESS, host, loaded.programs["transit_agent"], f.sent_by_endpoint(), host.ifindex[TAP]),
                *(None if drops else host.sent, count, before),
            ),
        )
        self.entries += [entry for entry in pair if entry.direction in directions]


def qualified(group: Group, name: str) -> str:
    """Return the name under which a line of a group is measured."""
    return f"{group.title}: {name}"


@contextmanager
def track(folder: Path, parts: tuple[Part, ...], groups: tuple[Group, ...]) -> Iterator[Track]:
    """Build everything that the measurement needs, and take it down again. `parts` are those to be left out."""
    yardsticks = [Contestant(name, name) for name in (EMPTY, REDIRECT, BARE, "pass", "restore")]
    compiled = compile_all(
        [Contestant(OURS), *(part.contestant for part in parts), *yardsticks, *lines.CONTESTANTS], folder
    )
    with ExitStack() as stack:
        hosts = Hosts(*(stack.enter_context(Host(f"bench{os.getpid()}{letter}")) for letter in "xsk"))
        hosts.kernel.add_kernel_vxlan()
        hosts.stack.receive_at_far_ends()

        def load(name: str) -> Loaded:
            loaded = Loaded(compiled[name])
            stack.callback(loaded.close)
            return loaded

        far_end = load("restore")
        hosts.xdp.drop_at_far_ends(far_end.programs["transit_xdp"])
        found = Track(hosts, far_end, load)
        found.add_basics()
        for part in parts:
            found.add_part(part)
        for group in groups:
            found.add_group(group)
        yield found


Rounds = dict[str, dict[str, list[float]]]
"""Direction, contestant, nanoseconds a packet in each round."""


class Turns(Protocol):
    """A contestant in one direction; `turn` returns nanoseconds a packet, on one core."""

    @property
    def name(self) -> str: ...

    @property
    def direction(self) -> str: ...

    def turn(self, core: int) -> float: ...


def run_rounds(
    entries: Sequence[Turns], rounds: int, core: int, on_turn: Callable[[str], None] = lambda _: None
) -> Rounds:
    """Let all contestants take turns; one unmeasured turn each comes first."""
    measured: Rounds = {}
    for number in range(rounds + 1):
        for entry in entries:
            on_turn(f"round {number}/{rounds}: {entry.name}, {entry.direction}")
            took = entry.turn(core)
            if number:
                measured.setdefault(entry.direction, {}).setdefault(entry.name, []).append(took)
    return measured
