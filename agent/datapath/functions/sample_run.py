"""Runs a user's function on sample frames before it sees packets, in a small program of its own.

The program calls the function as the agent's programs do, behind a frame of its own (`isolation`). The verifier's
complaints about it therefore concern the user's instructions alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from agent.datapath.bpf.compiler import CompiledProgram, Relocation
from agent.datapath.functions.linker import map_of
from agent.datapath.functions.user_program import UserProgram

SAMPLE = "function:sample"
"""The map with struct stage of one frame, but for its pointers."""
DESCRIPTION = struct.Struct("=24x16s6I4H4B28x")
"""struct stage of bpf/stage.h: three pointers, peer, vni, length, packets, sender, receiver, label, inner, transport,
ethertype, drop_reason, protocol, point, direction, flags, and what the function writes."""
NO_ENDPOINT = 0xFFFFFFFF
_FROM_ENDPOINT, _TO_ENDPOINT, _FROM_UNDERLAY, _PASSED, _DROPPED = 1, 2, 4, 5, 6
_TO_TUNNEL = 50
_EGRESS, _INGRESS, _NO_PORTS = 1, 2, 2
_IPV4, _IPV6, _TCP, _UDP = 0x0800, 0x86DD, 6, 17
GO_ON, DROP, SEND_BACK, SEND_TO, SEND, HAND_OVER = 1, 2, 3, 4, 5, 6
_NAMES = {
    GO_ON: "STAGE_GO_ON",
    DROP: "STAGE_DROP",
    SEND_BACK: "STAGE_SEND_BACK",
    SEND_TO: "STAGE_SEND_TO",
    SEND: "STAGE_SEND",
    HAND_OVER: "STAGE_HAND_OVER",
}

_KEY = -8


class Sample(NamedTuple):
    """A frame, and the fields of struct stage that describe it (DESCRIPTION)."""

    name: str
    frame: bytes
    description: bytes


def _op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, imm)


def harness(program: UserProgram) -> tuple[CompiledProgram, int]:
    """Return an XDP program that calls an isolated program on the frame, and the number of its first instruction.

    It returns the verdict.
    """
    code = [_op(0xBF, 6, 1), _op(0x62, 10, 0, _KEY)]
    relocations = [Relocation(len(code), SAMPLE)]
    code += [_op(0x18, 1), _op(0), _op(0xBF, 2, 10), _op(0x07, 2, 0, 0, _KEY), _op(0x85, imm=1)]
    code += [_op(0x55, 0, 0, 1), _op(0x95)]
    code += [_op(0xBF, 1, 0), _op(0x61, 2, 6, 0), _op(0x61, 3, 6, 4)]
    code += [_op(0x85, 0, 1, 0, 1), _op(0x95)]
    start = len(code)
    relocations += [Relocation(start + one.index, map_of(one.map)) for one in program.relocations]
    return CompiledProgram("function_sample", b"".join(code) + program.instructions, tuple(relocations)), start


def is_verdict(verdict: int, point: int) -> bool:
    """Return whether a verdict is valid at a point; where functions only observe, all that are defined are."""
    if verdict == SEND:
        return point in {_TO_ENDPOINT, _DROPPED}
    return verdict in _NAMES and not (verdict in {SEND_TO, HAND_OVER} and point == _PASSED)


def samples(point: int) -> Iterator[Sample]:
    """Yield frames as they come at a stage point: whole, minimal and cut short."""
    outer = point == _FROM_UNDERLAY
    for family in (_IPV4, _IPV6):
        for protocol in (_TCP, _UDP):
            whole = _packet(family, protocol)
            label = f"{'IPv4' if family == _IPV4 else 'IPv6'} {'TCP' if protocol == _TCP else 'UDP'} packet"
            transport = 14 + (20 if family == _IPV4 else 40)
            header = 20 if protocol == _TCP else 8
            for name, frame in (
                (f"an {label}", whole),
                (f"an {label} without payload", whole[: transport + header]),
                (f"an {label} cut behind its IP header", whole[:transport]),
            ):
                yield _sample(name, frame, point, family, protocol, transport, outer=outer)
    yield _sample("an Ethernet header alone", bytes(12) + b"\x08\x06", point, 0, 0, 0, outer=outer)
    yield _sample("an ARP packet", bytes(12) + b"\x08\x06" + bytes(46), point, 0, 0, 0, outer=outer)


def _sample(name: str, frame: bytes, point: int, family: int, protocol: int, transport: int, *, outer: bool) -> Sample:
    sent = point == _FROM_ENDPOINT
    inner = _TO_TUNNEL if outer else 0
    whole = _packet(_IPV4, _UDP)[:42] + bytes(8) + frame if outer else frame
    description = DESCRIPTION.pack(
        bytes(16),
        *(0 if point == _PASSED else 7, len(whole), 1, 0 if sent else NO_ENDPOINT, NO_ENDPOINT, 0),
        *(inner, transport, family, 1 if point == _DROPPED else 0),
        *(protocol, point, _EGRESS if sent else _INGRESS, 0 if transport else _NO_PORTS),
    )
    return Sample(name, whole, description)


def _packet(family: int, protocol: int) -> bytes:
    """Return a packet of an endpoint: Ethernet, IP, TCP or UDP, and 32 bytes. Its checksums are zeros."""
    header = struct.pack("!HHIIHHHH", 40000, 80, 1, 1, 5 << 12 | 2, 512, 0, 0)
    segment = header if protocol == _TCP else struct.pack("!HHHH", 40000, 53, 40, 0)
    segment += bytes(range(32))
    if family == _IPV4:
        ip = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 1, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
        )
    else:
        ip = struct.pack("!IHBB16s16s", 6 << 28, len(segment), protocol, 64, bytes(15) + b"\1", bytes(15) + b"\2")
    return bytes((2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)) + family.to_bytes(2, "big") + ip + segment
