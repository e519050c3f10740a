"""Parses frames strictly by the RFCs; None if a part is invalid. For the oracle; shares no code with the programs."""

from __future__ import annotations

import struct
from typing import NamedTuple

IPV4, IPV6, ARP, VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
UDP, TCP, ICMP, ICMPV6, FRAGMENT, AUTH = 17, 6, 1, 58, 44, 51
EXTENSIONS = {0, 43, 44, 51, 60, 135, 139, 140}
"""RFC 8200 section 4, and the registry of its section 4.8's kinds that have a length."""
UNFOUND = 256
"""The protocol of a packet whose extension headers end behind it."""
MOST_EXTENSIONS = 8
"""The extension headers that the programs go through: MAX_EXTENSIONS of bpf/lib/transport.h."""
MAPPED = bytes(10) + b"\xff\xff"


def total_of(data: bytes) -> int:
    """Return the ones' complement sum of 16-bit words: 0xffff over data with a right checksum in it (RFC 1071)."""
    padded = data + b"\0" if len(data) & 1 else data
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Ip(NamedTuple):
    """An IP packet whose lengths add up (RFC 791, RFC 8200). `at` and `end` count from the frame's start."""

    source: bytes
    destination: bytes
    tos: int
    ttl: int
    at: int
    end: int
    protocol: int
    transport: int
    """Where what follows all headers begins."""
    plain: bool
    """Without options or extension headers."""
    later: bool
    fragment: bool
    never: bool
    """IPv4's DF."""
    summed: bool
    """IPv4's checksum is right."""


class Udp(NamedTuple):
    """A UDP datagram as long as IP says (RFC 768). `check` is None without a checksum, else whether it is right.

    `unfinished`: the sum of the pseudo-header stands in its place, for a device to complete.
    """

    source: int
    destination: int
    at: int
    end: int
    check: bool | None
    unfinished: bool


class Tunnel(NamedTuple):
    """A tunnel packet whose headers are sound (RFC 8926 section 3, RFC 7348 section 5)."""

    destination_mac: bytes
    source_mac: bytes
    vlan: int | None
    """The whole tag's control word, None without one."""
    ip: Ip
    udp: Udp
    is_vxlan: bool
    vni: int
    flags: int
    protocol: int
    options: tuple[tuple[int, int, bytes], ...]
    """Class, type and body."""
    inner: bytes

    def option(self, kind: int) -> bytes | None:
        """Return the body of our last option of a type."""
        return next((body for class_, k, body in reversed(self.options) if class_ == 0xFF4D and k == kind), None)


def read_ipv4(frame: bytes, at: int, limit: int) -> Ip | None:
    if limit - at < 20:
        return None
    first, tos, total, _, offset, ttl, protocol, _ = struct.unpack_from("!BBHHHBBH", frame, at)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or total < header or at + total > limit:
        return None
    summed = total_of(frame[at : at + header]) == 0xFFFF
    later = bool(offset & 0x1FFF)
    return Ip(
        MAPPED + frame[at + 12 : at + 16], MAPPED + frame[at + 16 : at + 20], tos, ttl, at, at + total, protocol,
        at + header, header == 20, later, later or bool(offset & 0x2000), bool(offset & 0x4000), summed,
    )  # fmt: skip


def read_ipv6(frame: bytes, at: int, limit: int) -> Ip | None:
    if limit - at < 40:
        return None
    word, payload, protocol, hops = struct.unpack_from("!IHBB", frame, at)
    end = at + 40 + payload
    if word >> 28 != 6 or end > limit:
        return None
    found = _behind_extensions(frame, at + 40, end, protocol)
    protocol, transport, later, fragment = found or (UNFOUND, end, False, False)
    return Ip(
        frame[at + 8 : at + 24], frame[at + 24 : at + 40], word >> 20 & 0xFF, hops, at, end, protocol, transport,
        transport == at + 40, later, fragment, True, True,
    )  # fmt: skip


def _behind_extensions(frame: bytes, at: int, end: int, protocol: int) -> tuple[int, int, bool, bool] | None:
    """Return what stands behind the headers, None when they end behind the packet; FRAGMENT inside of a fragment."""
    fragment = False
    while protocol in EXTENSIONS:
        if at + 8 > end:
            return None
        following, length = frame[at], frame[at + 1]
        if protocol == FRAGMENT and fragment:
            return protocol, at, False, True
        if protocol == FRAGMENT:
            offset = int.from_bytes(frame[at + 2 : at + 4], "big")
            fragment = fragment or bool(offset & 0xFFF9)
            if offset & 0xFFF8:
                return following, at + 8, True, True
            at += 8
        else:
            at += 8 + length * (4 if protocol == AUTH else 8)
        protocol = following
    return protocol, at, False, fragment


def has_many_extensions(frame: bytes, ip: Ip) -> bool:
    """Say whether the programs stop before the transport header of a sound packet: behind more than 8 headers."""
    at, protocol, count = ip.at + 40, frame[ip.at + 6], 0
    while not ip.source.startswith(MAPPED) and protocol in EXTENSIONS and at < ip.transport:
        length = 0 if protocol == FRAGMENT else frame[at + 1] * (4 if protocol == AUTH else 8)
        protocol, at, count = frame[at], at + 8 + length, count + 1
    return count > MOST_EXTENSIONS


def hides_discovery(ip: Ip) -> bool:
    """Say whether a fragment may be one of neighbour discovery, though it does not show it (RFC 6980, RFC 7112)."""
    if ip.source.startswith(MAPPED) or ip.later:
        return False
    cut_off = ip.protocol == ICMPV6 and ip.fragment and ip.transport >= ip.end
    return cut_off or ip.protocol in (FRAGMENT, UNFOUND)


def read_ip(frame: bytes, kind: int, at: int, limit: int) -> Ip | None:
    if kind == IPV4:
        return read_ipv4(frame, at, limit)
    return read_ipv6(frame, at, limit) if kind == IPV6 else None


def read_inner(frame: bytes) -> tuple[int, Ip | None]:
    """Return the protocol of an untagged Ethernet frame and its IP packet, when it has one."""
    kind = int.from_bytes(frame[12:14], "big")
    return kind, read_ip(frame, kind, 14, len(frame))


def pseudo(ip: Ip, protocol: int, length: int) -> bytes:
    if ip.source[:12] == MAPPED:
        return ip.source[12:] + ip.destination[12:] + struct.pack("!HH", protocol, length)
    return ip.source + ip.destination + struct.pack("!II", length, protocol)


def is_transport_right(frame: bytes, ip: Ip, protocol: int) -> bool:
    """Return whether the checksum of a whole TCP, UDP or ICMPv6 message behind a packet's headers is right."""
    data = frame[ip.transport : ip.end]
    return total_of(pseudo(ip, protocol, len(data)) + data) == 0xFFFF


def read_udp(frame: bytes, ip: Ip) -> Udp | None:
    at = ip.transport
    if ip.protocol != UDP or ip.fragment or ip.end - at < 8:
        return None
    source, destination, length, check = struct.unpack_from("!4H", frame, at)
    if length != ip.end - at:
        return None
    right = is_transport_right(frame, ip, UDP) if check else None
    return Udp(source, destination, at, ip.end, right, check == total_of(pseudo(ip, UDP, length)))


def read_options(data: bytes) -> tuple[tuple[int, int, bytes], ...] | None:
    at, found = 0, []
    while at < len(data):
        if at + 4 > len(data):
            return None
        class_, kind, length = struct.unpack_from("!HBB", data, at)
        size = 4 + (length & 31) * 4
        if at + size > len(data):
            return None
        found.append((class_, kind, data[at + 4 : at + size]))
        at += size
    return tuple(found)


def read_tunnel(frame: bytes, geneve: int, vxlan: int) -> Tunnel | None:
    """Read a whole frame; `geneve` and `vxlan` are ports, 0 for none."""
    kind, at, vlan = int.from_bytes(frame[12:14], "big"), 14, None
    if kind == VLAN and len(frame) >= 18:
        vlan, kind, at = int.from_bytes(frame[14:16], "big"), int.from_bytes(frame[16:18], "big"), 18
    ip = read_ip(frame, kind, at, len(frame))
    udp = read_udp(frame, ip) if ip else None
    if not ip or not udp or udp.destination not in (geneve, vxlan) or not udp.destination or udp.end - udp.at < 16:
        return None
    head, after = frame[udp.at + 8 : udp.at + 16], udp.at + 16
    vni = int.from_bytes(head[4:7], "big")
    macs = frame[:6], frame[6:12]
    if udp.destination == vxlan:
        if not head[0] & 8:
            return None
        return Tunnel(*macs, vlan, ip, udp, True, vni, head[0], 0x6558, (), frame[after : udp.end])
    length = (head[0] & 63) * 4
    if head[0] >> 6 or after + length > udp.end:
        return None
    options = read_options(frame[after : after + length])
    if options is None:
        return None
    protocol = int.from_bytes(head[2:4], "big")
    return Tunnel(*macs, vlan, ip, udp, False, vni, head[1], protocol, options, frame[after + length : udp.end])
