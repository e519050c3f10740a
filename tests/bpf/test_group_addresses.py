"""What goes to a group or to everybody, by Ethernet or by IP, ends on its sender's host and crosses no wire."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import A6, D1, D4, ELSEWHERE, GATEWAY, MAC, R6, UNKNOWN, VNI, A, B, Dut, R
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

GW, ALL = p.GATEWAY_MAC, b"\xff" * 6
GROUP4, GROUP6 = bytes.fromhex("01005e0000fb"), bytes.fromhex("333300000001")
SUBNET, OTHER_SUBNET = "10.0.0.255", "10.0.1.255"
BOUNCES, DIVIDES = map_layout.NETWORK_LOCAL_BOUNCER, map_layout.VPC_LOCAL_DIVIDER


def ipv4(to: str, mac: bytes, source: str = A, payload: bytes | None = None) -> bytes:
    return p.ethernet(mac, MAC[A], p.IPV4, p.ipv4(source, to, p.udp() if payload is None else payload))


def ipv6(to: str, mac: bytes, source: str = A6) -> bytes:
    return p.ethernet(mac, MAC[A], p.IPV6, p.ipv6(source, to, p.udp()))


FRAMES = [
    ("a group's packet in a group's frame", ipv4("224.0.0.251", GROUP4)),
    ("a group's packet in one host's frame", ipv4("224.0.0.251", MAC[R])),
    ("a group's packet to the gateway", ipv4("239.1.2.3", GW)),
    ("everybody's packet in everybody's frame", ipv4("255.255.255.255", ALL)),
    ("everybody's packet in one host's frame", ipv4("255.255.255.255", MAC[R])),
    ("a subnet's packet in everybody's frame", ipv4(SUBNET, ALL)),
    ("a subnet's packet in one host's frame", ipv4(SUBNET, MAC[R])),
    ("another subnet's packet to the gateway", ipv4(OTHER_SUBNET, GW)),
    ("a subnet's packet that is too long", ipv4(SUBNET, MAC[R], payload=p.udp(data=bytes(1450)))),
    ("one host's packet in everybody's frame", ipv4(R, ALL)),
    ("one host's packet in a group's frame", ipv4(R, GROUP4)),
    ("an endpoint of this host's packet in everybody's frame", ipv4(B, ALL)),
    ("the gateway's packet in everybody's frame", ipv4(GATEWAY, ALL)),
    ("a question for an address by DHCP", ipv4("255.255.255.255", ALL, "0.0.0.0")),
    ("a group's packet of IPv6 in a group's frame", ipv6("ff02::1", GROUP6)),
    ("a group's packet of IPv6 in one host's frame", ipv6("ff05::2", MAC[R])),
    ("one host's packet of IPv6 in a group's frame", ipv6(R6, GROUP6)),
    ("a greeting without an address", ipv6("ff02::16", GROUP6, "::")),
    ("neither IP nor ARP, to everybody", p.ethernet(ALL, MAC[A], 0x88B5, bytes(50))),
    ("neither IP nor ARP, to a group", p.ethernet(bytes.fromhex("0180c200000e"), MAC[A], 0x88CC, bytes(50))),
    ("a question for a group", p.ethernet(ALL, MAC[A], p.ARP, p.arp(MAC[A], A, "224.0.0.1"))),
    ("a question for everybody", p.ethernet(ALL, MAC[A], p.ARP, p.arp(MAC[A], A, "255.255.255.255"))),
    ("a question for a subnet's broadcast address", p.ethernet(ALL, MAC[A], p.ARP, p.arp(MAC[A], A, SUBNET))),
]


@pytest.mark.parametrize("bounces", [False, True], ids=["", "on its bouncer"])
@pytest.mark.parametrize(("sentence", "frame"), FRAMES, ids=[row[0] for row in FRAMES])
def test_multicast_and_broadcast_packets_end_on_the_senders_host(
    dut: Dut, sentence: str, frame: bytes, bounces: bool
) -> None:
    """No ICMP error tells of it either (RFC 1122 section 3.2.2)."""
    if bounces:
        dut.own_network((D1,), BOUNCES)
    assert dut.from_endpoint(frame).outcome is Outcome.MULTICAST, sentence


def test_a_pinned_networks_packet_to_another_subnet_passes_no_divider(dut: Dut) -> None:
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    assert dut.from_endpoint(ipv4(OTHER_SUBNET, GW)).outcome is Outcome.MULTICAST


@pytest.mark.parametrize("prefix", [31, 32])
def test_a_network_of_one_or_two_addresses_has_no_broadcast_address(dut: Dut, prefix: int) -> None:
    """RFC 3021: both are hosts'."""
    dut.network(f"10.0.7.255/{prefix}" if prefix == 32 else "10.0.7.254/31", "10.0.7.254", (D4,))
    assert dut.from_endpoint(ipv4("10.0.7.255", GW)).outcome is Outcome.SENT_TO_BOUNCER


@pytest.mark.parametrize("frame", [ipv4(ELSEWHERE, GW), ipv4("10.0.0.3", MAC[R]), ipv4("10.9.9.255", GW),
                                   ipv6("fd00::ff", MAC[R])])  # fmt: skip
def test_other_addresses_are_forwarded(dut: Dut, frame: bytes) -> None:
    assert dut.from_endpoint(frame).outcome in {Outcome.SENT_DIRECT, Outcome.SENT_TO_BOUNCER}


@pytest.mark.parametrize("to", [ALL, GROUP4, GROUP6])
def test_arp_and_neighbour_solicitations_to_groups_are_answered(dut: Dut, to: bytes) -> None:
    asks = p.ethernet(to, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN))
    assert dut.from_endpoint(asks).outcome is Outcome.SENT_TO_BOUNCER
    solicits = p.ethernet(to, MAC[A], p.IPV6, p.nd(A6, "ff02::1:ff00:3", R6, MAC[A]))
    assert dut.from_endpoint(solicits).outcome is Outcome.ND_ANSWERED


FLOODED = [
    ("to an endpoint, in everybody's frame", frame_to(to_mac=ALL)),
    ("to an endpoint over IPv6, in a group's frame", frame_to(A6, R6, GROUP6)),
    ("to a subnet", frame_to(SUBNET)),
    ("to a group", frame_to("224.0.0.1", to_mac=GROUP4)),
]


@pytest.mark.parametrize(("sentence", "frame"), FLOODED, ids=[row[0] for row in FLOODED])
def test_packets_that_a_vxlan_peer_floods_are_not_forwarded(dut: Dut, sentence: str, frame: bytes) -> None:
    """Which may send what an agent's host would not."""
    dut.own_network((D1,), BOUNCES)
    assert dut.from_underlay(Outer(port=4789).wrap(p.vxlan(VNI, frame))).outcome is Outcome.MULTICAST, sentence


def test_a_broadcast_to_a_subnet_unknown_to_the_senders_host_ends_at_the_divider(dut: Dut) -> None:
    dut.vpc((D1,), DIVIDES)
    run = dut.from_underlay(tunnelled(frame_to(OTHER_SUBNET), options=p.rts(D4)))
    assert run.outcome is Outcome.MULTICAST


def test_a_packet_from_a_broadcast_address_teaches_no_path_there(dut: Dut) -> None:
    """By which packets to everybody would leave their sender's host."""
    assert dut.from_underlay(tunnelled(frame_to(A, SUBNET))).outcome is Outcome.DELIVERED
    assert dut.direct(SUBNET) is None
    assert dut.from_endpoint(ipv4(SUBNET, MAC[R])).outcome is Outcome.MULTICAST
