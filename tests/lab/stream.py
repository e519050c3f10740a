"""A TCP connection that is kept busy while something happens, every byte compared."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator

from controller_sim.lab.namespaces import call_in
from controller_sim.talk.transfer import family_of
from lab.fixtures import SystemLab
from lab.waiting import PATIENCE, until

PORT = 7105
BLOCK = random.Random(1).randbytes(1 << 20)
MUCH = 1 << 20
"""Bytes after which a stream counts as going on."""


class Stream:
    """One end sends a block over and over, the other one reads it, until it is stopped."""

    def __init__(self, lab: SystemLab, source: str, destination: str, family: int | None = None) -> None:
        to = lab.address(destination, family)
        self.sent = self.received = 0
        self.right = True
        self._stopped = threading.Event()
        with call_in(lab.inside(destination), lambda: socket.create_server((to, PORT), family=family_of(to))) as server:
            server.settimeout(PATIENCE)
            self._near = call_in(lab.inside(source), lambda: socket.create_connection((to, PORT), PATIENCE))
            self._far, _ = server.accept()
        self._far.settimeout(PATIENCE)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def goes_on(self) -> None:
        """Wait until a good deal more has arrived than now."""
        before = self.received
        until(lambda: self.received > before + MUCH, f"more than the {before} bytes that had arrived")

    def stop(self) -> None:
        """Stop sending, and wait until the other end has read it all."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()

    def _send(self) -> None:
        block = memoryview(BLOCK)
        with contextlib.suppress(OSError):  # what did not arrive is missing
            while not self._stopped.is_set():
                self.sent += self._near.send(block[self.sent % len(block) :])
            self._near.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        block, buffer = memoryview(BLOCK), memoryview(bytearray(len(BLOCK)))
        with contextlib.suppress(OSError):
            while count := self._far.recv_into(buffer[self.received % len(block) :]):
                at = self.received % len(block)
                self.right = self.right and buffer[at : at + count] == block[at : at + count]
                self.received += count


@contextlib.contextmanager
def streaming(lab: SystemLab, source: str, destination: str, family: int | None = None) -> Iterator[Stream]:
    """Keep a connection busy during a block; every byte must arrive in its place. A block that fails says so itself."""
    stream = Stream(lab, source, destination, family)
    try:
        stream.goes_on()
        yield stream
    finally:
        stream.stop()
    assert stream.right, "every byte in its place"
    assert stream.received == stream.sent, "and none missing"
