"""Addresses in documents: text on the wire, packed bytes (4 or 16) in the agent."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

MAX_VNI = 0xFFFFFF
"""A Geneve VNI has 24 bits (RFC 8926, section 3.4)."""

MAC_PATTERN = r"[0-9a-f][02468ace](?::[0-9a-f]{2}){5}"
"""A unicast Ethernet address, lower case, with colons. (Python's `$` alone would let a last newline pass.)"""

_V4_MAPPED = bytes(10) + b"\xff\xff"
_MAC = re.compile(MAC_PATTERN)


class Cidr(NamedTuple):
    """A network's packed address (4 or 16 bytes) and its prefix length in bits."""

    address: bytes
    prefix: int

    def __str__(self) -> str:
        """Return the usual notation."""
        return f"{format_address(self.address)}/{self.prefix}"


def parse_address(text: str) -> bytes:
    """Return 4 or 16 packed bytes of an address in its canonical spelling (RFC 5952), or raise ValueError."""
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IP address") from None
    canonical = inet_ntop(AF_INET6, packed)
    if canonical != text:
        raise ValueError(f"{text!r} is not canonical: write {canonical}")
    return packed


def parse_host_address(text: str) -> bytes:
    """Return the packed bytes of an address that one interface can have, or raise ValueError."""
    packed = parse_address(text)
    if len(packed) == 4:
        if packed[0] in (0, 127) or packed[0] >= 224:
            raise ValueError(f"{text} is not a unicast address")
    elif packed[0] == 0xFF or packed[:15] == bytes(15):
        raise ValueError(f"{text} is not a unicast address")
    elif packed[:12] == _V4_MAPPED:
        raise ValueError(f"{text} is an IPv4 address in IPv6's clothes: write {format_address(packed[12:])}")
    elif packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:
        raise ValueError(f"{text} is link-local: write an address that is valid beyond the link")
    return packed


def format_address(packed: bytes) -> str:
    """Return the text of 4 or 16 packed bytes."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


@lru_cache(maxsize=65536)
def parse_cidr(text: str) -> Cidr:
    """Return the parts of a CIDR in canonical spelling, without host bits, or raise ValueError."""
    address, slash, prefix = text.partition("/")
    if not slash or not prefix.isascii() or not prefix.isdigit():
        raise ValueError(f"{text!r} is not a CIDR: write ADDRESS/PREFIX")
    packed = parse_address(address)
    try:
        network = ip_network((packed, int(prefix)))
    except ValueError:
        raise ValueError(_cidr_mistake(text, packed, int(prefix))) from None
    return Cidr(network.network_address.packed, network.prefixlen)


def _cidr_mistake(text: str, packed: bytes, prefix: int) -> str:
    if prefix > len(packed) * 8:
        return f"{text}: a prefix has at most {len(packed) * 8} bits"
    return f"{text} has host bits set: write {ip_network((packed, prefix), strict=False)}"


def contains(cidr: Cidr, packed: bytes) -> bool:
    """Return whether a packed address lies in a CIDR of the same family."""
    if len(packed) != len(cidr.address):
        return False
    shift = len(packed) * 8 - cidr.prefix
    return int.from_bytes(packed, "big") >> shift == int.from_bytes(cidr.address, "big") >> shift


def is_edge(cidr: Cidr, packed: bytes) -> bool:
    """Return whether no interface can have an address of a CIDR: its first one or, over IPv4, its last.

    In a CIDR of one or two addresses, interfaces can have all of them (RFC 3021, RFC 6164).
    """
    bits = len(cidr.address) * 8
    if cidr.prefix >= bits - 1:
        return False
    return packed == cidr.address or (bits == 32 and packed == last_of(cidr))


def last_of(cidr: Cidr) -> bytes:
    """Return the last packed address of a CIDR."""
    bits = len(cidr.address) * 8
    last = int.from_bytes(cidr.address, "big") | ((1 << (bits - cidr.prefix)) - 1)
    return last.to_bytes(len(cidr.address), "big")


def within(inner: Cidr, outer: Cidr) -> bool:
    """Return whether all of `inner` lies in `outer`."""
    return inner.prefix >= outer.prefix and contains(outer, inner.address)


def first_host(cidr: Cidr) -> bytes:
    """Return the packed default address of a network's gateway."""
    bits = len(cidr.address) * 8
    first = int.from_bytes(cidr.address, "big") + (1 if cidr.prefix < bits else 0)
    return first.to_bytes(len(cidr.address), "big")


def parse_mac(text: str) -> bytes:
    """Return the 6 bytes of a unicast Ethernet address, or raise ValueError."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a unicast MAC in lower case: write it as 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", ""))


def format_mac(mac: bytes) -> str:
    """Return the text of 6 bytes."""
    return mac.hex(":")
