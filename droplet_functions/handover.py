"""The messages between an agent and a function's process: JSON, one in each packet of a Unix socket (SEQPACKET). Pure.

| from | type | meaning |
| --- | --- | --- |
| process | `hello` | asks for the sockets of `function`; `versions` are those of this protocol that it speaks |
| agent | `handover` | the sockets; with it the descriptors of the UMEM (a memfd) and of each queue's socket |
| agent | `refused` | there are none for this process, and why |
| process | `ready` | the process serves the rings |
| process | `stopping` | the process wants to end: send it no more packets, then say `stop` |
| agent | `stop` | answer what has arrived, and end |

The end of the connection is the end of the other side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from droplet_functions.errors import HandoverError
from droplet_functions.rings import ADDRESS, DESCRIPTOR, RingOffsets

VERSION = 1
LONGEST_MESSAGE = 1 << 16
MOST_QUEUES = 252
"""The kernel passes 253 descriptors in one message (SCM_MAX_FD)."""
_LARGEST_RING = 1 << 24
_LARGEST_OFFSET = 1 << 20
_MIN_FRAME, _MAX_FRAME = 2048, 1 << 16

FILL, RX, TX, COMPLETION = "fill", "rx", "tx", "completion"
RINGS = (FILL, RX, TX, COMPLETION)
WORDS = {FILL: ADDRESS, RX: DESCRIPTOR, TX: DESCRIPTOR, COMPLETION: ADDRESS}
PAGE_OFFSETS = {RX: 0, TX: 0x80000000, FILL: 0x100000000, COMPLETION: 0x180000000}
"""Where each ring is mapped from a socket: XDP_PGOFF_RX_RING and so on."""


class RingPlace(NamedTuple):
    """A ring's number of entries, and where its parts are in its mapping."""

    size: int
    offsets: RingOffsets


@dataclass(frozen=True, slots=True)
class QueueDescription:
    """One queue's socket: number of the queue, its mode, and its rings by name."""

    queue: int
    zero_copy: bool
    rings: Mapping[str, RingPlace]


@dataclass(frozen=True, slots=True)
class Handover:
    """What an agent hands over. `longest_packet` is the longest answer in bytes, without metadata."""

    function: str
    frame_size: int
    frame_count: int
    longest_packet: int
    queues: tuple[QueueDescription, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The agent refuses; `reason` is for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent asks the process to answer what has arrived, and to end."""


Message = Handover | Refused | Stop


def hello(function: str) -> bytes:
    """Return the first message of a process."""
    return _json({"type": "hello", "versions": [VERSION], "function": function})


def ready() -> bytes:
    """Return the message of a process that serves its rings."""
    return _json({"type": "ready"})


def stopping() -> bytes:
    """Return the message of a process that wants to end."""
    return _json({"type": "stopping"})


def encode(message: Message) -> bytes:
    """Return an agent's message; for a hand-over, the descriptors go beside it."""
    if isinstance(message, Stop):
        return _json({"type": "stop"})
    if isinstance(message, Refused):
        return _json({"type": "refused", "reason": message.reason})
    return _json({"type": "handover", "version": VERSION, **asdict(message)})


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def decode(raw: bytes) -> Message:
    """Return an agent's message; HandoverError when it is malformed or of another version."""
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise HandoverError(f"the agent's message is not JSON: {error}") from None
    fields = _object(value, "message")
    kind = _text(fields, "", "type")
    if kind == "stop":
        return Stop()
    if kind == "refused":
        return Refused(_text(fields, "", "reason"))
    if kind != "handover":
        raise HandoverError(f"type: {kind!r} is no message of an agent: update droplet_functions")
    if fields.get("version") != VERSION:
        raise HandoverError(
            f"version: the agent hands over by version {fields.get('version')!r}, this library by {VERSION}: update "
            "the older of the two"
        )
    return _handover(fields)


def _handover(fields: Mapping[str, Any]) -> Handover:
    size = _number(fields, "", "frame_size", _MIN_FRAME, _MAX_FRAME)
    if size & (size - 1):
        raise HandoverError(f"frame_size: {size} is no power of two")
    queues = fields.get("queues")
    if not isinstance(queues, list) or not 1 <= len(queues) <= MOST_QUEUES:
        raise HandoverError(f"queues: expected a list of 1 to {MOST_QUEUES}")
    count = _number(fields, "", "frame_count", len(queues), 1 << 32)
    longest = _number(fields, "", "longest_packet", 1, size)
    found = tuple(_queue(one, f"queues[{index}]") for index, one in enumerate(queues))
    return Handover(_text(fields, "", "function"), size, count, longest, found)


def _queue(value: object, path: str) -> QueueDescription:
    fields = _object(value, path)
    zero_copy = fields.get("zero_copy")
    if not isinstance(zero_copy, bool):
        raise HandoverError(f"{path}.zero_copy: expected true or false, got {zero_copy!r}")
    rings = _object(fields.get("rings"), f"{path}.rings")
    places = {name: _ring(rings.get(name), f"{path}.rings.{name}") for name in RINGS}
    return QueueDescription(_number(fields, path, "queue", 0, 1 << 16), zero_copy, places)


def _ring(value: object, path: str) -> RingPlace:
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], list)):
        raise HandoverError(f"{path}: expected [entries, [producer, consumer, descriptors, flags]], got {value!r}")
    size, offsets = value
    if not _is_number(size, 1, _LARGEST_RING) or size & (size - 1):
        raise HandoverError(f"{path}: {size!r} entries, expected a power of two up to {_LARGEST_RING}")
    if len(offsets) != 4 or not all(_is_number(one, 0, _LARGEST_OFFSET) and one % 4 == 0 for one in offsets):
        raise HandoverError(f"{path}: offsets {offsets!r}, expected four multiples of 4 up to {_LARGEST_OFFSET}")
    place = RingOffsets(*offsets)
    if place.descriptors % 8:
        raise HandoverError(f"{path}: entries at {place.descriptors}, expected a multiple of 8")
    return RingPlace(size, place)


def _object(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise HandoverError(f"{path}: expected an object, got {value!r}")
    return value


def _text(fields: Mapping[str, Any], path: str, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise HandoverError(f"{path}{'.' if path else ''}{name}: expected a text, got {value!r}")
    return value


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(fields: Mapping[str, Any], path: str, name: str, least: int, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or not _is_number(value, least, most):
        where = f"{path}{'.' if path else ''}{name}"
        raise HandoverError(f"{where}: expected a number from {least} to {most}, got {value!r}")
    return value
