"""Builds frames byte by byte, right by default and wrong where asked: no code is shared with what is tested."""

from __future__ import annotations

import struct
from ipaddress import ip_address

IPV4, ARP, IPV6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60
OPTION_CLASS = 0xFF4D
RTS_TYPE, INVALIDATE_TYPE, PROBE_TYPE, MISDIRECTED_TYPE = 0x01, 0x82, 0x03, 0x84
LABEL_TYPE, LABEL_ASKING_TYPE = 0x05, 0x06
PINNED, DIVIDED, UNLEARNT, SPEAKS_VXLAN, LABELS = 1, 2, 4, 8, 16
"""Flags of return-to-sender."""
GATEWAY_MAC = bytes.fromhex("02d201e70001")
DF, MF = 0x4000, 0x2000


def ip(text: str) -> bytes:
    return ip_address(text).packed


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of bytes: 0 when they hold their own right one."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo(source: str, destination: str, length: int, protocol: int) -> bytes:
    """Return what UDP, TCP and ICMPv6 count in besides themselves (RFC 768, RFC 8200 section 8.1)."""
    if ":" in source:
        return ip(source) + ip(destination) + struct.pack("!II", length, protocol)
    return ip(source) + ip(destination) + struct.pack("!HH", protocol, length)


def ethernet(
    destination: bytes, source: bytes, kind: int = IPV4, payload: bytes = b"", vlan: int | None = None
) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", VLAN, vlan)
    return destination + source + tag + struct.pack("!H", kind) + payload


def ipv4(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = UDP,
    ttl: int = 64,
    tos: int = 0,
    identity: int = 0,
    fragment: int = 0,
    options: bytes = b"",
    version: int = 4,
    length: int | None = None,
    header_words: int | None = None,
    check: int | None = None,
) -> bytes:
    words = 5 + len(options) // 4 if header_words is None else header_words
    total = 20 + len(options) + len(payload) if length is None else length
    head = struct.pack("!BBHHHBBH", version << 4 | words, tos, total, identity, fragment, ttl, protocol, 0)
    head += ip(source) + ip(destination) + options
    return head[:10] + struct.pack("!H", checksum(head) if check is None else check) + head[12:] + payload


def ipv6(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = UDP,
    ttl: int = 64,
    tos: int = 0,
    label: int = 0,
    version: int = 6,
    length: int | None = None,
) -> bytes:
    size = len(payload) if length is None else length
    return (
        struct.pack("!IHBB", version << 28 | tos << 20 | label, size, protocol, ttl)
        + ip(source)
        + ip(destination)
        + payload
    )


def extension(following: int, body: bytes = bytes(6)) -> bytes:
    """Return an extension header of 2 bytes and `body`, together a multiple of 8 (RFC 8200 section 4)."""
    return bytes([following, (len(body) + 2) // 8 - 1]) + body


def fragment_header(following: int, offset: int = 0, more: bool = False, identity: int = 1) -> bytes:
    """Return IPv6's fragment header; `offset` in bytes."""
    return struct.pack("!BBHI", following, 0, offset | more, identity)


def udp(source: int = 1000, destination: int = 2000, data: bytes = b"data", length: int | None = None) -> bytes:
    return struct.pack("!4H", source, destination, 8 + len(data) if length is None else length, 0) + data


def summed(source: str, destination: str, segment: bytes, protocol: int = UDP) -> bytes:
    """Return a segment with its checksum, which covers the addresses too."""
    at = {UDP: 6, TCP: 16, ICMPV6: 2}[protocol]
    blank = segment[:at] + b"\0\0" + segment[at + 2 :]
    check = checksum(pseudo(source, destination, len(segment), protocol) + blank)
    return segment[:at] + struct.pack("!H", check or 0xFFFF) + segment[at + 2 :]


def tcp(source: int = 1000, destination: int = 2000, data: bytes = b"data") -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 0x50, 0x10, 512, 0, 0) + data


def echo(data: bytes = b"ping" * 4, kind: int = 8, code: int = 0) -> bytes:
    head = struct.pack("!BBHHH", kind, code, 0, 7, 1)
    return head[:2] + struct.pack("!H", checksum(head + data)) + head[4:] + data


def echo_ipv6(source: str, destination: str, kind: int = 128, code: int = 0, data: bytes = b"ping" * 4) -> bytes:
    return summed(source, destination, struct.pack("!BBHHH", kind, code, 0, 7, 1) + data, ICMPV6)


def arp(
    sender_mac: bytes,
    sender: str,
    target: str,
    *,
    operation: int = 1,
    target_mac: bytes = bytes(6),
    head: bytes = bytes.fromhex("000108000604"),
) -> bytes:
    return head + struct.pack("!H", operation) + sender_mac + ip(sender) + target_mac + ip(target)


def nd(
    source: str,
    destination: str,
    target: str,
    mac: bytes | None,
    *,
    kind: int = 135,
    code: int = 0,
    flags: int = 0,
    option: int = 1,
    option_length: int = 1,
    ttl: int = 255,
    check: int | None = None,
) -> bytes:
    """Return an IPv6 packet with a solicitation, or an advertisement by `kind` 136 (RFC 4861 section 4)."""
    message = struct.pack("!BBHI", kind, code, 0, flags) + ip(target)
    if mac is not None:
        message += bytes([option, option_length]) + mac
    message = summed(source, destination, message, ICMPV6)
    if check is not None:
        message = message[:2] + struct.pack("!H", check) + message[4:]
    return ipv6(source, destination, message, protocol=ICMPV6, ttl=ttl)


def option(class_: int, kind: int, body: bytes = b"", reserved: int = 0) -> bytes:
    return struct.pack("!HBB", class_, kind, reserved << 5 | len(body) // 4) + body


def rts(origin: str, bounces: int = 0, flags: int = 0, attempt: int = 0) -> bytes:
    return option(OPTION_CLASS, RTS_TYPE, bytes([bounces, flags, attempt, 0]) + ip(origin))


def label(number: int, asking: bool = False) -> bytes:
    return option(OPTION_CLASS, LABEL_ASKING_TYPE if asking else LABEL_TYPE, struct.pack("!I", number))


def misdirected(by: str, attempt: int = 0, flags: int = 0) -> bytes:
    return option(OPTION_CLASS, MISDIRECTED_TYPE, bytes([0, flags, attempt, 0]) + ip(by))


def probe(kind: int = 1, nonce: int = 0x0123456789ABCDEF) -> bytes:
    return option(OPTION_CLASS, PROBE_TYPE, bytes([kind, 0, 0, 0]) + nonce.to_bytes(8, "big"))


INVALIDATE = option(OPTION_CLASS, INVALIDATE_TYPE)


def geneve(
    vni: int,
    inner: bytes,
    *,
    options: bytes = b"",
    version: int = 0,
    flags: int = 0,
    protocol: int = 0x6558,
    option_words: int | None = None,
    reserved: int = 0,
) -> bytes:
    words = len(options) // 4 if option_words is None else option_words
    return struct.pack("!BBHI", version << 6 | words, flags, protocol, vni << 8 | reserved) + options + inner


def vxlan(vni: int, inner: bytes, flags: int = 0x08000000, reserved: int = 0) -> bytes:
    return struct.pack("!II", flags, vni << 8 | reserved) + inner
