"""The metadata in front of a packet: `struct function_meta` of bpf/lib/function_meta.h, in host byte order.

```c
struct function_meta {
    __u8 version, point, direction, verdict, user_reason, pad0;
    __u16 drop_reason;
    __u32 vni, endpoint_slot;
    __u16 packet_offset, packet_length;
    __u32 label;
    __u64 token;
};
```
tests/unit/test_function_meta.py compares every offset with the header.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from droplet_functions.drop_reasons import DROP_REASONS
from droplet_functions.verdict import Verdict, VerdictCode

VERSION = 1
META = Struct("=BBBBBxHIIHHIQ")
META_SIZE = META.size
ADDRESS_SIZE = 16
"""Bytes between metadata and packet that hold the destination of SEND_TO."""
VERDICT_AT = 3
REASON_AT = 4
EXTENT = Struct("=B15xHH")
"""Version, packet_offset and packet_length: what is checked of each packet."""


class Point(IntEnum):
    """Where in the pipeline a packet was taken (`enum function_point`)."""

    FROM_ENDPOINT = 1
    TO_ENDPOINT = 2
    FORWARDED = 3
    FROM_UNDERLAY = 4
    PASSED = 5
    DROPPED = 6


class Direction(IntEnum):
    """Where a packet was going (`enum function_direction`): from an endpoint, or from the underlay."""

    EGRESS = 1
    INGRESS = 2


class Meta(NamedTuple):
    """What the data plane says of a packet. `endpoint_slot` and `drop_reason` are 0 where they do not apply.

    `label` is that of the sending endpoint, 0 for none: docs/functions.md says which packets have one.

    `point` and `direction` are plain numbers when a newer data plane sends values that this library does not know.
    """

    point: int = Point.FROM_ENDPOINT
    direction: int = Direction.EGRESS
    vni: int = 0
    endpoint_slot: int = 0
    drop_reason: int = 0
    token: int = 0
    label: int = 0

    @property
    def drop_reason_name(self) -> str:
        """The name of `drop_reason`, as telemetry has it; its number in digits if this library does not know it."""
        return DROP_REASONS.get(self.drop_reason, str(self.drop_reason))

    def pack(self, packet_length: int, packet_offset: int = META_SIZE) -> bytes:
        """Return the struct as the data plane writes it, without a verdict."""
        return META.pack(
            *(VERSION, self.point, self.direction, VerdictCode.NONE, 0, self.drop_reason),
            *(self.vni, self.endpoint_slot, packet_offset, packet_length, self.label, self.token),
        )


class Answer(NamedTuple):
    """What an answered frame says: for the data plane's side, tests and tools."""

    meta: Meta
    verdict: Verdict
    packet: bytes


def _known(kind: type[Point] | type[Direction], value: int) -> int:
    try:
        return kind(value)
    except ValueError:
        return value


def unpack(raw: bytes | bytearray | memoryview, offset: int = 0) -> Meta:
    """Return the metadata at an offset; struct.error when it ends beyond the buffer."""
    _, point, direction, _, _, drop_reason, vni, slot, _, _, label, token = META.unpack_from(raw, offset)
    return Meta(_known(Point, point), _known(Direction, direction), vni, slot, drop_reason, token, label)


def answered(meta: bytes, verdict: Verdict, packet_length: int) -> bytes:
    """Return what stands in front of an answered packet: received metadata, a verdict and, for SEND_TO, its address."""
    version, point, direction, _, _, drop_reason, vni, slot, _, _, label, token = META.unpack(meta)
    offset = META_SIZE + len(verdict.address)
    head = META.pack(
        *(version, point, direction, verdict.code, verdict.reason, drop_reason),
        *(vni, slot, offset, packet_length, label, token),
    )
    return head + verdict.address


def originated(endpoint_slot: int, packet_length: int) -> bytes:
    """Return what stands in front of a packet of a function's own, which a function endpoint sends: it has no token."""
    return META.pack(
        *(VERSION, Point.TO_ENDPOINT, Direction.EGRESS, VerdictCode.SEND, 0, 0),
        *(0, endpoint_slot, META_SIZE, packet_length, 0, 0),
    )


def read_answer(frame: bytes) -> Answer:
    """Return what an answered frame says; ValueError when it is malformed, as the data plane would find."""
    if len(frame) < META_SIZE:
        raise ValueError(f"an answer of {len(frame)} bytes has no room for metadata of {META_SIZE}")
    version, _, _, code, reason, _, _, _, offset, length, _, _ = META.unpack_from(frame)
    if version != VERSION:
        raise ValueError(f"metadata of version {version}, expected {VERSION}")
    if code in (VerdictCode.NONE, VerdictCode.KEEP) or code not in iter(VerdictCode):
        raise ValueError(f"verdict {code} is not one that a function may answer")
    expected = META_SIZE + (ADDRESS_SIZE if code == VerdictCode.SEND_TO else 0)
    if offset != expected or offset + length != len(frame):
        raise ValueError(f"packet at {offset} with {length} bytes in a frame of {len(frame)}, expected at {expected}")
    return Answer(unpack(frame), Verdict(VerdictCode(code), reason, frame[META_SIZE:offset]), frame[offset:])
