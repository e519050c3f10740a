"""Builds frames byte by byte, right by default and wrong where asked: no code is shared with what is tested."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP = 1, 6, 17
RTS_CLASS, RTS_TYPE = 0xFF4D, 1
GATEWAY_MAC = bytes.fromhex("02d201e70001")


def ip(text: str) -> bytes:
    return IPv4Address(text).packed


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data + b"\0" * (len(data) % 2))) if data else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: bytes, source: bytes, kind: int = IPV4, payload: bytes = b"") -> bytes:
    return destination + source + struct.pack("!H", kind) + payload


def ipv4(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = UDP,
    ttl: int = 64,
    tos: int = 0,
    fragment: int = 0,
    options: bytes = b"",
    version: int = 4,
    length: int | None = None,
    header_words: int | None = None,
) -> bytes:
    words = 5 + len(options) // 4 if header_words is None else header_words
    total = 20 + len(options) + len(payload) if length is None else length
    head = struct.pack("!BBHHHBBH", version << 4 | words, tos, total, 0, fragment, ttl, protocol, 0)
    head += ip(source) + ip(destination) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: int = 1000, destination: int = 2000, data: bytes = b"data", length: int | None = None) -> bytes:
    return struct.pack("!4H", source, destination, 8 + len(data) if length is None else length, 0) + data


def echo(data: bytes = b"ping" * 4, kind: int = 8, code: int = 0) -> bytes:
    head = struct.pack("!BBHHH", kind, code, 0, 7, 1)
    return head[:2] + struct.pack("!H", checksum(head + data)) + head[4:] + data


def arp(
    sender_mac: bytes,
    sender: str,
    target: str,
    *,
    operation: int = 1,
    target_mac: bytes = bytes(6),
    head: bytes = bytes.fromhex("0001080006 04".replace(" ", "")),
) -> bytes:
    return head + struct.pack("!H", operation) + sender_mac + ip(sender) + target_mac + ip(target)


def option(class_: int, kind: int, body: bytes = b"") -> bytes:
    return struct.pack("!HBB", class_, kind, len(body) // 4) + body


def rts(origin: str, bounces: int = 0) -> bytes:
    return option(RTS_CLASS, RTS_TYPE, bytes([bounces, 0, 0, 0]) + ip(origin))


def geneve(
    vni: int,
    inner: bytes,
    *,
    options: bytes = b"",
    version: int = 0,
    flags: int = 0,
    protocol: int = 0x6558,
    option_words: int | None = None,
) -> bytes:
    words = len(options) // 4 if option_words is None else option_words
    return struct.pack("!BBHI", version << 6 | words, flags, protocol, vni << 8) + options + inner
