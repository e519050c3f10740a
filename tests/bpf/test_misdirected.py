"""Bouncers and dividers with an old map: what they misdirect goes back, and its sender's droplet tries others.

D1 is this host. As the wrong host it has neither the endpoint nor a role; as the sender's host it chooses anew.
"""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    D1,
    D2,
    D3,
    D4,
    D5,
    ELSEWHERE,
    GATEWAY,
    MAC,
    R6,
    S1,
    S3,
    S4,
    STRANGER,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    Dut,
    R,
)
from bpf_tunnels import Outer, asks, frame_to, tunnelled
from test_paths import from_a, invalid, outer_label

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

BOUNCES, DIVIDES, PINNED = map_layout.NETWORK_LOCAL_BOUNCER, map_layout.VPC_LOCAL_DIVIDER, map_layout.NETWORK_PINNED
GONE, GONE6 = UNKNOWN, UNKNOWN6
INSIDE = [pytest.param((R, GONE), id="IPv4 inside"), pytest.param((R6, GONE6), id="IPv6 inside")]
OVER = [pytest.param(False, id="over IPv4"), pytest.param(True, id="over IPv6")]


def back(inner: bytes, attempt: int = 0, by: str = D3, over: tuple[str, str] = (D2, D1)) -> bytes:
    """Return a packet that `over` returns since `by` sent it there."""
    return tunnelled(inner, Outer(*over), options=p.misdirected(by, attempt), flags=0x40)


def detours(dut: Dut) -> dict[tuple[bytes, bytes], tuple[bytes, int]]:
    """Return who misdirected packets, and the attempt that is remembered, by source and destination."""
    found = {}
    for key, value in dut.entries(MapName.DETOURS).items():
        source, vni, destination = map_layout.DETOUR_KEY.unpack(key)
        assert vni == VNI
        by, attempt, _ = map_layout.DETOUR.unpack(value)
        found[map_layout.unmapped(source), map_layout.unmapped(destination)] = map_layout.unmapped(by), attempt
    return found


def chosen(dut: Dut, to: str = GONE) -> bytes:
    """Return the bouncer that this host's endpoint A sends to."""
    run = dut.from_endpoint(from_a(to))
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    return run.frame[30:34]


@pytest.mark.parametrize("over_ipv6", OVER)
@pytest.mark.parametrize("pair", INSIDE)
def test_a_misdirected_packet_is_returned_whole_to_its_senders_droplet(
    dut: Dut, pair: tuple[str, str], over_ipv6: bool
) -> None:
    dut.fill(over_ipv6=over_ipv6)
    here, bouncer, origin = (S1, S3, S4) if over_ipv6 else (D1, D3, D4)
    inner = frame_to(pair[1], pair[0])
    options = p.rts(origin, 1, p.PINNED, attempt=2)
    run = dut.from_underlay(tunnelled(inner, Outer(bouncer, here, ttl=60, tos=0x28), options=options))
    assert run.outcome is Outcome.MISDIRECTED
    expected = Outer(here, origin, fragment=p.DF, ttl=59, tos=0x28, label=outer_label(run.frame))
    packet = p.geneve(VNI, inner, options=p.misdirected(bouncer, 2), flags=0x40)
    assert run.frame[14:] == expected.wrap(packet)[14:], "a critical option, so the header says that there is one"


def test_a_host_that_no_longer_knows_the_vpc_returns_a_misdirected_packet_too(dut: Dut) -> None:
    dut.remove(MapName.VPCS, map_layout.U32.pack(VNI))
    assert dut.from_underlay(tunnelled(frame_to(GONE), options=p.rts(D4))).outcome is Outcome.MISDIRECTED


def test_a_divided_packet_at_the_wrong_bouncer_does_not_return_to_the_divider(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)
    inner = frame_to(ELSEWHERE, R)
    assert dut.from_underlay(tunnelled(inner, options=p.rts(D4, 1))).outcome is Outcome.HANDED_TO_DIVIDER
    run = dut.from_underlay(tunnelled(inner, Outer(D5), options=p.rts(D4, 2, p.DIVIDED)))
    assert (run.outcome, run.frame[30:34]) == (Outcome.MISDIRECTED, p.ip(D4))
    assert run.frame[50:62] == p.misdirected(D5), "which the divider sent here"


@pytest.mark.parametrize(
    ("frame", "outcome"),
    [
        (tunnelled(frame_to(GONE), options=p.rts(STRANGER)), Outcome.ENDPOINT_NOT_LOCAL),
        (tunnelled(frame_to(GONE), options=p.rts(D4, 1, p.UNLEARNT)), Outcome.ENDPOINT_NOT_LOCAL),
        (tunnelled(frame_to(GONE), options=p.rts(D1)), Outcome.ENDPOINT_NOT_LOCAL),
        (back(frame_to(GONE)), Outcome.ENDPOINT_NOT_LOCAL),
        (tunnelled(frame_to(GONE), Outer(ttl=1), options=p.rts(D4)), Outcome.OUTER_TTL),
        (Outer(port=4789).wrap(p.vxlan(VNI, frame_to(GONE))), Outcome.ENDPOINT_NOT_LOCAL),
    ],
    ids=["of a stranger", "of an unlearnt origin", "of nobody of ours", "back already", "too old", "by VXLAN"],
)
def test_misdirected_packets_that_are_dropped_instead_of_returned(dut: Dut, frame: bytes, outcome: Outcome) -> None:
    assert dut.from_underlay(frame).outcome is outcome


def test_a_misdirected_packet_that_exceeds_the_mtu_of_its_return_path_is_dropped(dut: Dut) -> None:
    dut.next_hop(D4, mtu=1200)
    inner = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, GONE, p.udp(data=bytes(1250))))
    assert dut.from_underlay(tunnelled(inner, options=p.rts(D4))).outcome is Outcome.TOO_BIG


@pytest.mark.parametrize("over_ipv6", OVER)
@pytest.mark.parametrize("pair", [(A, GONE), (A6, GONE6)], ids=["IPv4 inside", "IPv6 inside"])
def test_a_misdirected_packet_and_the_packets_after_it_use_the_next_bouncer(
    dut: Dut, pair: tuple[str, str], over_ipv6: bool
) -> None:
    dut.fill(over_ipv6=over_ipv6)
    dut.own_network((D3, D4))
    here, other, bouncers = (S1, "2001:db8::2", {S3, S4}) if over_ipv6 else (D1, D2, {D3, D4})
    inner = from_a(pair[1])
    at = slice(38, 54) if over_ipv6 else slice(30, 34)
    first = dut.from_endpoint(inner).frame[at]
    by, right = sorted(bouncers, key=lambda one: p.ip(one) != first)
    run = dut.from_underlay(back(inner, by=by, over=(other, here)))
    assert run.outcome is Outcome.REROUTED
    expected = Outer(here, right, fragment=p.DF, ttl=63, label=outer_label(run.frame))
    packet = p.geneve(VNI, inner, options=p.rts(here, 1, attempt=1))
    assert run.frame[14:] == expected.wrap(packet)[14:]
    assert dut.from_endpoint(inner).frame[at] == p.ip(right), "the next packet goes there at once"
    assert detours(dut) == {(p.ip(pair[0]), p.ip(pair[1])): (p.ip(by), 1)}


def test_a_detour_applies_to_one_pair_of_addresses_only(dut: Dut) -> None:
    dut.own_network((D3, D4))
    before = {to: chosen(dut, to) for to in ("10.0.0.81", "10.0.0.82", "10.0.0.83", GONE)}
    dut.from_underlay(back(from_a(GONE)))
    after = {to: chosen(dut, to) for to in before}
    assert {to for to in before if before[to] != after[to]} == {GONE}


def test_a_detour_ends(dut: Dut) -> None:
    dut.own_network((D3, D4))
    first = chosen(dut)
    dut.from_underlay(back(from_a(GONE)))
    ((key, value),) = dut.entries(MapName.DETOURS).items()
    by, attempt, tick = map_layout.DETOUR.unpack(value)
    dut.put(MapName.DETOURS, key, map_layout.DETOUR.pack(by, attempt, tick - 29 * ticks_per_second()))
    assert chosen(dut) != first
    dut.put(MapName.DETOURS, key, map_layout.DETOUR.pack(by, attempt, tick - 30 * ticks_per_second()))
    assert chosen(dut) == first


@pytest.mark.parametrize(("bouncers", "last"), [((D3,), 0), ((D3, D4), 3), ((D3, D4, D5), 5)])
def test_a_packet_is_dropped_when_every_bouncer_misdirected_it_and_the_next_one_starts_again(
    dut: Dut, bouncers: tuple[str, ...], last: int
) -> None:
    """Each is tried twice, so that it does not matter with which one began; a single one is not asked again."""
    dut.own_network(bouncers)
    first, tried = chosen(dut), set()
    for attempt in range(last):
        run = dut.from_underlay(back(from_a(GONE), attempt))
        assert run.outcome is Outcome.REROUTED
        tried.add(run.frame[30:34])
    assert tried == ({p.ip(one) for one in bouncers} if last else set())
    run = dut.from_underlay(back(from_a(GONE), last))
    assert (run.outcome, run.frame[:12]) == (Outcome.ICMP_UNREACHABLE_SENT, MAC[A] + p.GATEWAY_MAC)
    assert run.frame[34:36] == bytes([3, 1]), "ICMP: host unreachable, as a router says"
    assert (chosen(dut), detours(dut)) == (first, {})


def test_between_networks_as_many_attempts_are_made_as_a_packet_may_make(dut: Dut) -> None:
    assert dut.from_underlay(back(from_a(ELSEWHERE), 14)).outcome is Outcome.REROUTED
    assert dut.from_underlay(back(from_a(ELSEWHERE), 15)).outcome is Outcome.ICMP_UNREACHABLE_SENT
    assert dut.from_underlay(back(from_a(ELSEWHERE), 255)).outcome is Outcome.ICMP_UNREACHABLE_SENT


def test_a_later_fragment_that_was_misdirected_by_all_is_dropped_without_an_error(dut: Dut) -> None:
    packet = p.ipv4(A, GONE, b"12345678", fragment=100)
    run = dut.from_underlay(back(p.ethernet(MAC[R], MAC[A], p.IPV4, packet)))
    assert run.outcome is Outcome.ALL_MISDIRECTED


def test_bouncers_and_dividers_on_the_path_choose_another_one_at_each_attempt(dut: Dut) -> None:
    """Also in every combination of a divider and a bouncer behind it."""
    dut.vpc((D2, D5))
    inner, ways = frame_to(ELSEWHERE, R), set()
    for attempt in range(4):
        dut.own_network((D1,), BOUNCES)
        dut.vpc((D2, D5))
        divider = dut.from_underlay(tunnelled(inner, options=p.rts(D4, 0, attempt=attempt)))
        assert divider.outcome is Outcome.HANDED_TO_DIVIDER
        assert divider.frame[50:62] == p.rts(D4, 1, attempt=attempt), "which goes on with the packet"
        dut.own_network()
        dut.vpc((D1,), DIVIDES)
        dut.other_network((D3, D4))
        bouncer = dut.from_underlay(tunnelled(inner, options=p.rts(D4, 1, attempt=attempt)))
        assert bouncer.outcome is Outcome.HANDED_TO_BOUNCER
        ways.add((divider.frame[30:34], bouncer.frame[30:34]))
    assert len(ways) == 4


def test_a_pinned_packet_goes_by_another_divider(dut: Dut) -> None:
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    dut.own_network(flags=PINNED)
    dut.vpc((D2, D5))
    inner = from_a(ELSEWHERE, p.GATEWAY_MAC, ttl=9)
    first = dut.from_endpoint(inner)
    assert first.outcome is Outcome.SENT_TO_DIVIDER
    run = dut.from_underlay(back(first.frame[62:], by=D5))
    assert (run.outcome, run.frame[50:62]) == (Outcome.HANDED_TO_DIVIDER, p.rts(D1, 1, p.PINNED, attempt=1))
    assert run.frame[30:34] != first.frame[30:34]
    assert dut.from_endpoint(inner).frame[30:34] == run.frame[30:34]


def test_an_arp_request_uses_the_detour_too(dut: Dut) -> None:
    dut.own_network((D3, D4))
    first = chosen(dut)
    dut.from_underlay(back(from_a(GONE)))
    question = p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, GONE))
    run = dut.from_endpoint(question)
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    assert run.frame[30:34] in {p.ip(D3), p.ip(D4)} - {first}


def test_a_bouncer_whose_own_map_misled_its_endpoint_asks_another_one(dut: Dut) -> None:
    """The agent of this host is dead, and the endpoint has left the host where its map says that it is."""
    dut.own_network((D1, D3), BOUNCES)
    for inner in (from_a(R), from_a(R6)):
        invalid = tunnelled(inner, Outer(D2), options=p.INVALIDATE, flags=0x40)
        run = dut.from_underlay(invalid)
        assert (run.outcome, run.frame[30:34]) == (Outcome.REROUTED, p.ip(D3))


@pytest.mark.parametrize("pinned", [0, PINNED])
def test_a_local_packet_that_is_misdirected_to_its_own_host_is_sent_again_at_once(dut: Dut, pinned: int) -> None:
    """The endpoint was on this host, too, and has left it: this is its sender's droplet already."""
    to = ELSEWHERE if pinned else GONE
    dut.own_network((D3, D4), pinned)
    dut.vpc((D2, D5))
    flags = p.PINNED | p.DIVIDED if pinned else 0
    run = dut.from_underlay(tunnelled(from_a(to), Outer(D3), options=p.rts(D1, 3, flags)))
    assert run.outcome is (Outcome.HANDED_TO_DIVIDER if pinned else Outcome.REROUTED)
    assert run.frame[50:62] == p.rts(D1, 1, p.PINNED if pinned else 0, attempt=1)
    assert detours(dut) == {(p.ip(A), p.ip(to)): (p.ip(D3), 1)}


def test_a_local_misdirected_packet_that_exceeds_the_new_paths_mtu_is_answered_to_its_sender(dut: Dut) -> None:
    for one in (D3, D4):
        dut.next_hop(one, mtu=1300)
    dut.own_network((D3, D4))
    packet = p.ipv4(A, GONE, p.udp(data=bytes(1250)))
    inner = p.ethernet(MAC[R], MAC[A], p.IPV4, packet)
    for frame in (tunnelled(inner, Outer(D3), options=p.rts(D1, 1)), back(inner)):
        run = dut.from_underlay(frame)
        assert run.outcome is Outcome.ICMP_TOO_BIG_SENT
        assert run.frame[:12] == MAC[A] + p.GATEWAY_MAC
        assert run.frame[26:30] == p.ip(GATEWAY)
        assert int.from_bytes(run.frame[40:42], "big") == 1300 - 62


@pytest.mark.parametrize(
    ("frame", "outcome"),
    [
        (back(frame_to(GONE)), Outcome.ENDPOINT_NOT_LOCAL),
        (back(from_a(GONE), over=(STRANGER, D1)), Outcome.UNKNOWN_DROPLET),
        (tunnelled(from_a(GONE), options=p.option(0xFF4D, 0x84), flags=0x40), Outcome.MALFORMED_GENEVE),
        (back(asks(A)), Outcome.ENDPOINT_NOT_LOCAL),
    ],
    ids=["for no endpoint of ours", "by a stranger", "without a body", "a question"],
)
def test_only_packets_of_local_endpoints_cause_a_detour(dut: Dut, frame: bytes, outcome: Outcome) -> None:
    dut.own_network((D3, D4))
    assert dut.from_underlay(frame).outcome is outcome
    assert detours(dut) == {}


def test_a_droplet_that_returns_a_misdirected_packet_deletes_the_path_to_itself(dut: Dut) -> None:
    dut.path(GONE, D2, 0)
    dut.own_network((D3, D4))
    assert dut.from_underlay(back(from_a(GONE), over=(D4, D1))).outcome is Outcome.REROUTED
    assert dut.direct(GONE) is not None
    assert dut.from_underlay(back(from_a(GONE))).outcome is Outcome.REROUTED
    assert dut.direct(GONE) is None


def test_over_ipv4_this_droplet_is_named_instead_of_an_ipv6_bouncer(dut: Dut) -> None:
    """The flag RTS_UNLEARNT is set; the packet is returned anyway."""
    dut.known(S3)
    dut.next_hop(D4, by=0)
    run = dut.from_underlay(tunnelled(frame_to(GONE), Outer(S3, S1), options=p.rts(D4)))
    assert (run.outcome, run.frame[26:34]) == (Outcome.MISDIRECTED, p.ip(D1) + p.ip(D4))
    assert run.frame[50:62] == p.misdirected(D1, flags=p.UNLEARNT)


@pytest.mark.parametrize("gone", [GONE, GONE6], ids=["IPv4 inside", "IPv6 inside"])
def test_a_host_without_another_bouncer_sends_no_unreachable_error_for_a_returned_packet(dut: Dut, gone: str) -> None:
    """It does not bounce the network, so it does not know that there is no such endpoint."""
    dut.own_network((STRANGER,))
    assert dut.from_underlay(invalid(from_a(gone))).outcome is Outcome.ENDPOINT_NOT_LOCAL
    dut.own_network((STRANGER,), BOUNCES)
    assert dut.from_underlay(invalid(from_a(gone))).outcome is Outcome.ICMP_UNREACHABLE_SENT
