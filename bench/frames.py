"""The frames that are sent through contestants: 60 bytes of UDP inside, in Geneve, in VXLAN, or as they are. Pure.

Sums and lengths are right, since kernel VXLAN looks at them: Ethernet, IPv4 (RFC 791), UDP (RFC 768), Geneve (RFC
8926) and VXLAN (RFC 7348).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

VNI = 7
GENEVE_PORT, VXLAN_PORT = 6081, 4789
INNER_LENGTH = 60
"""Bytes of the inner Ethernet frame, without the frame check sequence."""

OWN, PEER = "192.0.2.1", "192.0.2.2"
"""Substrate addresses: of the host that is measured, and of the other one."""
HERE, THERE = "10.0.0.1", "10.0.0.2"
"""Overlay addresses: of the endpoint on the measured host, and of the other one."""
HERE_MAC, THERE_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
PEER_MAC = bytes.fromhex("060000000002")
"""The other host's interface; the far ends have other addresses, so that a stack there drops a frame at once."""


def packed(address: str) -> bytes:
    """Return an IPv4 address as 4 bytes."""
    return IPv4Address(address).packed


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_udp(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return an IPv4 packet with UDP whose checksum is 0: none."""
    udp = struct.pack("!4H", *ports, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0)
    head += packed(source) + packed(destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def ethernet(destination: bytes, source: bytes, packet: bytes) -> bytes:
    """Return an Ethernet frame with IPv4 inside."""
    return destination + source + b"\x08\x00" + packet


def sent_by_endpoint() -> bytes:
    """Return what the endpoint on the measured host sends to the other one."""
    packet = ipv4_udp(HERE, THERE, (1000, 2000), bytes(INNER_LENGTH - 42))
    return ethernet(THERE_MAC, HERE_MAC, packet)


def for_endpoint() -> bytes:
    """Return what the other endpoint sends to the one on the measured host."""
    packet = ipv4_udp(THERE, HERE, (2000, 1000), bytes(INNER_LENGTH - 42))
    return ethernet(HERE_MAC, THERE_MAC, packet)


def in_geneve(own_mac: bytes) -> bytes:
    """Return `for_endpoint` as it arrives in Geneve."""
    header = struct.pack("!BBHI", 0, 0, 0x6558, VNI << 8)
    return ethernet(own_mac, PEER_MAC, ipv4_udp(PEER, OWN, (50000, GENEVE_PORT), header + for_endpoint()))


def in_vxlan(own_mac: bytes) -> bytes:
    """Return `for_endpoint` as it arrives in VXLAN."""
    header = struct.pack("!II", 0x08000000, VNI << 8)
    return ethernet(own_mac, PEER_MAC, ipv4_udp(PEER, OWN, (50000, VXLAN_PORT), header + for_endpoint()))
