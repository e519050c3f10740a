"""What endpoints send: a sentence, a frame, an outcome; then the bytes that go out."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    D1,
    D2,
    D3,
    D4,
    D5,
    DROPLET_MAC,
    ELSEWHERE,
    GATEWAY,
    LOOPBACK,
    MAC,
    UNCOUNTED,
    UNCOUNTED_SLOT,
    UNKNOWN,
    VNI,
    XDP_ONLY,
    A,
    B,
    Dut,
    R,
)
from bpf_tunnels import tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

GW = p.GATEWAY_MAC
ROUTED = "10.0.1.9"


def from_a(packet: bytes, to: bytes = MAC[R], kind: int = p.IPV4, source: bytes = MAC[A]) -> bytes:
    return p.ethernet(to, source, kind, packet)


def asks(target: str, sender: str = A, sender_mac: bytes = MAC[A], **other: object) -> bytes:
    return from_a(p.arp(sender_mac, sender, target, **other), b"\xff" * 6, p.ARP)  # type: ignore[arg-type]


TABLE = [
    ("a packet to an endpoint on a known droplet goes direct", from_a(p.ipv4(A, R, p.udp())), Outcome.SENT_DIRECT),
    ("TCP goes the same way", from_a(p.ipv4(A, R, bytes(20), protocol=p.TCP)), Outcome.SENT_DIRECT),
    ("a later fragment goes too", from_a(p.ipv4(A, R, b"1234", fragment=100)), Outcome.SENT_DIRECT),
    ("IPv4 options do not matter", from_a(p.ipv4(A, R, p.udp(), options=b"\1" * 8)), Outcome.SENT_DIRECT),
    ("an unknown address goes to a bouncer", from_a(p.ipv4(A, UNKNOWN, p.udp())), Outcome.SENT_TO_BOUNCER),
    ("another network's address goes to the own bouncer", from_a(p.ipv4(A, ROUTED, p.udp()), GW),
     Outcome.SENT_TO_BOUNCER),
    ("an endpoint of this host gets it at once", from_a(p.ipv4(A, B, p.udp())), Outcome.DELIVERED_SAME_HOST),
    ("routed to an endpoint of this host", from_a(p.ipv4(A, B, p.udp()), GW), Outcome.DELIVERED_SAME_HOST),
    ("another Ethernet source", from_a(p.ipv4(A, R, p.udp()), source=MAC[B]), Outcome.SOURCE_MAC),
    ("another IPv4 source", from_a(p.ipv4(B, R, p.udp())), Outcome.SOURCE_ADDRESS),
    ("a multicast group", from_a(p.ipv4(A, "224.0.0.251", p.udp())), Outcome.MULTICAST),
    ("everybody", from_a(p.ipv4(A, "255.255.255.255", p.udp())), Outcome.MULTICAST),
    ("a tunnel packet of its own", from_a(p.ipv4(A, R, p.udp(destination=6081))), Outcome.SENT_DIRECT),
    ("a tunnel packet of its own to a droplet's address", from_a(p.ipv4(A, D2, p.udp(destination=6081)), GW),
     Outcome.SENT_TO_BOUNCER),
    ("version 0 in IPv6's ethertype", from_a(bytes(40), kind=p.IPV6), Outcome.MALFORMED_INNER),
    ("a VLAN tag", from_a(bytes(40), kind=0x8100), Outcome.INNER_PROTOCOL),
    ("routed with a time to live of 1", from_a(p.ipv4(A, R, p.udp(), ttl=1), GW), Outcome.ICMP_TTL_EXCEEDED_SENT),
    ("routed with a time to live of 0", from_a(p.ipv4(A, R, p.udp(), ttl=0), GW), Outcome.ICMP_TTL_EXCEEDED_SENT),
    ("switched with a time to live of 1", from_a(p.ipv4(A, R, p.udp(), ttl=1)), Outcome.SENT_DIRECT),
    ("an echo request to the gateway", from_a(p.ipv4(A, GATEWAY, p.echo(), protocol=1), GW), Outcome.GATEWAY_ECHO),
    ("to the gateway with a time to live of 1", from_a(p.ipv4(A, GATEWAY, p.echo(), protocol=1, ttl=1), GW),
     Outcome.GATEWAY_ECHO),
    ("an echo reply to the gateway", from_a(p.ipv4(A, GATEWAY, p.echo(kind=0), protocol=1), GW), Outcome.TO_GATEWAY),
    ("an echo with a code", from_a(p.ipv4(A, GATEWAY, p.echo(code=3), protocol=1), GW), Outcome.TO_GATEWAY),
    ("UDP to the gateway", from_a(p.ipv4(A, GATEWAY, p.udp()), GW), Outcome.GATEWAY_REFUSED),
    ("a fragment to the gateway", from_a(p.ipv4(A, GATEWAY, p.echo(), protocol=1, fragment=0x2000), GW),
     Outcome.GATEWAY_ECHO),
    ("an echo request cut short", from_a(p.ipv4(A, GATEWAY, b"\x08\x00", protocol=1), GW), Outcome.TO_GATEWAY),
    ("version 6 in IPv4's ethertype", from_a(p.ipv4(A, R, p.udp(), version=6)), Outcome.MALFORMED_INNER),
    ("a header of 16 bytes", from_a(p.ipv4(A, R, p.udp(), header_words=4)), Outcome.MALFORMED_INNER),
    ("a header longer than the packet", from_a(p.ipv4(A, R, header_words=15)), Outcome.MALFORMED_INNER),
    ("a length below the header's", from_a(p.ipv4(A, R, p.udp(), length=19)), Outcome.MALFORMED_INNER),
    ("a length above the frame's", from_a(p.ipv4(A, R, p.udp(), length=200)), Outcome.MALFORMED_INNER),
    ("UDP without room for its ports", from_a(p.ipv4(A, R, b"ab")), Outcome.MALFORMED_INNER),
    ("ports that lie behind the packet's end", from_a(p.ipv4(A, R, p.udp(), length=22)), Outcome.MALFORMED_INNER),
    ("a question for a local endpoint", asks(B), Outcome.ARP_ANSWERED),
    ("a question for a known remote endpoint", asks(R), Outcome.ARP_ANSWERED),
    ("a question for the gateway", asks(GATEWAY), Outcome.ARP_ANSWERED),
    ("a probe of another's address", asks(B, sender="0.0.0.0"), Outcome.ARP_ANSWERED),
    ("a question for an unknown address", asks(UNKNOWN), Outcome.SENT_TO_BOUNCER),
    ("its own address announced", asks(A), Outcome.ARP_OWN_ADDRESS),
    ("its own address probed", asks(A, sender="0.0.0.0"), Outcome.ARP_OWN_ADDRESS),
    ("a question in another's name", asks(R, sender=B), Outcome.SOURCE_ARP),
    ("a question with another's Ethernet address", asks(R, sender_mac=MAC[B]), Outcome.SOURCE_ARP),
    ("an ARP reply", asks(R, operation=2), Outcome.ARP_OPCODE),
    ("a reverse ARP question", asks(R, operation=3), Outcome.ARP_OPCODE),
    ("ARP for another hardware", asks(R, head=bytes.fromhex("000608000604")), Outcome.MALFORMED_ARP),
    ("ARP for another protocol", asks(R, head=bytes.fromhex("000108060604")), Outcome.MALFORMED_ARP),
    ("ARP with long hardware addresses", asks(R, head=bytes.fromhex("000108000804")), Outcome.MALFORMED_ARP),
    ("ARP cut short", asks(R)[:-1], Outcome.MALFORMED_ARP),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_a_frame_from_an_endpoint(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    run = dut.from_endpoint(frame)
    assert run.outcome is outcome, sentence


@pytest.mark.parametrize("length", range(14, 42))
def test_a_frame_cut_anywhere_is_dropped(dut: Dut, length: int) -> None:
    frame = from_a(p.ipv4(A, R, p.udp()))
    expected = Outcome.MALFORMED_INNER
    assert dut.from_endpoint(frame[:length]).outcome is expected


@pytest.mark.parametrize("arrival", [UNCOUNTED, LOOPBACK])
def test_an_interface_of_no_endpoint_reaches_nothing(dut: Dut, arrival: int) -> None:
    """Neither one of a slot that is not taken, nor one below all slots."""
    run = dut.from_endpoint(from_a(p.ipv4(A, R, p.udp())), arrival=arrival)
    assert run.outcome is Outcome.UNKNOWN_INTERFACE


def test_nothing_leaves_before_the_droplet_is_configured(dut: Dut) -> None:
    dut.local(0, D1, 0)
    run = dut.from_endpoint(from_a(p.ipv4(A, R, p.udp())))
    assert run.outcome is Outcome.NO_LOCAL_DROPLET


def test_without_transit_xdp_nothing_is_delivered_on_the_same_host(dut: Dut) -> None:
    dut.remove(dut.jump_table, map_layout.U32.pack(0))
    run = dut.from_endpoint(from_a(p.ipv4(A, B, p.udp())))
    assert run.outcome is Outcome.NO_PROGRAM


def test_a_droplet_without_a_neighbour_entry_is_not_sent_to(dut: Dut) -> None:
    dut.no_next_hop(D3)
    run = dut.from_endpoint(from_a(p.ipv4(A, UNKNOWN, p.udp())))
    assert run.outcome is Outcome.NEXT_HOP_UNRESOLVED


@XDP_ONLY
def test_a_frame_without_headroom_is_dropped(dut: Dut) -> None:
    run = dut.from_endpoint(from_a(p.ipv4(A, R, p.udp())), metadata=200)
    assert run.outcome is Outcome.NO_HEADROOM


@pytest.mark.parametrize("frame", [from_a(p.ipv4(A, UNKNOWN, p.udp())), asks(R)], ids=["IPv4", "ARP"])
def test_without_its_network_an_endpoint_reaches_no_bouncer(dut: Dut, frame: bytes) -> None:
    dut.remove(MapName.NETWORKS, map_layout.network_key(VNI, p.ip("10.0.0.0"), 24))
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.NO_NETWORK


def test_a_network_without_bouncers_is_a_reason_of_its_own(dut: Dut) -> None:
    dut.own_network(())
    assert dut.from_endpoint(asks(UNKNOWN)).outcome is Outcome.NO_BOUNCER


ROLES = [
    ("its own bouncer knows all endpoints", UNKNOWN, 0, (D4,), Outcome.ICMP_UNREACHABLE_SENT),
    ("another network's packet goes to a divider", ELSEWHERE, 0, (D4,), Outcome.HANDED_TO_DIVIDER),
    ("its own divider goes to the bouncer", ELSEWHERE, 1, (D4,), Outcome.HANDED_TO_BOUNCER),
    ("its own divider, no bouncer", ELSEWHERE, 1, (), Outcome.ICMP_UNREACHABLE_SENT),
    ("its own divider, no such network", "10.9.9.9", 1, (D4,), Outcome.ICMP_UNREACHABLE_SENT),
]


@pytest.mark.parametrize(("sentence", "to", "divides", "bouncers", "outcome"), ROLES, ids=[r[0] for r in ROLES])
def test_a_droplet_that_bounces_its_endpoints_network(
    dut: Dut, sentence: str, to: str, divides: int, bouncers: tuple[str, ...], outcome: Outcome
) -> None:
    dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    dut.other_network(bouncers)
    dut.vpc((D1,) if divides else (D5,), divides * map_layout.VPC_LOCAL_DIVIDER)
    assert dut.from_endpoint(from_a(p.ipv4(A, to, p.udp()), GW)).outcome is outcome, sentence


def test_the_bouncer_itself_does_not_ask_another_bouncer(dut: Dut) -> None:
    dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    assert dut.from_endpoint(asks(UNKNOWN)).outcome is Outcome.NO_ENDPOINT


def test_a_fresh_direct_path_wins_over_the_bouncer_and_a_stale_one_does_not(dut: Dut) -> None:
    frame = from_a(p.ipv4(A, UNKNOWN, p.udp()))
    dut.from_underlay(tunnelled())
    learnt = dut.direct(R)
    assert learnt is not None
    dut.path(UNKNOWN, D4, learnt[2] - 5 * ticks_per_second())
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.SENT_DIRECT
    assert run.frame[30:34] == p.ip(D4)
    dut.path(UNKNOWN, D4, learnt[2] - 10 * ticks_per_second())
    assert dut.from_endpoint(frame).outcome is Outcome.SENT_TO_BOUNCER


def test_a_direct_packet_carries_no_option_and_every_outer_field_is_right(dut: Dut) -> None:
    inner = from_a(p.ipv4(A, R, p.udp(), tos=0xB9))
    dut.interface(dscp=0x0A)
    run = dut.from_endpoint(inner)
    head, rest = run.frame[:34], run.frame[34:]
    assert head[:14] == p.ethernet(DROPLET_MAC[D2], DROPLET_MAC[D1])
    assert head[14:] == p.ipv4(D1, D2, length=36 + len(inner), tos=0x29, fragment=p.DF), (
        "DSCP is the endpoint's class, ECN the inner one, DF is set, the checksum is right"
    )
    assert rest[2:8] == b"\x17\xc1" + (16 + len(inner)).to_bytes(2, "big") + b"\0\0"
    assert int.from_bytes(rest[:2], "big") >= 49152
    assert rest[8:] == p.geneve(VNI, inner)


def test_a_packet_to_a_bouncer_carries_return_to_sender(dut: Dut) -> None:
    inner = from_a(p.ipv4(A, UNKNOWN, p.udp()))
    run = dut.from_endpoint(inner)
    assert run.frame[30:34] == p.ip(D3)
    assert run.frame[42:] == p.geneve(VNI, inner, options=p.rts(D1))


def test_a_routed_packet_loses_one_hop_and_keeps_a_right_checksum(dut: Dut) -> None:
    run = dut.from_endpoint(from_a(p.ipv4(A, R, p.udp(), ttl=9), GW))
    assert run.frame[50:] == from_a(p.ipv4(A, R, p.udp(), ttl=8), GW)


def test_on_the_same_host_the_frame_reaches_the_endpoints_address_without_a_tunnel(dut: Dut) -> None:
    assert dut.from_endpoint(from_a(p.ipv4(A, B, p.udp()), MAC[R])).frame == p.ethernet(
        MAC[B], MAC[A], p.IPV4, p.ipv4(A, B, p.udp())
    )
    assert dut.from_endpoint(from_a(p.ipv4(A, B, p.udp(), ttl=9), GW)).frame == p.ethernet(
        MAC[B], GW, p.IPV4, p.ipv4(A, B, p.udp(), ttl=8)
    )


@pytest.mark.parametrize(("target", "mac"), [(B, MAC[B]), (R, MAC[R]), (GATEWAY, GW)])
def test_an_arp_answer_names_the_target_to_the_asker(dut: Dut, target: str, mac: bytes) -> None:
    run = dut.from_endpoint(asks(target))
    assert run.frame == p.ethernet(MAC[A], mac, p.ARP, p.arp(mac, target, A, operation=2, target_mac=MAC[A]))


def test_the_gateways_echo_reply_is_whole(dut: Dut) -> None:
    run = dut.from_endpoint(from_a(p.ipv4(A, GATEWAY, p.echo(), protocol=p.ICMP), GW))
    assert run.frame == p.ethernet(MAC[A], GW, p.IPV4, p.ipv4(GATEWAY, A, p.echo(kind=0), protocol=p.ICMP))


def test_the_source_port_is_the_flows_and_one_for_all_fragments(dut: Dut) -> None:
    def port(packet: bytes) -> bytes:
        return dut.from_endpoint(from_a(packet)).frame[34:36]

    flows = {port(p.ipv4(A, R, p.udp(source))) for source in range(1000, 1064)}
    assert len(flows) > 50
    assert port(p.ipv4(A, R, p.udp(5))) == port(p.ipv4(A, R, p.udp(5, data=b"other")))
    first, later = p.ipv4(A, R, p.udp(5), fragment=0x2000), p.ipv4(A, R, b"later", fragment=100)
    assert port(first) == port(later)


def test_the_endpoints_counters_follow_its_frames(dut: Dut) -> None:
    before = dut.endpoint_traffic(1)
    dut.from_endpoint(from_a(p.ipv4(A, R, p.udp())))
    dut.from_endpoint(from_a(p.ipv4(A, B, p.udp())))
    dut.from_endpoint(from_a(p.ipv4(A, UNKNOWN, p.udp())))
    dut.from_endpoint(from_a(p.ipv4(B, R, p.udp())))
    dut.from_endpoint(asks(B))
    after = dut.endpoint_traffic(1)
    assert tuple(b - a for a, b in zip(before, after, strict=True)) == (3, 2, 0, 1)


def test_a_slot_without_a_counter_changes_no_verdict(dut: Dut) -> None:
    dut.interface(slot=UNCOUNTED_SLOT)
    assert dut.from_endpoint(from_a(p.ipv4(A, R, p.udp())), arrival=UNCOUNTED).outcome is Outcome.SENT_DIRECT


def test_the_same_address_in_another_vpc_is_another_address(dut: Dut) -> None:
    dut.interface(vni=VNI + 1)
    assert dut.from_endpoint(from_a(p.ipv4(A, R, p.udp()))).outcome is Outcome.NO_NETWORK
    assert dut.from_endpoint(asks(B)).outcome is Outcome.NO_NETWORK
