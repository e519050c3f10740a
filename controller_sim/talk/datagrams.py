"""UDP datagrams of many sizes between two namespaces and back, with the content compared by its hash.

Sizes are of the payload in bytes. What is larger than the endpoint's MTU goes in fragments, inside the overlay.

A datagram that is lost is sent again, later each time, as an application would: on a path that carries less than
configured, long ones are lost until the agents have measured what it carries.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from controller_sim.lab.namespaces import call_in
from controller_sim.talk.transfer import family_of

SIZES = (1, 100, 1200, 1390, 2000, 8000)
"""From the smallest to two that are fragmented at any MTU up to 1500."""
PATIENCE = 12.0
"""Seconds for which a size is sent again once a smaller one came back: longer than a path is measured."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 2.0
"""Seconds for which the first try is waited for, and each one after that twice as long, up to the second."""
TRIES = 3
"""For the first size, and for those after one that never came back."""


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
        patience = 0.0
        for size in sizes:
            back = _try(one, other, size, patience)
            patience = PATIENCE if back else 0.0
            yield size, back


def _try(one: socket.socket, other: socket.socket, size: int, patience: float) -> bool:
    """Send a datagram until it came back, `TRIES` times at least and as long as patience lasts; say whether it did."""
    deadline, attempt = time.monotonic() + patience, 0
    while attempt < TRIES or time.monotonic() < deadline:
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
        if _round(one, other, size, attempt, wait):
            return True
        attempt += 1
    return False


def _opened(namespace: str, address: str) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        made.bind((address, 0))
        return made

    return call_in(namespace, opened)


def _round(one: socket.socket, other: socket.socket, size: int, attempt: int, wait: float) -> bool:
    """Send one datagram there and back, waiting for so many seconds each time; late ones of others are passed by."""
    data = random.Random(f"{size} {attempt}").randbytes(size)  # noqa: S311 - a pattern, no secret
    own = one.getsockname()[:2]
    try:
        one.send(data)
        sender = _receive(other, data, wait)
        if sender is None or sender[:2] != own:
            return False
        other.sendto(data[::-1], sender)
        return _receive(one, data[::-1], wait) is not None
    except OSError:
        return False


def _receive(receiver: socket.socket, wanted: bytes, wait: float) -> Any:
    """Return who sent these very bytes, None when they did not come in time."""
    deadline = time.monotonic() + wait
    while (rest := deadline - time.monotonic()) > 0:
        receiver.settimeout(rest)
        try:
            got, sender = receiver.recvfrom(1 << 16)
        except TimeoutError:
            return None
        if _hash(got) == _hash(wanted):
            return sender
    return None


def _hash(data: bytes) -> bytes:
    return sha256(data).digest()
