"""Readers for Ethernet, VLAN tags, IPv4, IPv6 and what they carry: `parse(packet.data)`.

Every read is bounds-checked; a header that is cut off is a HeaderError with the place. `rewrite` changes
fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import unpack_from

from droplet_functions.errors import HeaderError

ETHERNET_SIZE, IPV6_SIZE = 14, 40
ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP = 0x0800, 0x86DD, 0x0806
VLAN_TAGS = frozenset({0x8100, 0x88A8})
MAX_VLAN_TAGS = 2
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION})
MAX_EXTENSIONS = 8
TRANSPORT_SIZES = {ICMP: 8, TCP: 20, UDP: 8, ICMPV6: 4}
CHECKSUM_AT = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2}
"""Where the checksum is in each transport header."""


def need(data: memoryview, offset: int, count: int, what: str) -> None:
    """Raise HeaderError unless `count` bytes are there at `offset`."""
    if offset + count > len(data):
        left = max(0, len(data) - offset)
        raise HeaderError(f"{what} at byte {offset} needs {count} bytes, and the packet has {left} left")


@dataclass(frozen=True, slots=True)
class Ip:
    """An IPv4 or IPv6 header at `offset` of the packet.

    `end` is where the IP packet ends: Ethernet may pad it. `final_destination`: its destination is that of the
    checksum's pseudo-header; a routing header holds another one.
    """

    version: int
    offset: int
    header_size: int
    end: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    ttl: int
    first_fragment: bool = True
    more_fragments: bool = False
    final_destination: bool = True


@dataclass(frozen=True, slots=True)
class Transport:
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


@dataclass(frozen=True, slots=True)
class Layers:
    """The headers of a packet. `ip` is None for what is not IP; `transport` for other protocols and later fragments."""

    data: memoryview
    destination_mac: bytes
    source_mac: bytes
    ethertype: int
    vlans: tuple[int, ...]
    ip: Ip | None = None
    transport: Transport | None = None

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
    return Layers(view, bytes(view[:6]), bytes(view[6:12]), ethertype, vlans, ip, transport)


def _ethertype(view: memoryview) -> tuple[int, int, tuple[int, ...]]:
    """Return the EtherType behind VLAN tags, where its payload begins, and the VLANs' numbers."""
    ethertype: int = unpack_from("!H", view, 12)[0]
    offset, vlans = ETHERNET_SIZE, list[int]()
    while ethertype in VLAN_TAGS and len(vlans) < MAX_VLAN_TAGS:
        need(view, offset, 4, "VLAN tag")
        tag, ethertype = unpack_from("!HH", view, offset)
        vlans.append(tag & 0xFFF)
        offset += 4
    return ethertype, offset, tuple(vlans)


def _ipv4(view: memoryview, offset: int) -> Ip:
    need(view, offset, 20, "IPv4 header")
    first, _, length, _, fragment, ttl, protocol = unpack_from("!BBHHHBB", view, offset)
    size = (first & 15) * 4
    if first >> 4 != 4 or size < 20 or length < size:
        raise HeaderError(
            f"IPv4 header at byte {offset}: version {first >> 4}, header of {size} bytes, packet of {length}"
        )
    need(view, offset, length, "IPv4 packet")
    source, destination = IPv4Address(bytes(view[offset + 12 : offset + 16])), bytes(view[offset + 16 : offset + 20])
    first_fragment, more = not fragment & 0x1FFF, bool(fragment & 0x2000)
    end = offset + length
    return Ip(4, offset, size, end, source, IPv4Address(destination), protocol, ttl, first_fragment, more)


def _ipv6(view: memoryview, offset: int) -> Ip:
    need(view, offset, 40, "IPv6 header")
    first, length, protocol, ttl = unpack_from("!IHBB", view, offset)
    if first >> 28 != 6:
        raise HeaderError(f"IPv6 header at byte {offset}: version {first >> 28}")
    end = offset + 40 + length
    need(view, offset, 40 + length, "IPv6 packet")
    chain = _extensions(view[:end], offset + 40, protocol)
    source = IPv6Address(bytes(view[offset + 8 : offset + 24]))
    destination = IPv6Address(bytes(view[offset + 24 : offset + 40]))
    size = chain.offset - offset
    return Ip(
        *(6, offset, size, end, source, destination, chain.protocol, ttl),
        *(chain.first_fragment, chain.more_fragments, chain.final_destination),
    )


@dataclass(slots=True)
class _Chain:
    """What the extension headers of an IPv6 packet lead to."""

    offset: int
    protocol: int
    first_fragment: bool = True
    more_fragments: bool = False
    final_destination: bool = True


def _extensions(view: memoryview, offset: int, protocol: int) -> _Chain:
    """Follow extension headers to the transport header, or to the end of what a later fragment shows."""
    chain = _Chain(offset, protocol)
    for _ in range(MAX_EXTENSIONS):
        if chain.protocol not in _EXTENSIONS or not chain.first_fragment:
            return chain
        need(view, chain.offset, 8, "IPv6 extension header")
        following, length = view[chain.offset], view[chain.offset + 1]
        size = 8 + length * 8
        if chain.protocol == _FRAGMENT:
            size, fragment = 8, unpack_from("!H", view, chain.offset + 2)[0]
            chain.first_fragment, chain.more_fragments = not fragment >> 3, bool(fragment & 1)
        elif chain.protocol == _AUTHENTICATION:
            size = 8 + length * 4
        elif chain.protocol == _ROUTING and view[chain.offset + 3]:
            chain.final_destination = False
        need(view, chain.offset, size, "IPv6 extension header")
        chain.offset, chain.protocol = chain.offset + size, following
    raise HeaderError(f"IPv6 packet with more than {MAX_EXTENSIONS} extension headers")


def _transport(view: memoryview, ip: Ip) -> Transport:
    offset, protocol = ip.offset + ip.header_size, ip.protocol
    name = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPv6"}[protocol]
    view = view[: ip.end]
    need(view, offset, TRANSPORT_SIZES[protocol], f"{name} header")
    checksum = unpack_from("!H", view, offset + CHECKSUM_AT[protocol])[0]
    if protocol in (ICMP, ICMPV6):
        size = TRANSPORT_SIZES[protocol]
        return Transport(protocol, offset, size, checksum, type=view[offset], code=view[offset + 1])
    source, destination = unpack_from("!HH", view, offset)
    if protocol == UDP:
        return Transport(protocol, offset, 8, checksum, source, destination)
    size, flags = (view[offset + 12] >> 4) * 4, view[offset + 13]
    if size < 20:
        raise HeaderError(f"TCP header at byte {offset}: header of {size} bytes")
    need(view, offset, size, "TCP header")
    return Transport(protocol, offset, size, checksum, source, destination, flags)
