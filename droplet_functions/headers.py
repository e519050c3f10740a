"""Readers for Ethernet, VLAN tags, IPv4, IPv6 and what they carry: `parse(packet.data)`.

Every read is bounds-checked; a header that is cut off is a HeaderError with the place. `rewrite` changes
fields.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from droplet_functions.errors import HeaderError

ETHERNET_SIZE, IPV6_SIZE = 14, 40
ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP = 0x0800, 0x86DD, 0x0806
VLAN_TAGS = frozenset({0x8100, 0x88A8})
MAX_VLAN_TAGS = 2
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION})
MAX_EXTENSIONS = 8
_IPV4, _IPV6 = Struct("!BxH2xHBB2x4s4s"), Struct("!IHBB16s16s")
_NO_VLANS: tuple[int, ...] = ()
_WORD, _PAIR = Struct("!H"), Struct("!HH")
_HEADERS = {ICMP: "ICMP header", TCP: "TCP header", UDP: "UDP header", ICMPV6: "ICMPv6 header"}
TRANSPORT_SIZES = {ICMP: 8, TCP: 20, UDP: 8, ICMPV6: 4}
CHECKSUM_AT = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2}
"""Where the checksum is in each transport header."""


def need(data: memoryview, offset: int, count: int, what: str, end: int | None = None) -> None:
    """Raise HeaderError unless `count` bytes are there at `offset`, before `end` if given."""
    end = len(data) if end is None else end
    if offset + count > end:
        left = max(0, end - offset)
        raise HeaderError(f"{what} at byte {offset} needs {count} bytes, and the packet has {left} left")


class Ip(NamedTuple):
    """An IPv4 or IPv6 header at `offset` of the packet.

    `end` is where the IP packet ends: Ethernet may pad it. `final_destination`: its destination is that of the
    checksum's pseudo-header; a routing header holds another one.
    """

    version: int
    offset: int
    header_size: int
    end: int
    packed_source: bytes
    packed_destination: bytes
    protocol: int
    ttl: int
    first_fragment: bool = True
    more_fragments: bool = False
    final_destination: bool = True

    @property
    def source(self) -> IPv4Address | IPv6Address:
        """The source address."""
        return _address(self.packed_source)

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        """The destination address."""
        return _address(self.packed_destination)


def _address(packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


class Transport(NamedTuple):
    """A TCP, UDP, ICMP or ICMPv6 header at `offset`. Ports are those of TCP and UDP, else 0; likewise type and code."""

    protocol: int
    offset: int
    header_size: int
    checksum: int
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    type: int = 0
    code: int = 0


class Layers(NamedTuple):
    """The headers of a packet. `ip` is None for what is not IP; `transport` for other protocols and later fragments."""

    data: memoryview
    ethertype: int
    vlans: tuple[int, ...]
    ip: Ip | None = None
    transport: Transport | None = None

    @property
    def destination_mac(self) -> bytes:
        """The Ethernet address of the destination."""
        return self.data[:6].tobytes()

    @property
    def source_mac(self) -> bytes:
        """The Ethernet address of the source."""
        return self.data[6:12].tobytes()

    @property
    def udp(self) -> Transport | None:
        """The UDP header, if there is one."""
        return self.transport if self.transport and self.transport.protocol == UDP else None

    @property
    def tcp(self) -> Transport | None:
        """The TCP header, if there is one."""
        return self.transport if self.transport and self.transport.protocol == TCP else None

    @property
    def icmp(self) -> Transport | None:
        """The ICMP or ICMPv6 header, if there is one."""
        return self.transport if self.transport and self.transport.protocol in (ICMP, ICMPV6) else None

    @property
    def payload(self) -> memoryview:
        """What follows the innermost header that was read, without Ethernet's padding."""
        if self.transport and self.ip:
            return self.data[self.transport.offset + self.transport.header_size : self.ip.end]
        if self.ip:
            return self.data[self.ip.offset + self.ip.header_size : self.ip.end]
        return self.data[ETHERNET_SIZE + 4 * len(self.vlans) :]


def parse(data: memoryview | bytes | bytearray) -> Layers:
    """Read the headers of an Ethernet frame; HeaderError when it is cut off in one of them."""
    view = memoryview(data)
    need(view, 0, ETHERNET_SIZE, "Ethernet header")
    ethertype, offset, vlans = _ethertype(view)
    ip: Ip | None = None
    if ethertype == ETHERTYPE_IPV4:
        ip = _ipv4(view, offset)
    elif ethertype == ETHERTYPE_IPV6:
        ip = _ipv6(view, offset)
    transport = _transport(view, ip) if ip and ip.first_fragment and ip.protocol in TRANSPORT_SIZES else None
    return Layers(view, ethertype, vlans, ip, transport)


def _ethertype(view: memoryview) -> tuple[int, int, tuple[int, ...]]:
    """Return the EtherType behind VLAN tags, where its payload begins, and the VLANs' numbers."""
    ethertype: int = _WORD.unpack_from(view, 12)[0]
    offset, vlans = ETHERNET_SIZE, _NO_VLANS
    while ethertype in VLAN_TAGS and len(vlans) < MAX_VLAN_TAGS:
        need(view, offset, 4, "VLAN tag")
        tag, ethertype = _PAIR.unpack_from(view, offset)
        vlans = (*vlans, tag & 0xFFF)
        offset += 4
    return ethertype, offset, vlans


def _ipv4(view: memoryview, offset: int) -> Ip:
    need(view, offset, 20, "IPv4 header")
    first, length, fragment, ttl, protocol, source, destination = _IPV4.unpack_from(view, offset)
    size = (first & 15) * 4
    if first >> 4 != 4 or size < 20 or length < size:
        raise HeaderError(
            f"IPv4 header at byte {offset}: version {first >> 4}, header of {size} bytes, packet of {length}"
        )
    need(view, offset, length, "IPv4 packet")
    first_fragment, more = not fragment & 0x1FFF, bool(fragment & 0x2000)
    return Ip(4, offset, size, offset + length, source, destination, protocol, ttl, first_fragment, more)


def _ipv6(view: memoryview, offset: int) -> Ip:
    need(view, offset, 40, "IPv6 header")
    first, length, protocol, ttl, source, destination = _IPV6.unpack_from(view, offset)
    if first >> 28 != 6:
        raise HeaderError(f"IPv6 header at byte {offset}: version {first >> 28}")
    end = offset + 40 + length
    need(view, offset, 40 + length, "IPv6 packet")
    chain = _extensions(view[:end], offset + 40, protocol)
    size = chain.offset - offset
    return Ip(
        *(6, offset, size, end, source, destination, chain.protocol, ttl),
        *(chain.first_fragment, chain.more_fragments, chain.final_destination),
    )


class _Chain(NamedTuple):
    """What the extension headers of an IPv6 packet lead to."""

    offset: int
    protocol: int
    first_fragment: bool = True
    more_fragments: bool = False
    final_destination: bool = True


def _extensions(view: memoryview, offset: int, protocol: int) -> _Chain:
    """Follow extension headers to the transport header, or to the end of what a later fragment shows."""
    first, more, final = True, False, True
    for _ in range(MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS or not first:
            return _Chain(offset, protocol, first, more, final)
        need(view, offset, 8, "IPv6 extension header")
        size = 8 + view[offset + 1] * 8
        if protocol == _FRAGMENT:
            size, fragment = 8, _WORD.unpack_from(view, offset + 2)[0]
            first, more = not fragment >> 3, bool(fragment & 1)
        elif protocol == _AUTHENTICATION:
            size = 8 + view[offset + 1] * 4
        elif protocol == _ROUTING and view[offset + 3]:
            final = False
        need(view, offset, size, "IPv6 extension header")
        offset, protocol = offset + size, view[offset]
    raise HeaderError(f"IPv6 packet with more than {MAX_EXTENSIONS} extension headers")


def _transport(view: memoryview, ip: Ip) -> Transport:
    offset, protocol = ip.offset + ip.header_size, ip.protocol
    need(view, offset, TRANSPORT_SIZES[protocol], _HEADERS[protocol], ip.end)
    checksum = _WORD.unpack_from(view, offset + CHECKSUM_AT[protocol])[0]
    if protocol in (ICMP, ICMPV6):
        size = TRANSPORT_SIZES[protocol]
        return Transport(protocol, offset, size, checksum, type=view[offset], code=view[offset + 1])
    source, destination = _PAIR.unpack_from(view, offset)
    if protocol == UDP:
        return Transport(protocol, offset, 8, checksum, source, destination)
    size, flags = (view[offset + 12] >> 4) * 4, view[offset + 13]
    if size < 20:
        raise HeaderError(f"TCP header at byte {offset}: header of {size} bytes")
    need(view, offset, size, "TCP header", ip.end)
    return Transport(protocol, offset, size, checksum, source, destination, flags)
