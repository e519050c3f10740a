"""Builds the frames that announce an address or ask for a neighbour's Ethernet address. Pure.

ARP: RFC 826, RFC 5227. Neighbour discovery: RFC 4861. Addresses are packed, of 4 or 16 bytes; Ethernet addresses have
6 bytes. Frames carry no VLAN tag: they are sent on the interface that has the address.
"""

from __future__ import annotations

import struct

BROADCAST = b"\xff" * 6
NO_MAC = bytes(6)
ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
ARP_REQUEST = 1
ICMPV6 = 58
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
SOURCE_LINK_ADDRESS, TARGET_LINK_ADDRESS = 1, 2
OVERRIDE = 0x20000000
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
"""The first 13 bytes of a solicited-node multicast address (RFC 4291, section 2.7.1)."""


def announcement(mac: bytes, address: bytes) -> bytes:
    """Return the frame that announces to the link that `address` is at `mac`.

    An ARP announcement (RFC 5227, section 2.3), or an unsolicited neighbour advertisement with the override flag
    (RFC 4861, section 7.2.6).
    """
    if len(address) == 4:
        return _arp_request(mac, address, address)
    body = struct.pack("!I", OVERRIDE) + address + bytes((TARGET_LINK_ADDRESS, 1)) + mac
    return _icmpv6(mac, address, ALL_NODES, NEIGHBOUR_ADVERTISEMENT, body)


def solicitation(mac: bytes, source: bytes, target: bytes) -> bytes:
    """Return the frame that asks the link for the Ethernet address of `target`, of the same family as `source`.

    An ARP request, or a neighbour solicitation to the solicited-node multicast address (RFC 4861, section 7.2.2).
    """
    if len(target) == 4:
        return _arp_request(mac, source, target)
    body = bytes(4) + target + bytes((SOURCE_LINK_ADDRESS, 1)) + mac
    return _icmpv6(mac, source, SOLICITED_NODE + target[13:], NEIGHBOUR_SOLICITATION, body)


def _arp_request(mac: bytes, sender: bytes, target: bytes) -> bytes:
    head = struct.pack("!6s6sHHHBBH", BROADCAST, mac, ETH_P_ARP, 1, 0x0800, 6, 4, ARP_REQUEST)
    return head + mac + sender + NO_MAC + target


def _icmpv6(mac: bytes, source: bytes, group: bytes, kind: int, body: bytes) -> bytes:
    """Return a message to a multicast group, with hop limit 255 (RFC 4861, section 7.1) and its checksum."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = source + group + struct.pack("!II", len(message), ICMPV6)
    message = struct.pack("!BBH", kind, 0, _checksum(pseudo + message)) + body
    header = struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255) + source + group
    return b"\x33\x33" + group[12:] + mac + struct.pack("!H", ETH_P_IPV6) + header + message


def _checksum(data: bytes) -> int:
    """Return the ones' complement of the ones' complement sum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
