"""Packets a second of functions in processes: the library beside a bare C loop on rings of the same kind, in one run.

Every contestant has a veth pair of its own. A turn fills the RX ring with live frames and times the answers alone, on
one pinned core, by the thread's CPU time. It includes what the kernel does for a packet within the system calls, as in
the C loop. The data plane's end drops the answers.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from agent.datapath.bpf import syscall as bpf
from bench import libxdp
from bench.forwarding import LostFramesError, Rounds
from bench.frames import sent_by_endpoint
from bench.function_pair import Listener, Pair, Sizes, Sockets, listening, redirecting
from bench.report import Comparison, Grid, Section, compared, ratios, spread
from bench.wires import command
from controller_sim.lab.namespaces import call_in
from droplet_functions import GO_ON, Counters, Meta, Packet, Verdict, drop
from droplet_functions.barriers import PLAIN, Barriers, compiled
from droplet_functions.engine import Engine, Options
from droplet_functions.handlers import Handlers

LIMIT, EMPTY, BATCHES, EXAMPLE = "bare C loop", "empty handler", "empty handler of batches", "handler that reads ports"
COMPILED, LIBXDP = "empty handler, compiled barriers", "empty handler, libxdp by ctypes"
SOURCE = Path(__file__).parent / "programs" / "xsk_loop.c"
RING = 2048
PACKETS = "packets"
BURST, BURSTS = 1024, 16
"""Packets that wait in the RX ring when a burst is timed, and bursts in a turn."""
PATIENCE = 60.0
NOTE = (
    "Of one core, for 60 bytes of UDP in copy mode on a veth, batches of 64: median, and the bounds of half of the "
    "rounds. All answer every packet. Plain Python reads and writes the rings' indices, except where the name says "
    "otherwise."
)


class Server(Protocol):
    """Answers packets that wait in a pair's rings."""

    def serve(self, packets: int) -> None:
        """Answer so many packets."""


class CLoop:
    """The bare loop."""

    def __init__(self, library: ctypes.CDLL, sockets: Sockets) -> None:
        sizes = sockets.sizes
        memory, descriptor = sockets.descriptors
        self._library = library
        library.loop_open.restype = ctypes.c_void_p
        length = ctypes.c_uint64(sizes.frames * sizes.frame_size)
        self._loop = ctypes.c_void_p(library.loop_open(descriptor, memory, length, sizes.frame_size, sizes.ring))
        if not self._loop.value:
            raise RuntimeError("the bare loop cannot map the rings")

    def serve(self, packets: int) -> None:
        """Answer so many packets."""
        self._library.loop_serve(self._loop, ctypes.c_uint64(packets))


class Library:
    """The library's engine with a handler, stepped as `Function.run` does while packets keep coming."""

    def __init__(self, path: Path, barriers: Barriers, use: Callable[[Handlers], None]) -> None:
        self._counters = Counters()
        self._handlers = Handlers("bench", GO_ON, self._counters)
        use(self._handlers)
        self.engine = Engine("bench", path, barriers, self._counters, Options(64, True, PATIENCE, 1.0))

    def connect(self, listener: Listener, sockets: Sockets) -> None:
        """Take the sockets over from a listener."""
        agent = threading.Thread(target=listener.serve, args=("bench", sockets))
        agent.start()
        while not self._counters.connections:
            self.engine.step(time.monotonic())
        agent.join()

    def serve(self, packets: int) -> None:
        """Answer so many packets."""
        counters, engine = self._counters, self.engine
        wanted = counters.received + packets
        while counters.received < wanted:
            if batch := engine.step(time.monotonic()):
                try:
                    self._handlers.handle(batch)
                finally:
                    engine.answer()


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server, the pair that it serves, and the program that sends frames to it; a turn as `forwarding` knows them."""

    name: str
    direction: str
    pair: Pair
    sockets: Sockets
    program: int
    server: Server

    def turn(self, core: int) -> float:
        """Return nanoseconds a packet; LostFramesError when the kernel has no room for one."""
        return call_in(self.pair.namespace, lambda: self._run(core))

    def _run(self, core: int) -> float:
        os.sched_setaffinity(0, {core})
        packet = sent_by_endpoint()
        frame = Meta(vni=7, token=1).pack(len(packet)) + packet
        took = 0
        for _ in range(BURSTS):
            live = bpf.BPF_F_TEST_XDP_LIVE_FRAMES
            bpf.run_program(self.program, frame, repeat=BURST, ifindex=self.pair.near, flags=live)
            counted = self.sockets.statistics()
            if lost := counted.rx_dropped + counted.rx_ring_full:
                raise LostFramesError(f"{self.name}: the kernel had no room for {lost} frames")
            began = time.thread_time_ns()
            self.server.serve(BURST)
            took += time.thread_time_ns() - began
        return took / (BURST * BURSTS)


def _empty(packet: Packet) -> Verdict:  # noqa: ARG001 - a handler takes a packet
    return GO_ON


def _empty_batch(packets: Sequence[Packet]) -> None:
    for packet in packets:
        packet.verdict = GO_ON


def _example(packet: Packet) -> Verdict:
    """Drop what goes to one port, as the first example of docs/functions.md does."""
    udp = packet.layers().udp
    return drop(23) if udp and udp.destination_port == 23 else GO_ON


@contextmanager
def contestants(folder: Path) -> Iterator[list[Contestant]]:
    """Build a pair and a server for each contestant; everything goes at the end."""
    with ExitStack() as stack:
        library = ctypes.CDLL(str(_built(folder)))
        found = [_added(stack, 0, LIMIT, lambda sockets: CLoop(library, sockets))]
        wanted: list[tuple[str, Barriers, Callable[[Handlers], None]]] = [
            (EMPTY, PLAIN, lambda handlers: handlers.set_packet(_empty)),
            (BATCHES, PLAIN, lambda handlers: handlers.set_batch(_empty_batch)),
            (EXAMPLE, PLAIN, lambda handlers: handlers.set_packet(_example)),
        ]
        if barriers := compiled():
            wanted.append((COMPILED, barriers, lambda handlers: handlers.set_packet(_empty)))
        if libxdp.available() is not None:
            wanted.append((LIBXDP, PLAIN, lambda handlers: handlers.set_packet(_empty)))
        for number, (name, kind, use) in enumerate(wanted, 1):
            path = folder / f"function{number}.sock"
            found.append(_added(stack, number, name, partial(_library, stack, path, name, kind, use)))
        yield found


def _built(folder: Path) -> Path:
    path = folder / "xsk_loop.so"
    command("cc", "-O2", "-shared", "-fPIC", "-o", str(path), str(SOURCE))
    return path


def _added(stack: ExitStack, number: int, name: str, make: Callable[[Sockets], Server]) -> Contestant:
    pair = stack.enter_context(Pair(f"bench{os.getpid()}f{number}", near_verdict=bpf.XdpAction.DROP))
    sockets = Sockets(pair, Sizes(frames=2 * RING, ring=RING))
    stack.callback(sockets.close)
    program = bpf.load_program(redirecting(pair.near), name="send")
    stack.callback(os.close, program)
    return Contestant(name, PACKETS, pair, sockets, program, make(sockets))


def _library(
    stack: ExitStack, path: Path, name: str, kind: Barriers, use: Callable[[Handlers], None], sockets: Sockets
) -> Library:
    made = Library(path, kind, use)
    stack.callback(made.engine.close)
    listener = stack.enter_context(listening(path))
    made.connect(listener, sockets)
    library = libxdp.available() if name == LIBXDP else None
    if library is not None:
        for queue in made.engine.queues():
            queue.rings = libxdp.rings(library, queue.rings)
    return made


def section(rounds: Rounds) -> Section:
    """Return the table and the ratios of a run."""
    found = rounds[PACKETS]
    rows = tuple(
        (name, spread(samples), spread([1e9 / one for one in samples]), spread(ratios(samples, found[LIMIT])))
        for name, samples in found.items()
    )
    columns = ("", "ns a packet", "packets a second", "time / bare C loop")
    return Section("Functions in processes (AF_XDP)", NOTE, (), tuple(_comparisons(found)), Grid(columns, rows), found)


def _comparisons(found: dict[str, list[float]]) -> Iterator[Comparison]:
    for name in (EMPTY, EXAMPLE):
        yield compared(f"function in Python, {name}: time / bare C loop", ratios(found[name], found[LIMIT]))
    for name in (COMPILED, LIBXDP):
        if name in found:
            yield compared(f"function in Python, {name}: time / plain Python", ratios(found[name], found[EMPTY]))
