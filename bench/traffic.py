"""Round trips and bulk TCP between two endpoints, by plain sockets of a small C program: `programs/probe.c`."""

from __future__ import annotations

import os
import subprocess
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.hosts import Pair, set_segmentation
from bench.wires import command
from controller_sim.lab.namespaces import entered

SOURCE = Path(__file__).parent / "programs" / "probe.c"
WARM_UP = 200
"""Round trips before those that count: ARP, the direct path, caches."""


class ProbeError(RuntimeError):
    """Traffic did not arrive; the text is what the probe said."""


class Stream(NamedTuple):
    """What one TCP stream moved, as the receiver counted it."""

    gbit_per_s: float


def build_probe(folder: Path) -> Path:
    """Compile the probe; WiresError with the compiler's text when that fails."""
    program = folder / "probe-program"
    command("cc", "-O2", "-o", str(program), str(SOURCE))
    return program


class Probe:
    """The probe in the endpoints of a pair. Both ends of a round trip run on one core, those of a stream on two."""

    def __init__(self, program: Path, core: int, other_core: int) -> None:
        self._program = str(program)
        self._core = str(core)
        self._other_core = str(other_core)

    def round_trips(self, pair: Pair, count: int) -> list[int]:
        """Return the nanoseconds of each of `count` round trips of 64 bytes of UDP payload, one after the other."""
        with self._server(pair, self._core, "echo"):
            raw = self._run(pair, self._core, "ask", pair.address, str(count + WARM_UP))
        return array("I", raw).tolist()[WARM_UP:]

    def stream(self, pair: Pair, seconds: float) -> Stream:
        """Send one TCP stream from the first endpoint to the second."""
        with self._server(pair, self._other_core, "sink"):
            sent, took = map(int, self._run(pair, self._core, "pour", pair.address, str(seconds)).split())
        return Stream(sent * 8 / took)

    @contextmanager
    def dripping(self, pair: Pair) -> Iterator[Callable[[], tuple[int, int]]]:
        """Send a request each millisecond meanwhile; the yielded function ends it and returns (sent, answered)."""
        argv = entered(pair.first, [self._program, self._other_core, "drip", pair.address])
        with (
            self._server(pair, self._other_core, "echo"),
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        ):
            try:
                yield lambda: _counts(child)
            finally:
                child.kill()

    @contextmanager
    def _server(self, pair: Pair, core: str, mode: str) -> Iterator[None]:
        argv = entered(pair.second, [self._program, core, mode])
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
            try:
                if server.stdout is None or server.stdout.readline() != b"ready\n":
                    raise ProbeError(f"{pair.name}: the answering end did not start")
                yield
            finally:
                server.kill()

    def _run(self, pair: Pair, core: str, *arguments: str) -> bytes:
        done = subprocess.run(entered(pair.first, [self._program, core, *arguments]), capture_output=True, check=False)
        if done.returncode:
            raise ProbeError(f"{pair.name}: {' '.join(arguments)}: {done.stderr.decode().strip()}")
        return done.stdout


def _counts(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    out, _ = child.communicate(timeout=10)
    sent, answered = map(int, out.split())
    return sent, answered


class Traffic(NamedTuple):
    """All turns: nanoseconds of round trips, and Gbit/s of each stream, by contestant."""

    round_trips: dict[str, list[list[int]]]
    streams: dict[str, list[float]]


def measure(
    probe: Probe, ours: Pair, kernel: Pair, rounds: int, count: int, seconds: float, on_turn: Callable[[str], None]
) -> Traffic:
    """Let both overlays take turns. The kernel's stream runs with super-packets (GSO) and without."""
    result = Traffic({}, {})
    for number in range(1, rounds + 1):
        for pair in (ours, kernel):
            on_turn(f"round {number}/{rounds}: round trips, {pair.name}")
            result.round_trips.setdefault(pair.name, []).append(probe.round_trips(pair, count))
        for pair, name, segmentation in _streams(ours, kernel):
            on_turn(f"round {number}/{rounds}: TCP, {name}")
            if pair is kernel:
                set_segmentation(kernel, segmentation)
            result.streams.setdefault(name, []).append(probe.stream(pair, seconds).gbit_per_s)
        set_segmentation(kernel, on=True)
    return result


def _streams(ours: Pair, kernel: Pair) -> tuple[tuple[Pair, str, bool], ...]:
    return (ours, ours.name, True), (kernel, kernel.name, True), (kernel, f"{kernel.name}, GSO off", False)


def cores() -> tuple[int, int]:
    """Return the core on which everything timed runs, and another one where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]
