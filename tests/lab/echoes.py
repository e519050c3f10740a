"""Echo requests (RFC 792, RFC 4443) of a test's own, whose answers count however late they come.

ping(8) waits for the last answer for `-W` seconds only while it has none at all. Otherwise it gives up after twice the
longest round trip or one interval, 20 ms here, which a busy machine easily takes longer for.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

from controller_sim.lab.namespaces import call_in
from controller_sim.talk.transfer import family_of
from lab.frames import checksum

ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""Types of request and reply."""
SO_RCVBUFFORCE, BUFFER = 33, 16 << 20
_HEAD = struct.Struct("!BBHHH")
"""struct { u8 type; u8 code; be16 checksum; be16 identifier; be16 sequence }."""
INTERVAL = 0.02
LATE = 10.0
"""Seconds after which an answer counts as lost where none may be."""


def answered(namespace: str, address: str, count: int, wait: float, size: int = 56) -> int:
    """Send echo requests from a namespace and return how many were answered, at the latest `wait` seconds afterwards.

    `size` is that of the payload in bytes. What cannot be sent, for want of a route, is not answered.
    """
    with _opened(namespace, address) as echoes:
        for _ in range(count):
            echoes.send(size)
            echoes.hear(INTERVAL)
        echoes.hear(wait, until_all=True)
        return len(echoes.back)


@contextlib.contextmanager
def unbroken(namespace: str, address: str) -> Iterator[None]:
    """Send echo requests all along a block, and hold that every one is answered."""
    stop, missing = threading.Event(), list[set[int]]()

    def work() -> None:
        with _opened(namespace, address) as echoes:
            while not stop.is_set():
                echoes.send()
                echoes.hear(INTERVAL)
            echoes.hear(LATE, until_all=True)
            missing.append(set(range(echoes.sent)) - echoes.back)

    thread = threading.Thread(target=work, name="echoes")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert missing == [set()]


@contextlib.contextmanager
def _opened(namespace: str, address: str) -> Iterator[_Echoes]:
    family = family_of(address)
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    with call_in(namespace, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as opened:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        yield _Echoes(opened, address)


class _Echoes:
    """Requests from one socket to one address; `back` are the sequence numbers of those that were answered."""

    def __init__(self, opened: socket.socket, address: str) -> None:
        self.sent = 0
        self.back: set[int] = set()
        self._socket, self._address = opened, address
        self._request, self._reply = ECHO[socket.AddressFamily(opened.family)]
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._payload = b""

    def send(self, size: int = 56) -> None:
        self._payload = bytes(size)
        with contextlib.suppress(OSError):
            self._socket.sendto(self._message(self.sent), (self._address, 0))
        self.sent += 1

    def hear(self, seconds: float, *, until_all: bool = False) -> None:
        """Take in replies for some seconds, or until there is one to each request."""
        end = time.monotonic() + seconds
        while not until_all or len(self.back) < self.sent:
            if not select.select([self._socket], [], [], max(0.0, end - time.monotonic()))[0]:
                return
            with contextlib.suppress(OSError):  # an ICMP error about a request, reported by recv
                self._take(self._socket.recv(1 << 16))

    def _message(self, sequence: int) -> bytes:
        message = _HEAD.pack(self._request, 0, 0, self._identifier, sequence) + self._payload
        if self._socket.family == socket.AF_INET6:
            return message  # the kernel adds the checksum
        return _HEAD.pack(self._request, 0, checksum(message), self._identifier, sequence) + self._payload

    def _take(self, message: bytes) -> None:
        """Note a reply to one of our requests; IPv4's come with their IP header."""
        if self._socket.family == socket.AF_INET:
            message = message[(message[0] & 0xF) * 4 :]
        if len(message) < _HEAD.size:
            return
        kind, _, _, identifier, sequence = _HEAD.unpack_from(message)
        if kind == self._reply and identifier == self._identifier and message[_HEAD.size :] == self._payload:
            self.back.add(sequence)
