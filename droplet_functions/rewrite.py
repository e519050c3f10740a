"""Changes fields of a packet in place and keeps every checksum that covers them right (RFC 1624).

`layers` is what `packet.layers()` returned. It keeps its old values: read the headers anew to see the new ones.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack, pack_into, unpack_from

from droplet_functions.checksum import checksum, total, updated
from droplet_functions.errors import HeaderError
from droplet_functions.headers import CHECKSUM_AT, ICMP, IPV6_SIZE, TCP, UDP, Ip, Layers, Transport, need, parse

Address = str | IPv4Address | IPv6Address


def set_source(layers: Layers, address: Address) -> None:
    """Change the source address; HeaderError for another address family or a packet that is not IP."""
    ip = _ip(layers)
    _set_address(layers, ip, 12 if ip.version == 4 else 8, address, pseudo=True)


def set_destination(layers: Layers, address: Address) -> None:
    """Change the destination address; HeaderError for another address family or a packet that is not IP."""
    ip = _ip(layers)
    _set_address(layers, ip, 16 if ip.version == 4 else 24, address, pseudo=ip.final_destination)


def swap(layers: Layers) -> None:
    """Exchange source and destination of Ethernet, IP, and TCP or UDP: what was received becomes its answer.

    No checksum changes. HeaderError for a packet that is not IP, or with a routing header.
    """
    ip, data = _ip(layers), layers.data
    if not ip.final_destination:
        raise HeaderError("the packet has a routing header: its destination is not where its answer comes from")
    _exchange(data, 0, 6)
    _exchange(data, ip.offset + (12 if ip.version == 4 else 8), 4 if ip.version == 4 else 16)
    if layers.transport is not None and layers.transport.protocol in (TCP, UDP):
        _exchange(data, layers.transport.offset, 2)


def _exchange(data: memoryview, at: int, size: int) -> None:
    """Exchange two fields of the same size that follow each other."""
    first = data[at : at + size].tobytes()
    data[at : at + size] = data[at + size : at + 2 * size]
    data[at + size : at + 2 * size] = first


def set_ttl(layers: Layers, value: int) -> None:
    """Change the TTL or hop limit (0 to 255)."""
    ip = _ip(layers)
    _write(layers, ip, ip.offset + (8 if ip.version == 4 else 7), bytes((value,)))


def set_dscp(layers: Layers, value: int) -> None:
    """Change the DSCP (0 to 63) and leave ECN as it is; ValueError beyond that."""
    if not 0 <= value <= 63:
        raise ValueError(f"a DSCP of {value}: give a number from 0 to 63")
    ip, data = _ip(layers), layers.data
    if ip.version == 4:
        _write(layers, ip, ip.offset + 1, bytes((value << 2 | data[ip.offset + 1] & 3,)))
    else:
        first = unpack_from("!H", data, ip.offset)[0]
        pack_into("!H", data, ip.offset, first & 0xF03F | value << 6)


def set_source_port(layers: Layers, port: int) -> None:
    """Change the source port of TCP or UDP (0 to 65535)."""
    write_transport(layers, _ports(layers), 0, pack("!H", port))


def set_destination_port(layers: Layers, port: int) -> None:
    """Change the destination port of TCP or UDP (0 to 65535)."""
    write_transport(layers, _ports(layers), 2, pack("!H", port))


def write_payload(layers: Layers, offset: int, data: bytes) -> None:
    """Overwrite bytes of the transport payload, `offset` from its start; HeaderError beyond its end."""
    transport = _transport(layers)
    if offset < 0:
        raise HeaderError(f"byte {offset} of the payload: give an offset from 0, or use write_transport")
    write_transport(layers, transport, transport.header_size + offset, data)


def write_transport(layers: Layers, transport: Transport, offset: int, data: bytes) -> None:
    """Overwrite bytes, `offset` from the start of the transport header. The checksum itself cannot be overwritten."""
    at, end = transport.offset + offset, _ip(layers).end
    if offset < 0 or at + len(data) > end:
        raise HeaderError(f"{len(data)} bytes at byte {at} of a packet that ends at {end}")
    covered = CHECKSUM_AT[transport.protocol]
    if offset < covered + 2 and offset + len(data) > covered:
        raise HeaderError("the bytes include the checksum: write around it, it follows by itself")
    old = layers.data[at : at + len(data)].tobytes()
    layers.data[at : at + len(data)] = data
    _update(layers, transport, old, data, odd=bool(offset % 2))


def refresh(layers: Layers, data: memoryview) -> Layers:
    """Set lengths and checksums anew after the packet's end has moved, and return the headers as they are now.

    `layers` was read before the resize, `data` is what the resize returned: the IP packet then ends where `data` does.
    HeaderError for fragments, whose checksum covers bytes of other packets, and for routing headers.
    """
    ip, end = _ip(layers), len(data)
    if not ip.first_fragment or ip.more_fragments or not ip.final_destination:
        raise HeaderError("the checksum of a fragment, or behind a routing header, cannot be computed anew")
    start = ip.offset + ip.header_size
    need(data, start, layers.transport.header_size if layers.transport else 0, "the header before the resize")
    if ip.version == 4:
        pack_into("!H", data, ip.offset + 2, end - ip.offset)
        pack_into("!H", data, ip.offset + 10, 0)
        pack_into("!H", data, ip.offset + 10, checksum(data[ip.offset : start]))
    else:
        pack_into("!H", data, ip.offset + 4, end - ip.offset - IPV6_SIZE)
    if layers.transport:
        _fill_checksum(data, ip, layers.transport)
    return parse(data)


def _fill_checksum(data: memoryview, ip: Ip, transport: Transport) -> None:
    """Set the length of UDP, and compute the checksum; a UDP packet over IPv4 without one stays without."""
    start, protocol = transport.offset, transport.protocol
    length, at = len(data) - start, start + CHECKSUM_AT[protocol]
    if protocol == UDP:
        pack_into("!H", data, start + 4, length)
        if not transport.checksum and ip.version == 4:
            return
    pack_into("!H", data, at, 0)
    pseudo = 0 if protocol == ICMP else _pseudo_header(ip, length)
    found = checksum(data[start:], pseudo)
    pack_into("!H", data, at, 0xFFFF if protocol == UDP and not found else found)


def _pseudo_header(ip: Ip, length: int) -> int:
    """Return the sum of the pseudo-header of a transport packet of `length` bytes (RFC 9293, RFC 8200 section 8.1)."""
    return total(ip.packed_source + ip.packed_destination + pack("!IHH", length, 0, ip.protocol))


def _ip(layers: Layers) -> Ip:
    if layers.ip is None:
        raise HeaderError(f"no IP packet: EtherType 0x{layers.ethertype:04x}")
    return layers.ip


def _transport(layers: Layers) -> Transport:
    if layers.transport is None:
        raise HeaderError("no transport header: another protocol, or a later fragment")
    return layers.transport


def _ports(layers: Layers) -> Transport:
    transport = _transport(layers)
    if transport.protocol not in (TCP, UDP):
        raise HeaderError(f"protocol {transport.protocol} has no ports")
    return transport


def _set_address(layers: Layers, ip: Ip, at: int, address: Address, *, pseudo: bool) -> None:
    new = ip_address(address)
    if new.version != ip.version:
        raise HeaderError(f"{new} in a packet of IPv{ip.version}")
    old = layers.data[ip.offset + at : ip.offset + at + len(new.packed)].tobytes()
    _write(layers, ip, ip.offset + at, new.packed)
    transport = layers.transport
    if pseudo and transport is not None and transport.protocol != ICMP:
        _update(layers, transport, old, new.packed)


def _write(layers: Layers, ip: Ip, at: int, new: bytes) -> None:
    """Overwrite bytes of the IP header, and let the checksum of IPv4 follow."""
    data, old = layers.data, layers.data[at : at + len(new)].tobytes()
    data[at : at + len(new)] = new
    if ip.version == 4:
        before = unpack_from("!H", data, ip.offset + 10)[0]
        pack_into("!H", data, ip.offset + 10, updated(before, old, new, odd=bool((at - ip.offset) % 2)))


def _update(layers: Layers, transport: Transport, old: bytes, new: bytes, *, odd: bool = False) -> None:
    at = transport.offset + CHECKSUM_AT[transport.protocol]
    before = unpack_from("!H", layers.data, at)[0]
    if transport.protocol == UDP and not before:
        return  # the sender uses no checksum
    after = updated(before, old, new, odd=odd)
    pack_into("!H", layers.data, at, 0xFFFF if transport.protocol == UDP and not after else after)
