"""Layers of a frame, built from the inside out: right by default, and now and then wrong in one place.

`RandomSource.wrong` is how often a field is wrong. Each layer's sums are taken over what is inside as it is, so that a
wrong inner layer is reached through right outer ones. Shares no code with what is tested, nor with the check's parser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

IPV4, ARP, IPV6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
ICMP, TCP, UDP, ICMPV6, FRAGMENT, SCTP = 1, 6, 17, 58, 44, 132
ICMP_CHECK, UDP_CHECK, TCP_CHECK = 2, 6, 16
"""Offsets of checksums."""
OURS = 0xFF4D


def fold(data: bytes, start: int = 0) -> int:
    """Return the Internet checksum of data."""
    total: int = start + sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class RandomSource:
    """A generator of random numbers with the choices that layers need."""

    rng: Random
    wrong: float
    bulk: bool = False
    """Of a GSO packet: long, and mostly TCP or UDP."""
    unfinished: float = 0.0
    """How often a checksum of TCP or UDP is left to a device to complete."""

    def once(self, share: float) -> bool:
        return self.rng.random() < share

    def length(self, right: int, most: int = 0xFFFF) -> int:
        """Return a length: right, or off by a little, nothing, or huge."""
        if self.rng.random() >= self.wrong:
            return right
        off = self.rng.choice((1, -1, 4, -4, 8, -8, self.rng.randrange(-64, 64)))
        return (
            self.rng.choice((right + off, right + off, 0, most, self.rng.randrange(most + 1), most - 40 + off)) & most
        )

    def number(self, right: int, most: int) -> int:
        """Return a field's number, mostly the right one."""
        return right if self.rng.random() >= self.wrong else self.rng.randrange(most + 1)

    def of(self, *choices: int) -> int:
        return self.rng.choice(choices)

    def mangle(self, data: bytes) -> bytes:
        """Return data, or data with flipped bits, cut off, with bytes put in or taken out."""
        if not data or self.rng.random() >= self.wrong:
            return data
        out = bytearray(data)
        kind = self.rng.randrange(6)
        at = self.rng.randrange(min(len(out), 96))
        if kind <= 1:
            for _ in range(self.rng.randrange(1, 4)):
                out[self.rng.randrange(min(len(out), 96))] ^= 1 << self.rng.randrange(8)
        elif kind == 2:
            out[at] = self.rng.choice((0, 255, self.rng.randrange(256)))
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + self.rng.choice((1, 2, 4, 8))]
        else:
            out[at:at] = self.rng.randbytes(self.rng.choice((1, 2, 4, 8, 40)))
        return bytes(out)


def ethernet(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + kind.to_bytes(2, "big") + payload


def tagged(destination: bytes, source: bytes, vlan: int, kind: int, payload: bytes) -> bytes:
    if not vlan:
        return ethernet(destination, source, kind, payload)
    return ethernet(destination, source, VLAN, struct.pack("!HH", vlan, kind) + payload)


def ip(
    c: RandomSource, source: bytes, destination: bytes, protocol: int, payload: bytes, *, tos: int = 0, ttl: int = 64
) -> tuple[int, bytes]:
    """Return the Ethernet protocol and the packet, of the family of `source`: 16 bytes, mapped for IPv4."""
    if source[:12] != bytes(10) + b"\xff\xff":
        head = struct.pack(
            "!IHBB", 6 << 28 | tos << 20 | c.rng.randrange(1 << 20), c.length(len(payload)), protocol, ttl
        )
        head = bytes([head[0] ^ (c.number(0, 15) << 4)]) + head[1:]
        return IPV6, head + source + destination[-16:] + payload
    options = (
        b"" if c.rng.random() >= c.wrong else c.rng.choice((b"\1" * 4, b"\x94\4\0\0", bytes(40), b"\7\7\4" + bytes(5)))
    )
    words = 5 + len(options) // 4
    flags = c.of(0, 0x4000) if c.rng.random() >= c.wrong else c.of(0x2000, 0x2001, 1, 0xFFFF, 0x8000)
    head = struct.pack(
        "!BBHHHBBH", c.number(4, 15) << 4 | c.number(words, 15), tos, c.length(20 + len(options) + len(payload)),
        c.rng.randrange(4), flags, ttl, protocol, 0,
    ) + source[12:] + destination[12:] + options  # fmt: skip
    check = fold(head) if c.rng.random() >= c.wrong / 2 else c.rng.randrange(65536)
    return IPV4, head[:10] + check.to_bytes(2, "big") + head[12:] + payload


def pseudo(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    if source[:12] == bytes(10) + b"\xff\xff":
        return source[12:] + destination[12:] + struct.pack("!HH", protocol, length & 0xFFFF)
    return source + destination + struct.pack("!II", length, protocol)


def _sealed(c: RandomSource, data: bytes, at: int, head: bytes) -> bytes:
    """Return a transport's bytes with the checksum at `at`, mostly right; or with the sum of `head` in its place."""
    check = fold(head + data) if c.rng.random() >= c.wrong / 2 else c.rng.randrange(65536)
    if at != ICMP_CHECK and c.once(c.unfinished):
        check = fold(head) ^ 0xFFFF
    return data[:at] + (check or 0xFFFF).to_bytes(2, "big") + data[at + 2 :]


def udp(
    c: RandomSource, source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes, *, summed: bool
) -> bytes:
    length = c.length(8 + len(payload))
    data = struct.pack("!4H", *ports, length, 0) + payload
    return _sealed(c, data, UDP_CHECK, pseudo(source, destination, 8 + len(payload), UDP)) if summed else data


def tcp(c: RandomSource, source: bytes, destination: bytes, payload: bytes) -> bytes:
    options = b"" if c.once(0.6) else bytes([1]) * c.of(4, 12, 20, 40)  # of no operation
    words = c.number(5 + len(options) // 4, 15)
    ports = c.of(80, 6081, 5001), c.of(443, 6081, 5002)
    data = struct.pack("!HHIIHHHH", *ports, 1, 2, words << 12 | 0x10, 1024, 0, 0) + options + payload
    return _sealed(c, data, TCP_CHECK, pseudo(source, destination, len(data), TCP))


def icmp(c: RandomSource, source: bytes, destination: bytes, payload: bytes) -> tuple[int, bytes]:
    """Return protocol and message: echoes, their answers, errors, and others that are not neighbour discovery."""
    if source[:12] == bytes(10) + b"\xff\xff":
        data = struct.pack("!BBHHH", c.of(8, 8, 0, 3, 11, 13), c.number(0, 255), 0, 7, 1) + payload
        return ICMP, _sealed(c, data, ICMP_CHECK, b"")
    data = struct.pack("!BBHHH", c.of(128, 128, 129, 1, 2, 3, 130), c.number(0, 255), 0, 7, 1) + payload
    return ICMPV6, _sealed(c, data, ICMP_CHECK, pseudo(source, destination, len(data), ICMPV6))


def extensions(c: RandomSource, protocol: int, payload: bytes, most: int = 4) -> tuple[int, bytes]:
    """Return the first header's number and the headers with the payload behind them."""
    for _ in range(c.rng.randrange(1, most)):
        kind = c.of(0, 43, FRAGMENT, FRAGMENT, 51, 60, 60, 135, 139, 140, 59 if c.once(c.wrong) else 60)
        if kind == FRAGMENT:
            offset = c.of(0, 0, 1, 8, 9, 0xFFF8)
            payload = struct.pack("!BBHI", protocol, 0, offset, c.rng.randrange(4)) + payload
        elif kind == 51:
            payload = struct.pack("!BBHII", protocol, c.length(1, 255), 0, 1, 2) + payload
        else:
            more = c.of(0, 0, 1, 3)
            payload = bytes([protocol, c.length(more, 255), 1, 4, 0, 0, 0, 0]) + bytes(8 * more) + payload
        protocol = kind
    return protocol, payload


def arp(c: RandomSource, mac: bytes, sender: bytes, target: bytes) -> bytes:
    head = struct.pack("!HHBBH", c.number(1, 65535), c.number(0x800, 65535), c.number(6, 255), c.number(4, 255),
                       c.of(1, 1, 1, 2, 3) if c.once(0.3) else 1)  # fmt: skip
    return head + mac + sender[12:] + c.rng.choice((bytes(6), mac)) + target[12:]


def neighbour(c: RandomSource, source: bytes, destination: bytes, target: bytes, mac: bytes) -> bytes:
    """Return a solicitation, and now and then another message of neighbour discovery."""
    kind = 135 if c.rng.random() >= 0.2 else c.of(133, 134, 136, 137)
    option = c.rng.choice(
        (bytes([1, 1]) + mac, bytes([1, 1]) + mac, b"", bytes([2, 1]) + mac, bytes([14, 1]) + bytes(6))
    )
    data = bytes([kind, c.number(0, 255), 0, 0]) + bytes(4) + target + option
    return _sealed(c, data, ICMP_CHECK, pseudo(source, destination, len(data), ICMPV6))


def option(c: RandomSource, class_: int, kind: int, body: bytes) -> bytes:
    words = c.length(len(body) // 4, 31)
    return struct.pack("!HBB", class_, kind, c.number(0, 7) << 5 | words) + body


def geneve(
    c: RandomSource, vni: int, options: bytes, inner: bytes, *, control: bool = False, critical: bool = False
) -> bytes:
    first = c.number(0, 3) << 6 | c.length(len(options) // 4, 63)
    flags = 0x80 * control | 0x40 * critical | c.number(0, 255)
    return struct.pack("!BBHI", first, flags, c.number(0x6558, 65535), vni << 8 | c.number(0, 255)) + options + inner


def vxlan(c: RandomSource, vni: int, inner: bytes) -> bytes:
    return struct.pack("!II", c.number(8, 255) << 24, vni << 8 | c.number(0, 255)) + inner
