"""Nanoseconds a packet when a packet socket sends each frame through a veth: for tc, XDP and the kernel alike.

A test run cannot measure tc: it has no live frames, and each run would start from the packet that the last one left. So
a socket at a veth's far end sends frames one by one, for every contestant the same way: each is a new socket buffer
that arrives at the measured host. What the harness costs is seen in contestants that drop. Time is that of the sending
thread, in which the kernel also handles the frames, and of the core's ksoftirqd.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.core.model import map_layout
from agent.core.model.hooks import TRANSIT, TRANSIT_AGENT, Hook
from agent.datapath.bpf.outcomes import Outcome
from bench import frames as f
from bench.contestants import Contestant, Loaded, compile_all
from bench.forwarding import LostFramesError, counter
from bench.lines import EGRESS, INGRESS, OURS
from bench.map_contents import MapContents
from bench.wires import FAR, TAP, WIRE, Host, Received, attach_tc, attach_xdp
from controller_sim.lab.namespaces import call_in

DROP, REDIRECT, KERNEL = "drop", "redirect", "VXLAN + bridge"
PROGRAMS = {DROP: "empty", REDIRECT: "redirect", OURS: None}
"""Contestants at each hook, and their folders in `bench/programs`."""
FRAMES, BATCH = 40_000, 50
PATIENCE = 5.0
"""Seconds for the last frame to arrive after it was sent."""
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
_libc = ctypes.CDLL(None, use_errno=True)


def name_at(name: str, hook: Hook) -> str:
    """Return the name of a contestant at a hook."""
    return f"{name} at {'XDP' if hook is Hook.XDP else 'tc'}"


class Message(ctypes.Structure):
    """struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len }."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vectors_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_uint64),  # an int, and padding
        ("length", ctypes.c_uint64),  # an unsigned int, and padding
    )


class Sender:
    """A packet socket at a far end, in the calling thread's namespace, which sends one frame again and again."""

    def __init__(self, frame: bytes) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.bind((FAR, 0))
        self._frame = ctypes.create_string_buffer(frame, len(frame))
        self._vector = (ctypes.c_void_p * 2)(ctypes.addressof(self._frame), len(frame))
        message = Message(vectors=ctypes.addressof(self._vector), vectors_count=1)
        self._messages = (Message * BATCH)(*[message] * BATCH)

    def send(self, count: int) -> None:
        """Send the frame `count` times, at most `BATCH`, those again that the veth had no room for."""
        while count:
            sent = _libc.sendmmsg(self._socket.fileno(), self._messages, count, 0)
            if sent < 0:
                number = ctypes.get_errno()
                if number != errno.ENOBUFS:
                    raise OSError(number, os.strerror(number), "sendmmsg")
            count -= max(0, sent)
            if count:
                os.sched_yield()  # to ksoftirqd, which empties the queue

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@cache
def _ksoftirqd_clock(core: int) -> int:
    """Return the clock of the CPU time of a core's ksoftirqd (MAKE_PROCESS_CPUCLOCK in linux/posix-timers.h)."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        if path.read_text(encoding="ascii", errors="replace").strip() == f"ksoftirqd/{core}":
            return ~int(path.parent.name) << 3 | 2
    raise OSError(f"core {core} has no ksoftirqd")


def _spent_ns(core: int) -> int:
    return time.thread_time_ns() + time.clock_gettime_ns(_ksoftirqd_clock(core))


@dataclass(frozen=True, slots=True)
class SentEntry:
    """One contestant in one direction, as `forwarding.Entry`. `taught` comes in from the wire before a turn."""

    name: str
    direction: str
    host: Host
    frame: bytes
    taught: bytes
    arrived: Received | None
    outcomes: Callable[[], int] | None = None
    before: Callable[[], None] = lambda: None

    def turn(self, core: int) -> float:
        """Send the frames from one core and return nanoseconds a packet; LostFramesError when some do not arrive."""
        self.before()
        call_in(self.host.wire, lambda: _send(self.taught, 1))
        start = self.arrived.packets() if self.arrived else 0
        counted = self.outcomes() if self.outcomes else 0
        sender = self.host.wire if self.direction == INGRESS else self.host.endpoint
        took = call_in(sender, lambda: _timed(self.frame, core))
        if missing := self._missing(start):
            raise LostFramesError(f"{self.name}, {self.direction}: {missing} of {FRAMES} frames did not arrive")
        if self.outcomes and (right := self.outcomes() - counted) != FRAMES:
            raise LostFramesError(f"{self.name}, {self.direction}: {right} of {FRAMES} frames ended as they should")
        return took / FRAMES

    def _missing(self, start: int) -> int:
        if self.arrived is None:
            return 0
        deadline = time.monotonic() + PATIENCE
        while (missing := start + FRAMES - self.arrived.packets()) > 0 and time.monotonic() < deadline:
            time.sleep(0)
        return max(0, missing)


def _send(frame: bytes, count: int) -> None:
    with closing(Sender(frame)) as sender:
        sender.send(count)


def _timed(frame: bytes, core: int) -> int:
    os.sched_setaffinity(0, {core})
    with closing(Sender(frame)) as sender:
        began = _spent_ns(core)
        for _ in range(FRAMES // BATCH):
            sender.send(BATCH)
        return _spent_ns(core) - began


@contextmanager
def entries(folder: Path) -> Iterator[list[SentEntry]]:
    """Build a host for each contestant and yield their entries; everything goes at the end."""
    contestants = [
        Contestant(name_at(name, hook), overlay, hook=hook) for hook in Hook for name, overlay in PROGRAMS.items()
    ]
    compiled = compile_all(contestants, folder)
    with ExitStack() as stack:
        found = []
        for number, contestant in enumerate(contestants):
            host = stack.enter_context(Host(f"bench{os.getpid()}s{number}"))
            loaded = Loaded(compiled[contestant.name], contestant.hook)
            stack.callback(loaded.close)
            found += _attached(contestant, host, loaded)
        kernel = stack.enter_context(Host(f"bench{os.getpid()}sk"))
        kernel.add_kernel_vxlan()
        yield [*found, *_pair(KERNEL, kernel, f.in_vxlan(kernel.mac))]


def _attached(contestant: Contestant, host: Host, loaded: Loaded) -> list[SentEntry]:
    """Fill a contestant's maps, attach it to its host, and return its entries."""
    host.receive_at_far_ends()
    if "leave_by" in loaded.maps:
        for slot, name in enumerate((TAP, WIRE)):
            loaded.put("leave_by", map_layout.U32.pack(slot), map_layout.U32.pack(host.ifindex[name]))
    ours = contestant.overlay is None
    if ours:
        loaded.fill_as_agent(MapContents().entries(host.place))
    attach = attach_xdp if contestant.hook is Hook.XDP else attach_tc
    for name, program in ((WIRE, TRANSIT[contestant.hook]), (TAP, TRANSIT_AGENT[contestant.hook])):
        attach(host.namespace, name, loaded.programs[program])
    drops = contestant.overlay == PROGRAMS[DROP]
    return _pair(contestant.name, host, f.in_geneve(host.mac), loaded if ours else None, drops=drops)


def _pair(name: str, host: Host, outer: bytes, ours: Loaded | None = None, *, drops: bool = False) -> list[SentEntry]:
    return [
        SentEntry(
            *(name, direction, host, frame, outer),
            None if drops else arrived,
            counter(ours, outcome) if ours else None,
        )
        for direction, frame, arrived, outcome in (
            (INGRESS, outer, host.delivered, Outcome.DELIVERED),
            (EGRESS, f.sent_by_endpoint(), host.sent, Outcome.SENT_DIRECT),
        )
    ]
