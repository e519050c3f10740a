"""The frames that are sent through contestants: an inner packet in Geneve, in VXLAN, or as the endpoint sends it. Pure.

Sums and lengths are right, since programs and kernel VXLAN look at them: Ethernet, IPv4 (RFC 791), IPv6 (RFC 8200),
UDP (RFC 768), TCP (RFC 9293), Geneve (RFC 8926) and VXLAN (RFC 7348).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

VNI, DIVIDED_VNI = 7, 8
GENEVE_PORT, VXLAN_PORT = 6081, 4789
INNER_LENGTH = 60
"""Bytes of the inner Ethernet frame with IPv4 and UDP, without the frame check sequence; IPv6 adds 20."""
FULL = 1400
"""Bytes of a full inner packet, from its IP header on: fits over both families."""

UDP, TCP = 17, 6
IPV4, IPV6, VLAN = 0x0800, 0x86DD, 0x8100

LOCAL_MAC, REMOTE_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
PEER_MAC = bytes.fromhex("060000000002")
"""The other host's interface; the far ends have other addresses, so that a stack there drops a frame at once."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """Addresses of one family: of the host that is measured, of the one that it talks to, and of a third one."""

    own: str
    peer: str
    third: str


OVER_IPV4 = Underlay("192.0.2.1", "192.0.2.2", "192.0.2.3")
OVER_IPV6 = Underlay("2001:db8::1", "2001:db8::2", "2001:db8::3")


@dataclass(frozen=True, slots=True)
class Overlay:
    """Addresses of one family in the overlay.

    `local` is on the measured host, as is `beside`; of the others, `remote` is reached by a direct path, `documented`
    is known from documents, `vxlan` is of a network that speaks VXLAN, `unknown` is known to bouncers only.
    """

    local: str
    remote: str
    beside: str
    documented: str
    vxlan: str
    unknown: str


INSIDE_IPV4 = Overlay("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")
INSIDE_IPV6 = Overlay("fd00::1", "fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::6")


def packed(address: str) -> bytes:
    """Return an address as 4 or 16 bytes."""
    return ip_address(address).packed


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """Return an IP packet of the addresses' family; IPv4 with DF set."""
    ends = packed(source) + packed(destination)
    if len(ends) == 32:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def _summed(source: str, destination: str, protocol: int, segment: bytes, at: int) -> bytes:
    """Return a segment with its checksum at the offset `at`."""
    pseudo = packed(source) + packed(destination) + struct.pack("!II", len(segment), protocol)
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment) or 0xFFFF) + segment[at + 2 :]


def udp(source: str, destination: str, ports: tuple[int, int], payload: bytes, *, summed: bool = True) -> bytes:
    """Return an IP packet with UDP, with a checksum or without one."""
    segment = struct.pack("!4H", *ports, 8 + len(payload), 0) + payload
    return ip(source, destination, UDP, _summed(source, destination, UDP, segment, 6) if summed else segment)


def full_tcp(source: str, destination: str) -> bytes:
    """Return a TCP packet of `FULL` bytes, as bulk transfers send them."""
    payload = FULL - 20 - (40 if ":" in source else 20)
    segment = struct.pack("!HHIIBBHHH", 1000, 2000, 1, 1, 0x50, 0x10, 65535, 0, 0) + bytes(payload)
    return ip(source, destination, TCP, _summed(source, destination, TCP, segment, 16))


def small_udp(source: str, destination: str) -> bytes:
    """Return a UDP packet with 18 bytes of payload."""
    return udp(source, destination, (1000, 2000), bytes(INNER_LENGTH - 42))


def ethernet(destination: bytes, source: bytes, packet: bytes, vlan: int = 0) -> bytes:
    """Return an Ethernet frame with an IP packet inside, with an 802.1Q tag when `vlan` is not 0."""
    kind = IPV6 if packet[0] >> 4 == 6 else IPV4
    tag = struct.pack("!HH", VLAN, vlan) if vlan else b""
    return destination + source + tag + struct.pack("!H", kind) + packet


def sent_by_endpoint(packet: bytes | None = None) -> bytes:
    """Return what the endpoint on the measured host sends, by default to the other one over IPv4."""
    packet = packet or small_udp(INSIDE_IPV4.local, INSIDE_IPV4.remote)
    return ethernet(REMOTE_MAC, LOCAL_MAC, packet)


def for_endpoint(packet: bytes | None = None) -> bytes:
    """Return what the other endpoint sends to the one on the measured host, by default over IPv4."""
    packet = packet or small_udp(INSIDE_IPV4.remote, INSIDE_IPV4.local)
    return ethernet(LOCAL_MAC, REMOTE_MAC, packet)


def rts_option(origin: str) -> bytes:
    """Return the return-to-sender option, by which bouncers and dividers say where a packet is from."""
    address = packed(origin)
    return struct.pack("!HBBBBH", 0xFF4D, 0x01, (4 + len(address)) // 4, 1, 0, 0) + address


def unknown_options(count: int) -> bytes:
    """Return options of 8 bytes each that are unknown and not critical."""
    return count * struct.pack("!HBBI", 0x0102, 0x03, 1, 0)


def in_geneve(
    own_mac: bytes,
    inner: bytes | None = None,
    *,
    over: Underlay = OVER_IPV4,
    options: bytes = b"",
    vni: int = VNI,
    summed: bool = False,
    vlan: int = 0,
) -> bytes:
    """Return an inner frame as it arrives in Geneve, by default `for_endpoint` over IPv4 without an outer checksum."""
    header = struct.pack("!BBHI", len(options) // 4, 0, 0x6558, vni << 8) + options
    payload = header + (inner or for_endpoint())
    outer = udp(over.peer, over.own, (50000, GENEVE_PORT), payload, summed=summed)
    return ethernet(own_mac, PEER_MAC, outer, vlan)


def in_vxlan(own_mac: bytes, inner: bytes | None = None) -> bytes:
    """Return an inner frame as it arrives in VXLAN over IPv4, by default `for_endpoint`."""
    payload = struct.pack("!II", 0x08000000, VNI << 8) + (inner or for_endpoint())
    outer = udp(OVER_IPV4.peer, OVER_IPV4.own, (50000, VXLAN_PORT), payload, summed=False)
    return ethernet(own_mac, PEER_MAC, outer)
