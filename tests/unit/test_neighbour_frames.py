"""Frames that announce an address or ask for one, decoded by an independent implementation."""

from __future__ import annotations

import ipaddress

from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from agent.core.nexthop.neighbour_frames import announcement, solicitation

MAC = bytes.fromhex("020000000018")
TEXT = "02:00:00:00:00:18"


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def has_right_checksum(frame: bytes) -> bool:
    packet = Ether(frame)
    sent = packet[IPv6].payload.cksum
    del packet[IPv6].payload.cksum
    return bool(Ether(bytes(packet))[IPv6].payload.cksum == sent)


def test_an_ipv4_address_is_announced_by_a_request_for_itself() -> None:
    frame = Ether(announcement(MAC, packed("10.0.0.1")))
    assert (frame.dst, frame.src) == ("ff:ff:ff:ff:ff:ff", TEXT)
    arp = frame[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (1, TEXT, "10.0.0.1", "00:00:00:00:00:00", "10.0.0.1")


def test_an_ipv4_next_hop_is_asked_for_by_broadcast() -> None:
    frame = Ether(solicitation(MAC, packed("10.0.0.1"), packed("10.0.0.2")))
    assert (frame.dst, frame[ARP].psrc, frame[ARP].pdst) == ("ff:ff:ff:ff:ff:ff", "10.0.0.1", "10.0.0.2")


def test_an_ipv6_address_is_announced_to_all_nodes_with_the_override_flag() -> None:
    raw = announcement(MAC, packed("fd18::1"))
    frame = Ether(raw)
    assert (frame.dst, frame[IPv6].dst, frame[IPv6].src, frame[IPv6].hlim) == (
        "33:33:00:00:00:01",
        "ff02::1",
        "fd18::1",
        255,
    )
    found = frame[ICMPv6ND_NA]
    assert (found.R, found.S, found.O, found.tgt) == (0, 0, 1, "fd18::1")
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == TEXT
    assert has_right_checksum(raw)


def test_an_ipv6_next_hop_is_asked_for_at_its_solicited_node_address() -> None:
    raw = solicitation(MAC, packed("fd18::1"), packed("fe80::aa:bbcc:ddee"))
    frame = Ether(raw)
    assert (frame.dst, frame[IPv6].dst, frame[IPv6].hlim) == ("33:33:ff:cc:dd:ee", "ff02::1:ffcc:ddee", 255)
    assert frame[ICMPv6ND_NS].tgt == "fe80::aa:bbcc:ddee"
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == TEXT
    assert has_right_checksum(raw)
