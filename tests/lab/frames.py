"""Frames as bytes: what an honest kernel would not send."""

from __future__ import annotations

import socket
import struct

BROADCAST = b"\xff" * 6
GENEVE_PORT = 6081
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return destination + source + struct.pack("!H", ethertype) + payload


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, payload: bytes, protocol: int = socket.IPPROTO_UDP, ttl: int = 64) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    length = 20 + len(payload)

    def header(sum_: int) -> bytes:
        return struct.pack("!BBHHHBBH", 0x45, 0, length, 7, 0x4000, ttl, protocol, sum_) + addresses

    return header(checksum(header(0))) + payload


def udp(destination_port: int, payload: bytes = b"spoofed", source_port: int = 40000) -> bytes:
    """Return a UDP datagram without a checksum (RFC 768 allows 0)."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def arp(operation: int, sender_mac: bytes, sender: str, target: str, target_mac: bytes = bytes(6)) -> bytes:
    return (
        struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
        + sender_mac
        + socket.inet_aton(sender)
        + target_mac
        + socket.inet_aton(target)
    )


def geneve(vni: int, inner: bytes) -> bytes:
    """Return a Geneve packet (RFC 8926, section 3.4) without options that carries an Ethernet frame."""
    return struct.pack("!BBHI", 0, 0, 0x6558, vni << 8) + inner
