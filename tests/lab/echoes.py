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
import time

from controller_sim.namespaces import call_in
from controller_sim.transfer import family_of
from lab.frames import checksum

ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""Types of request and reply."""
_HEAD = struct.Struct("!BBHHH")
"""struct { u8 type; u8 code; be16 checksum; be16 identifier; be16 sequence }."""
PAYLOAD = bytes(range(56))
INTERVAL = 0.02


def answered(namespace: str, address: str, count: int, wait: float) -> int:
    """Send echo requests from a namespace and return how many were answered, at the latest `wait` seconds afterwards.

    What cannot be sent, for want of a route, is not answered.
    """
    family = family_of(address)
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    with call_in(namespace, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as opened:
        opened.setblocking(False)
        return len(_exchange(opened, address, count, wait))


def _exchange(opened: socket.socket, address: str, count: int, wait: float) -> set[int]:
    """Return the sequence numbers of the requests that were answered."""
    identifier = int.from_bytes(os.urandom(2), "big")
    back: set[int] = set()
    for sequence in range(count):
        with contextlib.suppress(OSError):
            opened.sendto(_request(opened.family, identifier, sequence), (address, 0))
        _hear(opened, identifier, back, INTERVAL)
    _hear(opened, identifier, back, wait, count)
    return back


def _hear(opened: socket.socket, identifier: int, back: set[int], seconds: float, enough: int | None = None) -> None:
    """Take in replies for some seconds, or until there are enough of them."""
    end = time.monotonic() + seconds
    while enough is None or len(back) < enough:
        if not select.select([opened], [], [], max(0.0, end - time.monotonic()))[0]:
            return
        with contextlib.suppress(OSError):  # an ICMP error about a request, told by reading
            found = _reply(opened.family, opened.recv(1 << 16), identifier)
            if found is not None:
                back.add(found)


def _request(family: int, identifier: int, sequence: int) -> bytes:
    kind = ECHO[socket.AddressFamily(family)][0]
    message = _HEAD.pack(kind, 0, 0, identifier, sequence) + PAYLOAD
    if family == socket.AF_INET6:
        return message  # the kernel adds the checksum
    return _HEAD.pack(kind, 0, checksum(message), identifier, sequence) + PAYLOAD


def _reply(family: int, message: bytes, identifier: int) -> int | None:
    """Return the sequence number of a reply to one of our requests; IPv4's come with their IP header."""
    if family == socket.AF_INET:
        message = message[(message[0] & 0xF) * 4 :]
    if len(message) < _HEAD.size:
        return None
    kind, _, _, of, sequence = _HEAD.unpack_from(message)
    wanted = kind == ECHO[socket.AddressFamily(family)][1] and of == identifier
    return sequence if wanted and message[_HEAD.size :] == PAYLOAD else None
