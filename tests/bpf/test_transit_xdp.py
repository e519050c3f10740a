"""What comes in from the underlay: a sentence, a frame, an outcome; then roles, bytes and learning."""

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
    MAC,
    SLOT,
    STRANGER,
    UNKNOWN,
    VNI,
    A,
    B,
    Dut,
    R,
    key,
    mapped,
)
from bpf_tunnels import Outer, asks, frame_to, six, tunnelled
from lab.waiting import until

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

GW = p.GATEWAY_MAC
UNHEARD = "10.0.0.44"
"""A source that no document tells of."""


SKIPPED = p.option(0x0102, 0x05, bytes(4))
CRITICAL = p.option(0x0102, 0x85, bytes(4))
RTS = p.rts(D4)

TABLE = [
    ("a packet for an endpoint of this droplet", tunnelled(), Outcome.DELIVERED),
    ("with return to sender", tunnelled(options=RTS), Outcome.DELIVERED),
    ("with an unknown option before it", tunnelled(options=SKIPPED + RTS), Outcome.DELIVERED),
    ("with an unknown option behind it", tunnelled(options=RTS + SKIPPED), Outcome.DELIVERED),
    ("with eight options", tunnelled(options=SKIPPED * 7 + RTS), Outcome.DELIVERED),
    ("with the longest option", tunnelled(options=p.option(1, 1, bytes(124))), Outcome.DELIVERED),
    ("with all the options that fit", tunnelled(options=p.option(1, 1, bytes(122 // 4 * 4)) * 2), Outcome.DELIVERED),
    ("with padding behind the IPv4 packet", tunnelled() + bytes(8), Outcome.DELIVERED),
    ("a bouncer's ARP reply for an endpoint", tunnelled(asks(A, operation=2), options=RTS), Outcome.DELIVERED),
    ("anybody else's ARP reply", tunnelled(asks(A, operation=2)), Outcome.ARP_OPCODE),
    ("IPv6", p.ethernet(DROPLET_MAC[D1], DROPLET_MAC[D2], p.IPV6, bytes(60)), Outcome.PASSED),
    ("ARP of the underlay", p.ethernet(b"\xff" * 6, DROPLET_MAC[D2], p.ARP, bytes(28)), Outcome.PASSED),
    ("another UDP port", tunnelled(outer=Outer(port=53)), Outcome.PASSED),
    ("another protocol", tunnelled(outer=Outer(protocol=p.TCP)), Outcome.PASSED),
    ("another address", tunnelled(outer=Outer(destination=D3)), Outcome.PASSED),
    ("a later fragment", tunnelled(outer=Outer(fragment=100)), Outcome.PASSED),
    ("an Ethernet header alone", tunnelled()[:14], Outcome.PASSED),
    ("a first fragment", tunnelled(outer=Outer(fragment=0x2000)), Outcome.OUTER_FRAGMENT),
    ("IPv4 options", tunnelled(outer=Outer(ip_options=b"\1" * 4)), Outcome.OUTER_OPTIONS),
    ("an IPv4 length below UDP's", tunnelled(outer=Outer(ip_length=60)), Outcome.MALFORMED_OUTER),
    ("an IPv4 length above the frame's", tunnelled(outer=Outer(ip_length=900, udp_length=880)),
     Outcome.MALFORMED_OUTER),
    ("a UDP length below Geneve's", tunnelled(outer=Outer(ip_length=35, udp_length=15)), Outcome.MALFORMED_OUTER),
    ("a stranger's tunnel", tunnelled(outer=Outer(source=STRANGER)), Outcome.UNKNOWN_DROPLET),
    ("a stranger's malformed tunnel", tunnelled(outer=Outer(source=STRANGER), version=1), Outcome.UNKNOWN_DROPLET),
    ("our own address as source", tunnelled(outer=Outer(source=D1)), Outcome.UNKNOWN_DROPLET),
    ("Geneve version 1", tunnelled(version=1), Outcome.GENEVE_VERSION),
    ("a control packet", tunnelled(flags=0x80), Outcome.GENEVE_CONTROL),
    ("the critical flag alone", tunnelled(flags=0x40), Outcome.DELIVERED),
    ("IPv4 right inside Geneve", tunnelled(protocol=0x0800), Outcome.GENEVE_PROTOCOL),
    ("with 63 options", tunnelled(options=p.option(1, 1) * 63), Outcome.DELIVERED),
    ("an unknown critical option", tunnelled(options=CRITICAL), Outcome.CRITICAL_OPTION),
    ("a critical option behind return to sender", tunnelled(options=RTS + CRITICAL), Outcome.CRITICAL_OPTION),
    ("an option longer than the options", tunnelled(options=p.option(1, 1, bytes(8)), option_words=1),
     Outcome.MALFORMED_GENEVE),
    ("options longer than the packet", tunnelled(b"", option_words=63), Outcome.MALFORMED_GENEVE),
    ("return to sender of 4 bytes", tunnelled(options=p.option(0xFF4D, 1, bytes(4))), Outcome.MALFORMED_GENEVE),
    ("return to sender of 12 bytes", tunnelled(options=p.option(0xFF4D, 1, bytes(12))), Outcome.MALFORMED_GENEVE),
    ("no inner frame", tunnelled(b""), Outcome.MALFORMED_GENEVE),
    ("an inner Ethernet header cut short", tunnelled(bytes(13)), Outcome.MALFORMED_GENEVE),
    ("a VLAN tag inside", tunnelled(p.ethernet(MAC[A], MAC[R], p.VLAN, bytes(40))), Outcome.INNER_PROTOCOL),
    ("IPv6 without its version inside", tunnelled(p.ethernet(MAC[A], MAC[R], p.IPV6, bytes(40))),
     Outcome.MALFORMED_INNER),
    ("inner IPv4 cut short", tunnelled(frame_to()[:33]), Outcome.MALFORMED_INNER),
    ("an inner length above the frame's", tunnelled(frame_to(length=99)), Outcome.MALFORMED_INNER),
    ("an inner length that only padding makes true", tunnelled(frame_to(length=40)) + bytes(20),
     Outcome.MALFORMED_INNER),
    ("inner version 5", tunnelled(frame_to(version=5)), Outcome.MALFORMED_INNER),
    ("inner ARP cut short", tunnelled(asks(A)[:-1]), Outcome.MALFORMED_ARP),
    ("an inner RARP question", tunnelled(asks(A, operation=3)), Outcome.ARP_OPCODE),
    ("an ARP reply for nobody here", tunnelled(asks(UNKNOWN, operation=2), options=RTS), Outcome.ENDPOINT_NOT_LOCAL),
    ("an ARP reply for a remote endpoint", tunnelled(asks(R, operation=2), options=RTS), Outcome.ENDPOINT_NOT_LOCAL),
    ("an ARP question for an endpoint of this droplet", tunnelled(asks(A)), Outcome.ARP_ANSWERED_REMOTE),
    ("an ARP question, but no role", tunnelled(asks(R), options=RTS), Outcome.ENDPOINT_NOT_LOCAL),
    ("an unknown address, but no role", tunnelled(frame_to(UNKNOWN), options=RTS), Outcome.MISDIRECTED),
    ("an unknown address that came straight", tunnelled(frame_to(UNKNOWN)), Outcome.RETURNED),
    ("another droplet's endpoint", tunnelled(frame_to(R)), Outcome.BOUNCED),
    ("too many bounces", tunnelled(frame_to(R), options=p.rts(D4, 4)), Outcome.TOO_MANY_BOUNCES),
    ("the last bounce", tunnelled(frame_to(R), options=p.rts(D4, 3)), Outcome.BOUNCED),
    ("an outer time to live of 1 to be sent on", tunnelled(frame_to(R), Outer(ttl=1)), Outcome.OUTER_TTL),
    ("an outer time to live of 1 to be delivered", tunnelled(outer=Outer(ttl=1)), Outcome.DELIVERED),
    ("congestion marked for a deaf flow", tunnelled(outer=Outer(tos=3)), Outcome.ECN_NOT_CAPABLE),
    ("the source of an endpoint of ours", tunnelled(frame_to(A, source=B)), Outcome.SOURCE_ELSEWHERE),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_a_frame_from_the_underlay(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    run = dut.from_underlay(frame)
    assert run.outcome is outcome, sentence


@pytest.mark.parametrize("length", range(14, len(tunnelled(options=RTS + SKIPPED))))
def test_a_tunnel_packet_cut_anywhere_is_not_delivered(dut: Dut, length: int) -> None:
    run = dut.from_underlay(tunnelled(options=RTS + SKIPPED)[:length])
    assert run.outcome is (Outcome.PASSED if length < 42 else Outcome.MALFORMED_OUTER)


WHOLE = p.geneve(VNI, frame_to(), options=RTS + SKIPPED)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_payload_cut_anywhere_under_right_outer_lengths_is_not_delivered(dut: Dut, length: int) -> None:
    outcome = dut.from_underlay(Outer().wrap(WHOLE[:length])).outcome
    assert outcome in {Outcome.MALFORMED_OUTER, Outcome.MALFORMED_GENEVE, Outcome.MALFORMED_INNER}


BOUNCES, DIVIDES = map_layout.NETWORK_LOCAL_BOUNCER, map_layout.VPC_LOCAL_DIVIDER
ROLES = [
    ("the bouncer does not know it", UNKNOWN, BOUNCES, 0, (D4,), (D5,), Outcome.ICMP_UNREACHABLE_SENT_REMOTE, None),
    ("the bouncer asks a divider about another network", ELSEWHERE, BOUNCES, 0, (D4,), (D5,),
     Outcome.HANDED_TO_DIVIDER, D5),
    ("the bouncer has no divider", ELSEWHERE, BOUNCES, 0, (D4,), (), Outcome.ICMP_UNREACHABLE_SENT_REMOTE, None),
    ("the divider knows the network's bouncer", ELSEWHERE, 0, DIVIDES, (D4,), (), Outcome.HANDED_TO_BOUNCER, D4),
    ("bouncer and divider in one", ELSEWHERE, BOUNCES, DIVIDES, (D4,), (), Outcome.HANDED_TO_BOUNCER, D4),
    ("the network has no bouncer", ELSEWHERE, 0, DIVIDES, (), (), Outcome.ICMP_UNREACHABLE_SENT_REMOTE, None),
    ("the divider has no such network", "10.9.9.9", 0, DIVIDES, (D4,), (), Outcome.ICMP_UNREACHABLE_SENT_REMOTE, None),
    ("a bouncer that is said to be this droplet", ELSEWHERE, 0, DIVIDES, (D1,), (), Outcome.ENDPOINT_NOT_LOCAL, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "to", "bounces", "divides", "bouncers", "dividers", "outcome", "next_droplet"),
    ROLES,
    ids=[row[0] for row in ROLES],
)
def test_a_role_for_an_unknown_address(
    dut: Dut,
    sentence: str,
    to: str,
    bounces: int,
    divides: int,
    bouncers: tuple[str, ...],
    dividers: tuple[str, ...],
    outcome: Outcome,
    next_droplet: str | None,
) -> None:
    dut.own_network((D3,), bounces)
    dut.other_network(bouncers)
    dut.vpc(dividers, divides)
    run = dut.from_underlay(tunnelled(frame_to(to), options=p.rts(D4)))
    assert run.outcome is outcome, sentence
    if next_droplet:
        assert run.frame[30:34] == p.ip(next_droplet)


def test_an_unknown_vpc(dut: Dut) -> None:
    run = dut.from_underlay(Outer().wrap(p.geneve(VNI + 1, frame_to(), options=p.rts(D4, 1, p.UNLEARNT))))
    assert run.outcome is Outcome.NO_VPC


def test_an_endpoint_on_this_droplet_without_an_interface_is_not_bounced_to_itself(dut: Dut) -> None:
    dut.endpoint(R, D1)
    assert dut.from_underlay(tunnelled(frame_to(R))).outcome is Outcome.ENDPOINT_NOT_LOCAL


def test_a_bounced_packet_keeps_its_origin_tos_port_and_loses_one_hop(dut: Dut) -> None:
    dut.endpoint(R, D3)
    run = dut.from_underlay(tunnelled(frame_to(R), Outer(tos=0xB8, ttl=9), options=p.rts(D4, 1) + SKIPPED))
    outer = Outer(D1, D3, tos=0xB8, ttl=8, fragment=p.DF)
    expected = outer.wrap(p.geneve(VNI, frame_to(R), options=p.rts(D4, 2)))
    assert run.frame == p.ethernet(DROPLET_MAC[D3], DROPLET_MAC[D1]) + expected[14:]


def test_a_packet_that_came_direct_is_bounced_with_its_droplet_as_origin(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(frame_to(R), Outer(source=D5)))
    assert run.frame[42:] == p.geneve(VNI, frame_to(R), options=p.rts(D5, 1))


def test_a_bouncer_answers_arp_to_the_origin(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)
    run = dut.from_underlay(tunnelled(asks(B, sender=ELSEWHERE), Outer(source=D2), options=p.rts(D4)))
    assert run.outcome is Outcome.ARP_ANSWERED_REMOTE
    reply = p.arp(MAC[B], B, ELSEWHERE, operation=2, target_mac=MAC[R])
    inner = p.ethernet(MAC[R], MAC[B], p.ARP, reply)
    expected = Outer(D1, D4, fragment=p.DF).wrap(p.geneve(VNI, inner, options=p.rts(D1, 0, p.UNLEARNT)))
    assert run.frame == p.ethernet(DROPLET_MAC[D4], DROPLET_MAC[D1]) + expected[14:]


def test_an_arp_answer_that_is_longer_than_its_receivers_mtu_is_dropped(dut: Dut) -> None:
    dut.endpoint(A, D1, SLOT, mtu=576)
    for padding, outcome in ((576 - 28, Outcome.DELIVERED), (576 - 27, Outcome.TOO_BIG)):
        reply = asks(A, operation=2) + bytes(padding)
        assert dut.from_underlay(tunnelled(reply, options=RTS)).outcome is outcome


def test_a_bouncer_answers_arp_neither_for_unknown_endpoints_nor_to_unknown_droplets(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)
    assert dut.from_underlay(tunnelled(asks(UNKNOWN), options=RTS)).outcome is Outcome.NO_ENDPOINT
    run = dut.from_underlay(tunnelled(asks(B), options=p.rts(STRANGER)))
    assert run.outcome is Outcome.UNKNOWN_ORIGIN


@pytest.mark.parametrize("options", [b"", RTS, RTS + SKIPPED, p.option(1, 1, bytes(124))])
def test_a_delivered_frame_has_lost_its_tunnel_and_carries_the_endpoints_address(dut: Dut, options: bytes) -> None:
    inner = frame_to(to_mac=b"\xff" * 6)
    run = dut.from_underlay(tunnelled(inner, options=options))
    assert run.frame == MAC[A] + inner[6:]


def test_a_routed_frame_comes_from_the_gateway(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(frame_to(to_mac=GW)))
    assert run.frame == MAC[A] + GW + frame_to()[12:]


def test_a_path_is_learnt_from_the_outer_source_or_from_return_to_sender(dut: Dut) -> None:
    dut.remove(MapName.ENDPOINTS, key(R))
    dut.from_underlay(tunnelled())
    assert (dut.direct(R) or ("",))[0] == D2
    dut.from_underlay(tunnelled(options=p.rts(D4)))
    assert (dut.direct(R) or ("",))[0] == D4


def test_a_path_in_use_is_renewed_once_a_second_and_not_at_every_packet(dut: Dut) -> None:
    dut.from_underlay(tunnelled())
    learnt = dut.direct(R)
    assert learnt is not None
    dut.from_underlay(tunnelled())
    assert dut.direct(R) == learnt
    dut.path(R, D2, learnt[2] - ticks_per_second())
    began = tick_now(dut)
    dut.from_underlay(tunnelled())
    renewed = dut.direct(R)
    assert renewed is not None
    assert (renewed[0], began <= renewed[2] <= tick_now(dut)) == (D2, True), "as of now, not as it was"


def tick_now(dut: Dut) -> int:
    """Return the kernel's tick, by a path that is learnt now."""
    dut.remove(MapName.DIRECT, key(UNHEARD)) if dut.direct(UNHEARD) else None
    dut.from_underlay(tunnelled(frame_to(source=UNHEARD)))
    learnt = dut.direct(UNHEARD)
    assert learnt is not None
    return learnt[2]


@pytest.mark.parametrize(
    ("over_ipv6", "frame"),
    [
        (False, tunnelled()),
        (False, tunnelled(options=p.rts(D2))),
        (True, tunnelled(outer=Outer(six(D2), six(D1), udp_check=0))),
    ],
    ids=["direct", "by return to sender", "direct, without a checksum over IPv6"],
)
def test_a_fresh_path_is_not_written_again(dut: Dut, over_ipv6: bool, frame: bytes) -> None:
    dut.fill(over_ipv6=over_ipv6)
    dut.known(D2, map_layout.DROPLET_ZERO_CHECKSUM)
    dut.from_underlay(frame)
    learnt = dut.direct(R)
    assert learnt is not None
    dut.path(R, D2, learnt[2])
    assert dut.from_underlay(frame).outcome is Outcome.DELIVERED
    assert (dut.direct(R) or ())[1:] == (0, learnt[2]), "the time in nanoseconds is the test's"


def test_both_times_of_a_path_tell_the_same_age(dut: Dut) -> None:
    """The programs count in the kernel's ticks, whose length is given to them when they are compiled."""
    before = tick_now(dut)
    dut.from_underlay(tunnelled())
    first = dut.direct(R)
    assert first is not None
    later = first[2] + ticks_per_second() // 4
    until(lambda: tick_now(dut) >= later, "a later tick")
    dut.from_underlay(tunnelled(frame_to(source="10.0.0.4")))
    second = dut.direct("10.0.0.4")
    assert second is not None
    ticks = (second[1] - first[1]) * ticks_per_second() / 1e9
    # A program reads the tick after the time, perhaps much later. Either may be behind by what was not yet counted.
    assert later - first[2] - 2 <= ticks <= second[2] - before + 2


@pytest.mark.parametrize(
    "frame",
    [
        tunnelled(options=p.rts(STRANGER)),
        tunnelled(options=p.rts(D1)),
        tunnelled(asks(A, operation=2)),
        tunnelled(frame_to(R)),
        tunnelled(outer=Outer(source=STRANGER)),
        tunnelled(outer=Outer(tos=3)),
    ],
    ids=["an unknown origin", "ourselves", "ARP", "a bounced packet", "a stranger", "a dropped packet"],
)
def test_nothing_is_learnt_from(dut: Dut, frame: bytes) -> None:
    dut.from_underlay(frame)
    assert dut.entries(MapName.DIRECT) == {}


def test_a_path_that_contradicts_documents_is_not_learnt(dut: Dut) -> None:
    dut.endpoint(R, D3)
    assert dut.from_underlay(tunnelled()).outcome is Outcome.DELIVERED
    assert dut.entries(MapName.DIRECT) == {}


def test_packets_of_a_removed_droplet_are_refused_once_its_paths_are_not_fresh(dut: Dut) -> None:
    dut.from_underlay(tunnelled())
    dut.remove(MapName.DROPLETS, mapped(D2))
    assert dut.from_underlay(tunnelled()).outcome is Outcome.DELIVERED, "the path was confirmed just now"
    assert dut.from_underlay(tunnelled(options=RTS)).outcome is Outcome.UNKNOWN_DROPLET
    assert dut.from_underlay(tunnelled(frame_to(source="10.0.0.4"))).outcome is Outcome.UNKNOWN_DROPLET
    learnt = dut.direct(R)
    assert learnt is not None
    dut.path(R, D2, learnt[2] - ticks_per_second())
    assert dut.from_underlay(tunnelled()).outcome is Outcome.UNKNOWN_DROPLET


def test_a_path_proves_only_its_own_droplet(dut: Dut) -> None:
    dut.from_underlay(tunnelled())
    assert dut.from_underlay(tunnelled(outer=Outer(source=STRANGER))).outcome is Outcome.UNKNOWN_DROPLET


def test_delivery_counts_for_the_endpoint(dut: Dut) -> None:
    before = dut.endpoint_traffic(1)
    dut.from_underlay(tunnelled())
    after = dut.endpoint_traffic(1)
    assert tuple(b - a for a, b in zip(before, after, strict=True)) == (0, 0, 1, 0)


def test_before_the_droplet_is_configured_all_passes(dut: Dut) -> None:
    dut.local(0, D1, 0)
    assert dut.from_underlay(tunnelled()).outcome is Outcome.PASSED
