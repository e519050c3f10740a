"""The probe that one agent sends to another: a Geneve control packet whose option holds a nonce. Pure: bytes only.

The other host's transit XDP returns a request completely, as a reply. Both are Geneve packets (RFC 8926) with the O bit
set, VNI 0 and protocol Ethernet, with one option that is followed by zeros:

    struct probe { be16 class; u8 type; u8 length; u8 kind; u8 zero[3]; u64 nonce }    16 bytes
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

IPV4_HEADER, IPV6_HEADER, UDP_HEADER = 20, 40, 8
NONCE = 8
OPTION_CLASS = 0xFF4D
OPTION_PROBE = 0x03

_CONTROL = 0x80
_ETHERNET = 0x6558
_GENEVE = struct.Struct("!BBHI")
"""struct geneve { u8 version and options' length; u8 flags; be16 protocol; be32 vni and reserved }."""
_OPTION = struct.Struct("!HBB")
"""struct geneve_option { be16 class; u8 type; u8 length in units of 4 bytes }."""
_PROBE = struct.Struct("!B3x8s")
_ETHERNET_HEADER = 14
_LEAST = _GENEVE.size + _OPTION.size + _PROBE.size + _ETHERNET_HEADER


class Kind(IntEnum):
    """The direction of a probe."""

    REQUEST = 1
    REPLY = 2


class ProbePacket(NamedTuple):
    """The contents of a probe: its kind, and a nonce of 8 unguessable bytes."""

    kind: Kind
    nonce: bytes


def headers(address: bytes) -> int:
    """Return the bytes of IP and UDP in front of a probe to a packed address of 4 or 16 bytes."""
    return (IPV4_HEADER if len(address) == 4 else IPV6_HEADER) + UDP_HEADER


def smallest(address: bytes) -> int:
    """Return the length of the smallest probe to a packed address, with its IP header."""
    return headers(address) + _LEAST


def build(kind: Kind, nonce: bytes, length: int) -> bytes:
    """Return a probe as UDP carries it, `length` bytes long; ValueError if that is too short."""
    if length < _LEAST or len(nonce) != NONCE:
        raise ValueError(f"a probe has at least {_LEAST} bytes and a nonce of {NONCE}, not {length} and {len(nonce)}")
    words = (_OPTION.size + _PROBE.size) // 4
    head = _GENEVE.pack(words, _CONTROL, _ETHERNET, 0) + _OPTION.pack(OPTION_CLASS, OPTION_PROBE, _PROBE.size // 4)
    return (head + _PROBE.pack(kind, nonce)).ljust(length, b"\0")


def parse(datagram: bytes) -> ProbePacket | None:
    """Return the contents of a probe, even if it was truncated after its option; None for anything else."""
    if len(datagram) < _GENEVE.size:
        return None
    words, flags, protocol, vni = _GENEVE.unpack_from(datagram)
    if words >> 6 or not flags & _CONTROL or protocol != _ETHERNET or vni >> 8:
        return None
    body = _find_option(datagram[: _GENEVE.size + 4 * words])
    if body is None or len(body) != _PROBE.size:
        return None
    kind, nonce = _PROBE.unpack(body)
    return ProbePacket(Kind(kind), nonce) if kind in (Kind.REQUEST, Kind.REPLY) else None


def _find_option(header: bytes) -> bytes | None:
    """Return the body of the first probe option; options come in any order (RFC 8926, 3.5)."""
    at = _GENEVE.size
    while at + _OPTION.size <= len(header):
        class_, type_, words = _OPTION.unpack_from(header, at)
        end = at + _OPTION.size + 4 * (words & 0x1F)
        if (class_, type_) == (OPTION_CLASS, OPTION_PROBE):
            return header[at + _OPTION.size : end]
        at = end
    return None
