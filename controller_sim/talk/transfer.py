"""A TCP transfer between two processes, for throughput: the data is compared as it arrives.

python -m controller_sim.talk.transfer receive ADDRESS PORT | send ADDRESS PORT SECONDS

The receiver prints one line when it listens, and one with a `Transfer` as JSON. A sender that gets no connection prints
why in one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from controller_sim.lab.interrupts import interrupted_afterwards, uninterrupted
from controller_sim.lab.namespaces import entered

BLOCK = random.Random(1).randbytes(1 << 20)  # noqa: S311 - a pattern, no secret
TIMEOUT = 10.0
LAST_WORDS = 2.0
"""Seconds in which the receiver of an interrupted transfer must say what came."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What arrived: bytes, seconds from the first byte to the last, and whether it was what was sent.

    `silence` is the longest time in seconds in which nothing arrived. `failure` says why nothing came, or why it ended
    before its time; it is empty where all went well, and where only the data was wrong.
    """

    size: int
    seconds: float
    right: bool
    silence: float = 0.0
    failure: str = ""

    @property
    def words(self) -> str:
        """Say in one word whether the data was what was sent."""
        return "intact" if self.right and self.size else "damaged"

    @property
    def gigabits(self) -> float:
        """Throughput in Gbit/s."""
        return self.size * 8 / self.seconds / 1e9 if self.seconds > 0 else 0.0

    @property
    def well(self) -> bool:
        """Whether something came, all of it right, and nothing ended it."""
        return self.right and self.size > 0 and not self.failure

    def __str__(self) -> str:
        """Return one line of text."""
        if not self.size:
            return self.failure or "nothing came"
        text = (
            f"{self.size / 1e6:.0f} MB, {self.gigabits:.2f} Gbit/s, data {self.words}, "
            f"at most {self.silence * 1e3:.0f} ms of silence"
        )
        return f"{text}; {self.failure}" if self.failure else text


class TransferInterrupted(KeyboardInterrupt):
    """Ctrl-C; `so_far` is what arrived until then."""

    def __init__(self, so_far: Transfer) -> None:
        super().__init__()
        self.so_far = so_far


def transfer(source: str, destination: str, address: str, seconds: float = 2.0, port: int = 7008) -> Transfer:
    """Send for some seconds from one namespace to an address in another. Ctrl-C raises TransferInterrupted."""
    with _Ends(source, destination, address, port) as ends:
        try:
            return ends.run(seconds)
        except KeyboardInterrupt:
            with uninterrupted():
                raise TransferInterrupted(ends.cut()) from None


class _Ends:
    """The two processes. In sessions of their own: Ctrl-C reaches this process alone, which then ends them."""

    def __init__(self, source: str, destination: str, address: str, port: int) -> None:
        self.source, self.destination, self.address, self.port = source, destination, address, str(port)
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def _start(self, namespace: str, what: str, *more: str) -> str:
        """Start one of the two, and return the first line that it prints, empty where it ends without."""
        own = [sys.executable, "-m", "controller_sim.talk.transfer", what, self.address, self.port, *more]
        with interrupted_afterwards():
            started = subprocess.Popen(
                entered(namespace, own), stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            self.processes[what] = started
        assert started.stdout is not None
        return started.stdout.readline().strip()

    def __enter__(self) -> _Ends:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def run(self, seconds: float) -> Transfer:
        """Transfer, and return what arrived."""
        began = self._start(self.destination, "receive")
        if began != "listening":
            return Transfer(0, 0, False, failure=f"no connection: {began or 'the receiver did not start'}")
        refused = self._start(self.source, "send", str(seconds))
        if refused:
            return Transfer(0, 0, False, failure=f"no connection: {refused}")
        return self._received(2 * TIMEOUT)

    def cut(self) -> Transfer:
        """End the sending and return what arrived until then."""
        if "send" not in self.processes:
            return Transfer(0, 0, False, failure="interrupted before it began")
        self.processes["send"].kill()
        return replace(self._received(LAST_WORDS), failure="interrupted")

    def _received(self, patience: float) -> Transfer:
        try:
            said = self.processes["receive"].communicate(timeout=patience)[0]
        except subprocess.TimeoutExpired:
            return Transfer(0, 0, False, failure="the receiver did not end")
        return Transfer(**json.loads(said)) if said else Transfer(0, 0, False, failure="no connection arrived")


def family_of(address: str) -> socket.AddressFamily:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reason_of(error: OSError) -> str:
    """Return in few words why a connection did not come about, or ended."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return os.strerror(error.errno) if error.errno else str(error)


def receive(address: str, port: int) -> None:
    """Take one connection, read it to its end, and print what came."""
    try:
        listener = socket.create_server((address, port), family=family_of(address))
    except OSError as error:
        print(f"the receiver cannot listen: {reason_of(error)}")
        return
    with listener:
        listener.settimeout(2 * TIMEOUT)  # the sender gives up first, and knows why
        print("listening", flush=True)
        try:
            connection, _ = listener.accept()
        except OSError:
            return
    with connection:
        connection.settimeout(TIMEOUT)
        print(json.dumps(asdict(_read(connection))), flush=True)


def _read(connection: socket.socket) -> Transfer:
    began, size, right, failure = time.monotonic(), 0, True, ""
    heard, silence = began, 0.0
    buffer, block = memoryview(bytearray(len(BLOCK))), memoryview(BLOCK)
    while True:
        offset = size % len(BLOCK)
        try:
            count = connection.recv_into(buffer[offset:])
        except OSError as error:
            count, failure = 0, f"the connection broke: {reason_of(error)}"
        if not count:
            return Transfer(size, time.monotonic() - began, right, silence, failure)
        now = time.monotonic()
        heard, silence = now, max(silence, now - heard)
        right = right and buffer[offset : offset + count] == block[offset : offset + count]
        size += count


def send(address: str, port: int, seconds: float) -> None:
    """Send the block over and over for some seconds; print why where there is no connection."""
    try:
        connection = socket.create_connection((address, port), TIMEOUT)
    except OSError as error:
        print(reason_of(error), flush=True)
        return
    with connection:
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):  # the receiver tells what arrived
            while time.monotonic() < end:
                connection.sendall(BLOCK)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
