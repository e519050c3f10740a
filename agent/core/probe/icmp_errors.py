"""Parses ICMP (RFC 792, 1191) and ICMPv6 (RFC 4443) errors that quote a tunnel packet or a probe of ours. Pure.

Anything else, and anything inconsistent, is None: anyone who can reach the host may send such messages. The result is
what an unverified sender reports; `agent.core.probe.packet_too_big` decides how far a reported MTU is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Container
from enum import Enum
from typing import NamedTuple

from agent.core.probe import probe_packet
from agent.core.probe.paths import Path

IPPROTO_ICMP, IPPROTO_UDP, IPPROTO_ICMPV6 = 1, 17, 58
IPV4_LEAST_MTU = 68
"""RFC 791, 3.2: no link carries less."""
IPV6_LEAST_MTU = 1280
"""RFC 8200, 5; PTBs with a smaller MTU are to be discarded (RFC 8201, 4)."""
PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)
"""Likely MTUs of a router that does not report its own (RFC 1191, 7.1)."""

_ICMP = struct.Struct("!BBHHH")
"""struct { u8 type; u8 code; be16 checksum; be16 unused; be16 mtu }."""
_ICMPV6 = struct.Struct("!BBHI")
"""struct { u8 type; u8 code; be16 checksum; be32 mtu }."""
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_PORTS = struct.Struct("!HH")
_UNREACHABLE, _FRAGMENTATION_NEEDED = 3, 4
_UNREACHABLE_V6, _TOO_BIG_V6 = 1, 2
_OFFSET = 0x1FFF


class Problem(Enum):
    """The reason why our packet was dropped."""

    TOO_LARGE = "too large"
    UNREACHABLE = "unreachable"


class TunnelError(NamedTuple):
    """An error about a path; `mtu` is set with TOO_LARGE, `nonce` if the error quotes a probe."""

    path: Path
    problem: Problem
    mtu: int | None = None
    nonce: bytes | None = None


class _Quote(NamedTuple):
    """The quoted packet: its path, the IP packet's length, and the quoted part of the UDP datagram."""

    path: Path
    length: int
    datagram: bytes


def parse_icmp(packet: bytes, paths: Container[Path], ports: Collection[int]) -> TunnelError | None:
    """Parse an IPv4 packet as received from a raw socket. `ports`: the tunnels' UDP ports, Geneve's first."""
    if len(packet) < _IPV4.size:
        return None
    first, _, total, _, _, _, protocol, _, _, _ = _IPV4.unpack_from(packet)
    start = 4 * (first & 0xF)
    if first >> 4 != 4 or start < _IPV4.size or protocol != IPPROTO_ICMP or not start + _ICMP.size <= total:
        return None
    message = packet[start:total]
    if total > len(packet) or checksum(message) != 0:
        return None
    type_, code, _, _, mtu = _ICMP.unpack_from(message)
    quote = _quote_v4(message[_ICMP.size :])
    if type_ != _UNREACHABLE or quote is None:
        return None
    if code != _FRAGMENTATION_NEEDED:
        return _error(quote, Problem.UNREACHABLE, None, paths, ports)
    mtu = mtu or next((plateau for plateau in PLATEAUS if plateau < quote.length), 0)
    if not IPV4_LEAST_MTU <= mtu < quote.length:
        return None
    return _error(quote, Problem.TOO_LARGE, mtu, paths, ports)


def parse_icmpv6(
    message: bytes, source: bytes, destination: bytes, paths: Container[Path], ports: Collection[int]
) -> TunnelError | None:
    """Parse an ICMPv6 message between packed addresses. `ports` as for `parse_icmp`."""
    if len(message) < _ICMPV6.size or len(source) != 16 or len(destination) != 16:
        return None
    pseudo_header = source + destination + struct.pack("!II", len(message), IPPROTO_ICMPV6)  # RFC 8200, 8.1
    if checksum(pseudo_header + message) != 0:
        return None
    type_, _, _, mtu = _ICMPV6.unpack_from(message)
    quote = _quote_v6(message[_ICMPV6.size :])
    if quote is None or type_ not in (_UNREACHABLE_V6, _TOO_BIG_V6):
        return None
    if type_ == _UNREACHABLE_V6:
        return _error(quote, Problem.UNREACHABLE, None, paths, ports)
    if not IPV6_LEAST_MTU <= mtu < quote.length:
        return None
    return _error(quote, Problem.TOO_LARGE, mtu, paths, ports)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of `data`: 0 if it includes a correct one."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _quote_v4(quoted: bytes) -> _Quote | None:
    if len(quoted) < _IPV4.size:
        return None
    first, _, total, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(quoted)
    start = 4 * (first & 0xF)
    if first >> 4 != 4 or start < _IPV4.size or protocol != IPPROTO_UDP or fragment & _OFFSET:
        return None
    return _Quote(Path(source, destination), total, quoted[start:])


def _quote_v6(quoted: bytes) -> _Quote | None:
    """Our tunnels have no extension headers: a quote with one is not ours."""
    if len(quoted) < _IPV6.size:
        return None
    first, length, following, _, source, destination = _IPV6.unpack_from(quoted)
    if first >> 28 != 6 or following != IPPROTO_UDP:
        return None
    return _Quote(Path(source, destination), _IPV6.size + length, quoted[_IPV6.size :])


def _error(
    quote: _Quote, problem: Problem, mtu: int | None, paths: Container[Path], ports: Collection[int]
) -> TunnelError | None:
    """Return the error if the quoted packet went from a droplet of ours to a known one, to a tunnel's port."""
    if len(quote.datagram) < probe_packet.UDP_HEADER or quote.path not in paths:
        return None
    _, port = _PORTS.unpack_from(quote.datagram)
    if port not in ports:
        return None
    probe = probe_packet.parse(quote.datagram[probe_packet.UDP_HEADER :])
    return TunnelError(quote.path, problem, mtu, probe.nonce if probe else None)
