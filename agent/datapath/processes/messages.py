"""The messages between the agent and a function's process: JSON over a Unix socket (SEQPACKET). Pure.

`droplet_functions/handover.py` describes them; tests/unit/test_process_messages.py compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

VERSION = 1
LONGEST_MESSAGE = 1 << 16
FILL, RX, TX, COMPLETION = "fill", "rx", "tx", "completion"


class Ring(NamedTuple):
    """A ring's number of entries, and offsets of its producer, consumer, entries and flags (struct xdp_ring_offset)."""

    size: int
    offsets: tuple[int, ...]


class OfferedQueue(NamedTuple):
    """One socket: its mode and its rings by name."""

    zero_copy: bool
    rings: Mapping[str, Ring]


class Offer(NamedTuple):
    """The sockets of one function, whose frames share one UMEM in equal parts."""

    function: str
    frame_size: int
    frame_count: int
    longest_packet: int
    queues: tuple[OfferedQueue, ...]


def read_hello(raw: bytes) -> str | None:
    """Return the function that a process asks for, None if it speaks another version or the message is malformed."""
    fields = _object(raw)
    versions, function = fields.get("versions"), fields.get("function")
    if fields.get("type") != "hello" or not isinstance(versions, list) or VERSION not in versions:
        return None
    return function if isinstance(function, str) else None


def kind_of(raw: bytes) -> str:
    """Return the type of a process's message, empty if it is malformed."""
    kind = _object(raw).get("type")
    return kind if isinstance(kind, str) else ""


def _object(raw: bytes) -> dict[str, object]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def handover(offer: Offer) -> bytes:
    """Return the message that goes with the descriptors."""
    return _json(
        {
            "type": "handover",
            "version": VERSION,
            "function": offer.function,
            "frame_size": offer.frame_size,
            "frame_count": offer.frame_count,
            "longest_packet": offer.longest_packet,
            "queues": [_queue(number, one) for number, one in enumerate(offer.queues)],
        }
    )


def _queue(number: int, offered: OfferedQueue) -> dict[str, object]:
    rings = {name: [one.size, list(one.offsets)] for name, one in offered.rings.items()}
    return {"queue": number, "zero_copy": offered.zero_copy, "rings": rings}


def refused(reason: str) -> bytes:
    """Return a refusal for people to read."""
    return _json({"type": "refused", "reason": reason})


def stop() -> bytes:
    """Return the request to answer what has arrived and to end."""
    return _json({"type": "stop"})


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
