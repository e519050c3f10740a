"""Runs the probe, a small C program with plain sockets (`programs/probe.c`), in two endpoints that exchange packets."""

from __future__ import annotations

import subprocess
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.hosts import Pair
from bench.machine import busy_ns
from bench.wires import command
from controller_sim.lab.namespaces import entered

SOURCE = Path(__file__).parent / "programs" / "probe.c"
WARM_UP = 200
"""Round trips before those that count: ARP, the direct path, caches."""
ANY_CORE = "any"


class ProbeError(RuntimeError):
    """Traffic did not arrive; the text is what the probe said."""


class Stream(NamedTuple):
    """What TCP streams moved, as the receiver counted it, and the CPU time of the whole machine for each byte."""

    gbit_per_s: float
    cpu_ns_per_byte: float


class Flood(NamedTuple):
    """Datagrams that arrived in a second, the share that was lost, and the CPU time of the whole machine for each."""

    per_second: float
    lost: float
    cpu_ns: float


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
        with self._server(pair, self._core, "echo", pair.address()):
            raw = self._run(pair, self._core, "ask", pair.address(), str(count + WARM_UP))
        return array("I", raw).tolist()[WARM_UP:]

    def stream(self, pair: Pair, seconds: float, streams: int = 1, family: int = 4) -> Stream:
        """Send TCP from the first endpoint to the second: one stream between two cores, several on all cores."""
        to = pair.address(family)
        cores = (self._core, self._other_core) if streams == 1 else (ANY_CORE, ANY_CORE)
        with self._server(pair, cores[1], "sink", to):
            before = busy_ns()
            sent, took = map(int, self._run(pair, cores[0], "pour", to, str(seconds), str(streams)).split())
            busy = busy_ns() - before
        return Stream(sent * 8 / took, busy / sent)

    def flood(self, pair: Pair, seconds: float) -> Flood:
        """Send datagrams of 64 bytes of payload from one core to another, as fast as one socket can."""
        with self._server(pair, self._other_core, "count", pair.address()):
            before = busy_ns()
            sent, came, took = map(int, self._run(pair, self._core, "flood", pair.address(), str(seconds)).split())
            busy = busy_ns() - before
        if not came:
            raise ProbeError(f"{pair.name}: none of {sent} datagrams arrived")
        return Flood(came * 1e9 / took, 1 - came / sent, busy / came)

    @contextmanager
    def dripping(self, pair: Pair) -> Iterator[Callable[[], tuple[int, int]]]:
        """Send a request each millisecond meanwhile; the yielded function ends it and returns (sent, answered)."""
        argv = entered(pair.first, [self._program, self._other_core, "drip", pair.address()])
        with (
            self._server(pair, self._other_core, "echo", pair.address()),
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        ):
            try:
                yield lambda: _counts(child)
            finally:
                child.kill()

    @contextmanager
    def _server(self, pair: Pair, core: str, mode: str, address: str) -> Iterator[None]:
        argv = entered(pair.second, [self._program, core, mode, address])
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
