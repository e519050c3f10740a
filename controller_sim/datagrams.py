"""UDP datagrams of many sizes between two namespaces and back, with the content compared by its hash.

Sizes are of the payload in bytes. What is larger than the endpoint's MTU goes in fragments, inside the overlay.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator, Sequence
from hashlib import sha256

from controller_sim.namespaces import call_in
from controller_sim.transfer import family_of

SIZES = (1, 100, 1200, 1390, 2000, 8000)
"""From the smallest to two that are fragmented at any MTU up to 1500."""
TRIES = 3
TIMEOUT = 1.0


def exchange(
    source: str, destination: str, source_address: str, destination_address: str, sizes: Sequence[int] = SIZES
) -> list[int]:
    """Send a datagram of each size from one namespace to another and back; return the sizes that did not come back.

    The receiver answers with the datagram turned round, when it came from the right address with the right hash.
    """
    return [size for size, back in rounds(source, destination, source_address, destination_address, sizes) if not back]


def rounds(
    source: str, destination: str, source_address: str, destination_address: str, sizes: Sequence[int] = SIZES
) -> Iterator[tuple[int, bool]]:
    """Do as `exchange` does, and yield after each size whether it came back. OSError where an address is not usable."""
    with _opened(source, source_address) as one, _opened(destination, destination_address) as other:
        with contextlib.suppress(OSError):  # without a way there, nothing can be sent either
            one.connect(other.getsockname())
        for size in sizes:
            yield size, any(_round(one, other, size, attempt) for attempt in range(TRIES))


def _opened(namespace: str, address: str) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        made.bind((address, 0))
        made.settimeout(TIMEOUT)
        return made

    return call_in(namespace, opened)


def _round(one: socket.socket, other: socket.socket, size: int, attempt: int) -> bool:
    data = random.Random(f"{size} {attempt}").randbytes(size)  # noqa: S311 - a pattern, no secret
    try:
        one.send(data)
        got, sender = other.recvfrom(1 << 16)
        if sender[:2] != one.getsockname()[:2] or _hash(got) != _hash(data):
            return False
        other.sendto(got[::-1], sender)
        return _hash(one.recv(1 << 16)) == _hash(data[::-1])
    except OSError:
        return False


def _hash(data: bytes) -> bytes:
    return sha256(data).digest()
