"""ICMP errors from the gateway's address: RFC 792, RFC 1191 section 4, RFC 1812 section 4.3, RFC 4443 section 2.4."""

from __future__ import annotations

import struct

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    B6,
    D1,
    D2,
    D3,
    D4,
    ELSEWHERE,
    ELSEWHERE6,
    GATEWAY,
    GATEWAY6,
    MAC,
    MTU,
    PATH_MTU,
    R6,
    S1,
    S2,
    S4,
    SLOT,
    STRANGER,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    B,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

GW = p.GATEWAY_MAC
OVERHEAD = {4: 62, 6: 94}
"""What an endpoint's MTU leaves of the path's: headers and a return-to-sender option."""


def long(family: int, to: str, size: int, ttl: int = 64, source_mac: bytes = MAC[A], to_mac: bytes = MAC[R]) -> bytes:
    """Return A's frame with an IP packet of `size` bytes."""
    if family == 6:
        packet = p.ipv6(A6, to, p.udp(data=bytes(n % 251 for n in range(size - 48))), ttl=ttl)
        return p.ethernet(to_mac, source_mac, p.IPV6, packet)
    packet = p.ipv4(A, to, p.udp(data=bytes(n % 251 for n in range(size - 28))), ttl=ttl, fragment=p.DF)
    return p.ethernet(to_mac, source_mac, p.IPV4, packet)


def error(
    family: int, quoted: bytes, mtu: int, to: str | None = None, to_mac: bytes = MAC[A], gateway: str | None = None
) -> bytes:
    """Return the whole error about an IP packet, by `mtu` 0 about its time to live. With DF, as it has no identity."""
    if family == 6:
        head = struct.pack("!BBHI", 2 if mtu else 3, 0, 0, mtu)
        ends = gateway or GATEWAY6, to or A6
        message = p.summed(*ends, head + quoted[:1168], p.ICMPV6)
        return p.ethernet(to_mac, GW, p.IPV6, p.ipv6(*ends, message, protocol=p.ICMPV6))
    head = struct.pack("!BBHHH", *((3, 4) if mtu else (11, 0)), 0, 0, mtu)
    check = struct.pack("!H", p.checksum(head + quoted[:528]))
    message = head[:2] + check + head[4:] + quoted[:528]
    return p.ethernet(to_mac, GW, p.IPV4, p.ipv4(gateway or GATEWAY, to or A, message, protocol=p.ICMP, fragment=p.DF))


@pytest.mark.parametrize("size", [MTU + 1, 1500, 2000])
@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_that_exceeds_the_endpoints_mtu_gets_an_icmp_error(dut: Dut, family: int, size: int) -> None:
    frame = long(family, R6 if family == 6 else R, size)
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT
    assert run.frame == error(family, frame[14:], MTU)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_that_exceeds_the_paths_mtu_gets_an_icmp_error_with_that_mtu(
    dut: Dut, family: int, outer: int
) -> None:
    """And a packet of just that size goes, by a bouncer with its option too."""
    dut.fill(over_ipv6=outer == 6)
    known, unknown = (R6, UNKNOWN6) if family == 6 else (R, UNKNOWN)
    for name in (D2, D3):
        dut.next_hop(name, mtu=1400)
    fits = 1400 - OVERHEAD[outer]
    for to in (known, unknown):
        assert dut.from_endpoint(long(family, to, fits)).outcome in {Outcome.SENT_DIRECT, Outcome.SENT_TO_BOUNCER}
    frame = long(family, unknown, fits + 1)
    assert dut.from_endpoint(frame).frame == error(family, frame[14:], fits)
    room_of_the_option = 24 if outer == 6 else 12
    frame = long(family, known, fits + room_of_the_option + 1)
    assert dut.from_endpoint(frame).frame == error(family, frame[14:], fits)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("family", [4, 6])
def test_the_longest_packet_to_a_bouncer_fills_the_path_mtu(dut: Dut, family: int, outer: int) -> None:
    dut.fill(over_ipv6=outer == 6)
    mtu = PATH_MTU - OVERHEAD[outer]
    dut.interface(mtu=mtu)
    run = dut.from_endpoint(long(family, UNKNOWN6 if family == 6 else UNKNOWN, mtu))
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    assert len(run.frame) == 14 + PATH_MTU


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_that_exceeds_the_mtu_of_a_local_receiver_gets_an_icmp_error(dut: Dut, family: int) -> None:
    to = B6 if family == 6 else B
    dut.endpoint(to, D1, 2, mtu=1300)
    assert dut.from_endpoint(long(family, to, 1300)).outcome is Outcome.DELIVERED_SAME_HOST
    frame = long(family, to, 1301)
    assert dut.from_endpoint(frame).frame == error(family, frame[14:], 1300)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ttl", [0, 1])
def test_an_expired_time_to_live_gets_an_icmp_error_on_routed_packets(dut: Dut, family: int, ttl: int) -> None:
    frame = long(family, R6 if family == 6 else R, 100, ttl=ttl, to_mac=GW)
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.ICMP_TTL_EXCEEDED_SENT
    assert run.frame == error(family, frame[14:], 0)


@pytest.mark.parametrize("size", [28, 29, 100, 527, 528, 529, 600, 1167, 1168, 1169, 1300])
@pytest.mark.parametrize("family", [4, 6])
def test_the_quote_is_as_long_as_the_packet_or_as_the_rule_allows(dut: Dut, family: int, size: int) -> None:
    if family == 6 and size < 48:
        size = 48  # the headers
    frame = long(family, R6 if family == 6 else R, size, ttl=1, to_mac=GW)
    run = dut.from_endpoint(frame)
    assert run.frame == error(family, frame[14:], 0)
    assert len(run.frame) <= 14 + (1280 if family == 6 else 576)


def icmp(kind: int, size: int = 1450, fragment: int = 0) -> bytes:
    return p.ethernet(
        MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.echo(bytes(size), kind), protocol=p.ICMP, fragment=fragment)
    )


def icmpv6(kind: int) -> bytes:
    packet = p.ipv6(A6, R6, p.echo_ipv6(A6, R6, kind, data=bytes(1450)), protocol=p.ICMPV6)
    return p.ethernet(MAC[R], MAC[A], p.IPV6, packet)


UNTOLD = [
    ("an ICMP error", icmp(3), Outcome.TOO_BIG),
    ("an ICMPv6 error", icmpv6(1), Outcome.TOO_BIG),
    ("an unknown ICMPv6 error", icmpv6(127), Outcome.TOO_BIG),
    ("an echo request", icmp(8), Outcome.ICMP_TOO_BIG_SENT),
    ("an echo reply", icmp(0), Outcome.ICMP_TOO_BIG_SENT),
    ("an ICMPv6 echo request", icmpv6(128), Outcome.ICMP_TOO_BIG_SENT),
    ("a first fragment", icmp(8, fragment=p.MF), Outcome.ICMP_TOO_BIG_SENT),
    ("a later fragment", icmp(8, fragment=100), Outcome.TOO_BIG),
    ("a later fragment of IPv6", p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(
        A6, R6, p.fragment_header(p.UDP, 1480) + bytes(1450), protocol=p.FRAGMENT)), Outcome.TOO_BIG),
    ("an error's time to live", p.ethernet(GW, MAC[A], p.IPV4, p.ipv4(A, R, p.echo(kind=11), protocol=p.ICMP, ttl=1)),
     Outcome.INNER_TTL),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), UNTOLD, ids=[row[0] for row in UNTOLD])
def test_which_packets_get_an_icmp_error(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    assert dut.from_endpoint(frame).outcome is outcome


def test_without_a_known_network_no_icmp_error_is_sent(dut: Dut) -> None:
    dut.remove(MapName.NETWORKS, map_layout.network_key(VNI, p.ip("10.0.0.0"), 24))
    assert dut.from_endpoint(long(4, R, 1500)).outcome is Outcome.TOO_BIG


def test_errors_are_limited_per_receiver_and_second(dut: Dut) -> None:
    outcomes = [dut.from_endpoint(long(4, R, 1500)).outcome for _ in range(400)]
    assert set(outcomes[:50]) == {Outcome.ICMP_TOO_BIG_SENT}
    assert Outcome.TOO_BIG in outcomes
    assert dut.from_endpoint(long(6, R6, 1500)).outcome is Outcome.ICMP_TOO_BIG_SENT, "another receiver"
    dut.reset_icmp_ratelimit()
    assert dut.from_endpoint(long(4, R, 1500)).outcome is Outcome.ICMP_TOO_BIG_SENT, "another second"


def test_a_path_mtu_below_the_headers_is_not_reported_as_an_expired_time_to_live(dut: Dut) -> None:
    dut.next_hop(D2, mtu=60)
    assert dut.from_endpoint(long(4, R, 100)).outcome is Outcome.TOO_BIG


def test_an_arp_frame_that_does_not_fit_is_not_answered_by_icmp(dut: Dut) -> None:
    frame = p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN)) + bytes(1480)
    assert dut.from_endpoint(frame).outcome is Outcome.TOO_BIG


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("where", ["at a bouncer", "at its destination"])
def test_the_sender_of_a_tunnel_packet_gets_an_icmp_error(dut: Dut, where: str, family: int, outer: int) -> None:
    """By the bouncer, from its network's gateway, at the droplet that the packet came from."""
    dut.fill(over_ipv6=outer == 6)
    peer, own, origin = (S2, S1, S4) if outer == 6 else (D2, D1, D4)
    sender, receiver = (R6, A6) if family == 6 else (R, A)
    if where == "at a bouncer":
        dut.endpoint(receiver, D3)
        dut.next_hop(D3, mtu=1300)
        fits = 1300 - OVERHEAD[outer]
    else:
        dut.endpoint(receiver, D1, 1, mtu=1200)
        fits = 1200
    packet = (p.ipv6 if family == 6 else p.ipv4)(sender, receiver, p.udp(data=bytes(1250)), tos=0x02)
    inner = p.ethernet(MAC[A], MAC[R], p.IPV6 if family == 6 else p.IPV4, packet)
    run = dut.from_underlay(tunnelled(inner, Outer(peer, own, tos=0x2A), options=p.rts(origin, 1)))
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT_REMOTE
    label = int.from_bytes(run.frame[14:18], "big") & 0xFFFFF if outer == 6 else 0
    expected = Outer(own, origin, fragment=p.DF, label=label, tos=0x28)
    error_frame = error(family, packet, fits, to=sender, to_mac=MAC[R])
    assert run.frame[14:] == expected.wrap(p.geneve(VNI, error_frame, options=p.rts(own, 0, p.UNLEARNT)))[14:]


@pytest.mark.parametrize("family", [4, 6])
def test_a_sender_in_an_unknown_network_gets_the_icmp_error_from_the_receivers_gateway(dut: Dut, family: int) -> None:
    """A droplet knows the networks of its own endpoints; without a word the sender would try for ever."""
    sender, receiver, gateway = (ELSEWHERE6, A6, GATEWAY6) if family == 6 else (ELSEWHERE, A, GATEWAY)
    cidr, prefix = ("fd00:1::", 64) if family == 6 else ("10.0.1.0", 24)
    dut.remove(MapName.NETWORKS, map_layout.network_key(VNI, p.ip(cidr), prefix))
    dut.endpoint(receiver, D1, SLOT, mtu=1200)
    packet = (p.ipv6 if family == 6 else p.ipv4)(sender, receiver, p.udp(data=bytes(1250)))
    inner = p.ethernet(MAC[A], MAC[R], p.IPV6 if family == 6 else p.IPV4, packet)
    run = dut.from_underlay(tunnelled(inner))
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT_REMOTE
    assert run.frame.endswith(error(family, packet, 1200, sender, MAC[R], gateway))


def test_a_packet_of_an_unknown_droplet_gets_no_icmp_error(dut: Dut) -> None:
    dut.next_hop(D3, mtu=300)
    dut.endpoint(R, D3)
    inner = p.ethernet(MAC[R], MAC[B], p.IPV4, p.ipv4("10.0.0.44", R, p.udp(data=bytes(400))))
    assert dut.from_underlay(tunnelled(inner, options=p.rts(STRANGER))).outcome is Outcome.UNKNOWN_ORIGIN
    dut.endpoint(R, D3, flags=map_layout.ENDPOINT_VXLAN)
    assert dut.from_underlay(tunnelled(inner, options=p.rts(STRANGER))).outcome is Outcome.UNKNOWN_ORIGIN


def test_an_error_that_comes_through_a_tunnel_is_delivered_and_teaches_nothing(dut: Dut) -> None:
    quoted = p.ipv4(A, R, p.udp())
    error_frame = error(4, quoted, 1200)
    run = dut.from_underlay(tunnelled(error_frame, options=p.rts(D3, 0, p.UNLEARNT)))
    assert (run.outcome, run.frame) == (Outcome.DELIVERED, error_frame)
    assert dut.entries(MapName.DIRECT) == {}


def test_a_token_bucket_refills_with_time_up_to_its_burst(dut: Dut) -> None:
    dut.from_underlay(tunnelled(frame_to(A)))
    learnt = dut.direct(R)
    assert learnt is not None
    fifth = learnt[2] - ticks_per_second() // 5  # of a second ago: ten tokens
    buckets = bpf.map_info(dut.fds["icmp_ratelimit"]).max_entries
    value = map_layout.TOKEN_BUCKET.pack(fifth, 50)
    bpf.update_batch(dut.fds["icmp_ratelimit"], [(map_layout.U32.pack(n), value) for n in range(buckets)])
    outcomes = [dut.from_endpoint(long(4, R, 1500)).outcome for _ in range(400)]
    assert set(outcomes[:10]) == {Outcome.ICMP_TOO_BIG_SENT}
    assert Outcome.TOO_BIG in outcomes
