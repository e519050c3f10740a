"""IPv6 inside the overlay: what endpoints may send, extension headers (RFC 8200 section 4), fragments, the gateway."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    B6,
    D1,
    D2,
    D4,
    ELSEWHERE,
    ELSEWHERE6,
    GATEWAY6,
    MAC,
    R6,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    B,
    Dut,
    R,
    key,
)  # fmt: skip
from bpf_tunnels import frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome

GW = p.GATEWAY_MAC
NEXT = p.extension


def from_a(packet: bytes, to: bytes = MAC[R]) -> bytes:
    return p.ethernet(to, MAC[A], p.IPV6, packet)


def behind(headers: bytes, first: int, segment: bytes | None = None) -> bytes:
    return from_a(p.ipv6(A6, R6, headers + (p.udp() if segment is None else segment), protocol=first))


def plain(to: str = R6, source: str = A6, **header: object) -> bytes:
    return from_a(p.ipv6(source, to, p.udp(), **header))  # type: ignore[arg-type]


DESTINATIONS = NEXT(p.DESTINATION)
TABLE = [
    ("to an endpoint on a known droplet", plain(), Outcome.SENT_DIRECT),
    ("to an unknown address", plain(UNKNOWN6), Outcome.SENT_TO_BOUNCER),
    ("to another network", from_a(p.ipv6(A6, ELSEWHERE6, p.udp()), GW), Outcome.SENT_TO_BOUNCER),
    ("to an endpoint of this host", plain(B6), Outcome.DELIVERED_SAME_HOST),
    ("from another's address", plain(source=B6), Outcome.SOURCE_ADDRESS),
    ("from a link-local address", plain(source="fe80::1"), Outcome.SOURCE_ADDRESS),
    ("from no address", plain(source="::"), Outcome.SOURCE_ADDRESS),
    ("to a multicast group", plain("ff02::fb"), Outcome.MULTICAST),
    ("to a link-local address", plain("fe80::2"), Outcome.LINK_LOCAL),
    ("version 4 in IPv6's ethertype", plain(version=4), Outcome.MALFORMED_INNER),
    ("a length above the frame's", plain(length=13), Outcome.MALFORMED_INNER),
    ("a length beyond 16 bits with its headers", plain(length=0xFFFF), Outcome.MALFORMED_INNER),
    ("to an IPv4 address mapped into IPv6", plain("::ffff:10.0.0.3"), Outcome.MALFORMED_INNER),
    ("from an IPv4 address mapped into IPv6", plain(source="::ffff:10.0.0.1"), Outcome.MALFORMED_INNER),
    ("ports behind the packet's end", plain(length=3), Outcome.MALFORMED_INNER),
    ("a tunnel packet of its own", from_a(p.ipv6(A6, R6, p.udp(destination=6081))), Outcome.SENT_DIRECT),
    ("an echo request to the gateway", from_a(p.ipv6(A6, GATEWAY6, p.echo_ipv6(A6, GATEWAY6), protocol=p.ICMPV6), GW),
     Outcome.GATEWAY_ECHO),
    ("an echo reply to the gateway", from_a(p.ipv6(A6, GATEWAY6, p.echo_ipv6(A6, GATEWAY6, 129), protocol=p.ICMPV6),
                                            GW), Outcome.TO_GATEWAY),
    ("UDP to the gateway", plain(GATEWAY6), Outcome.GATEWAY_REFUSED),
    ("no next header", from_a(p.ipv6(A6, R6, protocol=p.NO_NEXT)), Outcome.SENT_DIRECT),
    ("an unknown protocol", from_a(p.ipv6(A6, R6, b"x", protocol=253)), Outcome.SENT_DIRECT),
    ("hop-by-hop options", behind(NEXT(p.UDP), p.HOP_BY_HOP), Outcome.SENT_DIRECT),
    ("a routing header", behind(NEXT(p.UDP, bytes(22)), p.ROUTING), Outcome.SENT_DIRECT),
    ("destination options", behind(NEXT(p.UDP, bytes(14)), p.DESTINATION), Outcome.SENT_DIRECT),
    ("an authentication header", behind(bytes([p.UDP, 4]) + bytes(22), p.AUTH), Outcome.SENT_DIRECT),
    ("encrypted", behind(b"", 50), Outcome.SENT_DIRECT),
    ("four kinds in a row", behind(NEXT(p.ROUTING) + NEXT(p.DESTINATION) + NEXT(p.FRAGMENT) + p.fragment_header(p.UDP),
                                   p.HOP_BY_HOP), Outcome.SENT_DIRECT),
    ("eight extension headers", behind(DESTINATIONS * 7 + NEXT(p.UDP), p.DESTINATION), Outcome.SENT_DIRECT),
    ("nine extension headers", behind(DESTINATIONS * 8 + NEXT(p.UDP), p.DESTINATION), Outcome.EXTENSION_HEADERS),
    ("an extension header cut short", from_a(p.ipv6(A6, R6, bytes(7), protocol=p.DESTINATION)),
     Outcome.MALFORMED_INNER),
    ("an extension header that ends behind the packet", behind(bytes([p.UDP, 200]) + bytes(6), p.DESTINATION),
     Outcome.MALFORMED_INNER),
    ("a first fragment", behind(p.fragment_header(p.UDP, more=True), p.FRAGMENT), Outcome.SENT_DIRECT),
    ("a later fragment", behind(p.fragment_header(p.UDP, 1480), p.FRAGMENT), Outcome.SENT_DIRECT),
    ("an atomic fragment", behind(p.fragment_header(p.UDP), p.FRAGMENT), Outcome.SENT_DIRECT),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_ipv6_from_an_endpoint(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    assert dut.from_endpoint(frame).outcome is outcome


@pytest.mark.parametrize("length", range(14, len(plain())))
def test_an_ipv6_frame_cut_anywhere_is_dropped(dut: Dut, length: int) -> None:
    assert dut.from_endpoint(plain()[:length]).outcome is Outcome.MALFORMED_INNER


EXTENDED = {
    "hop-by-hop options": (p.HOP_BY_HOP, NEXT(p.UDP)),
    "a routing header": (p.ROUTING, NEXT(p.UDP, bytes(14))),
    "destination options": (p.DESTINATION, NEXT(p.UDP, bytes(30))),
    "a fragment": (p.FRAGMENT, p.fragment_header(p.UDP, 800, more=True)),
    "more than the sender's droplet looks at": (p.DESTINATION, DESTINATIONS * 9 + NEXT(p.UDP)),
}


@pytest.mark.parametrize("sentence", EXTENDED)
def test_extension_headers_inside_are_carried_unchanged(dut: Dut, sentence: str) -> None:
    first, headers = EXTENDED[sentence]
    frame = p.ethernet(MAC[A], MAC[R], p.IPV6, p.ipv6(R6, A6, headers + p.udp(), protocol=first))
    assert dut.from_underlay(tunnelled(frame)).frame == frame
    if "more than" not in sentence:
        out = behind(headers, first)
        assert dut.from_endpoint(out).frame[50:] == out


def source_port(dut: Dut, frame: bytes) -> bytes:
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.SENT_DIRECT
    return run.frame[34:36]


def fragments(identity: int, ports: int, headers: bytes = b"", following: int = p.UDP) -> list[bytes]:
    """Return A's packet to R in three fragments, with extension headers behind the fragment header."""
    parts = [headers + p.udp(ports), b"middle..", b"last"]
    return [
        behind(p.fragment_header(following, 800 * n, n < 2, identity), p.FRAGMENT, part)
        for n, part in enumerate(parts)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "following"), [(b"", p.UDP), (NEXT(p.UDP), p.DESTINATION)], ids=["UDP", "UDP behind options"]
)
def test_all_fragments_of_a_packet_have_its_flows_source_port(dut: Dut, headers: bytes, following: int) -> None:
    whole = {n: source_port(dut, from_a(p.ipv6(A6, R6, p.udp(n)))) for n in range(1000, 1008)}
    assert len(set(whole.values())) > 5
    for n, port in whole.items():
        assert {source_port(dut, frame) for frame in fragments(n, n, headers, following)} == {port}


def test_all_fragments_of_an_ipv4_packet_have_its_flows_source_port(dut: Dut) -> None:
    for n in range(1000, 1008):
        whole = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(n)))
        parts = [(p.MF, p.udp(n)), (p.MF | 100, b"middle.."), (200, b"last")]
        frames = [p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, part, identity=n, fragment=at)) for at, part in parts]
        assert {source_port(dut, frame) for frame in frames} == {source_port(dut, whole)}


def test_fragments_with_one_identification_to_other_receivers_are_distinguished(dut: Dut) -> None:
    dut.endpoint("10.0.0.3", D2)
    first = [p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, to, p.udp(n), identity=1, fragment=p.MF))
             for n, to in ((5, R), (6, UNKNOWN))]  # fmt: skip
    ports = [dut.from_endpoint(frame).frame[34:36] for frame in first]
    later = [p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, to, b"later", identity=1, fragment=100))
             for to in (R, UNKNOWN)]  # fmt: skip
    assert [dut.from_endpoint(frame).frame[34:36] for frame in later] == ports


def test_a_fragment_that_overtook_the_first_goes_too(dut: Dut) -> None:
    later = fragments(7777, 5)[1]
    assert dut.from_endpoint(later).outcome is Outcome.SENT_DIRECT


def fragment(source: str, to: str, *, later: bool) -> bytes:
    """Return the IP packet of a first or a later fragment, with the identity 9."""
    data = b"later..." if later else p.udp()
    if ":" in to:
        header = p.fragment_header(p.UDP, 800 if later else 0, more=not later, identity=9)
        return p.ipv6(source, to, header + data, protocol=p.FRAGMENT)
    return p.ipv4(source, to, data, fragment=100 if later else p.MF, identity=9)


WAYS = {
    "direct": (R, R6, Outcome.SENT_DIRECT),
    "on the same host": (B, B6, Outcome.DELIVERED_SAME_HOST),
    "to a bouncer": (UNKNOWN, UNKNOWN6, Outcome.SENT_TO_BOUNCER),
    "to a divider": (ELSEWHERE, ELSEWHERE6, Outcome.SENT_TO_DIVIDER),
    "by a bouncer": (R, R6, Outcome.BOUNCED),
    "by a bouncer to a divider": (ELSEWHERE, ELSEWHERE6, Outcome.HANDED_TO_DIVIDER),
    "by a divider": (ELSEWHERE, ELSEWHERE6, Outcome.HANDED_TO_BOUNCER),
    "delivered": (A, A6, Outcome.DELIVERED),
    "back to where it came from": (UNKNOWN, UNKNOWN6, Outcome.RETURNED),
    "and from there anew": (UNKNOWN, UNKNOWN6, Outcome.REROUTED),
}
"""To whom in each family, and how it ends at this droplet."""


@pytest.mark.parametrize("later", [False, True], ids=["the first", "a later one"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", WAYS)
def test_fragments_inside_reach_their_endpoint_on_every_path(dut: Dut, way: str, family: int, later: bool) -> None:
    *addresses, outcome = WAYS[way]
    to, own, far = addresses[family == 6], (A, A6)[family == 6], (R, R6)[family == 6]
    kind = p.IPV6 if family == 6 else p.IPV4
    if outcome is Outcome.HANDED_TO_BOUNCER:
        dut.vpc((D1,), map_layout.VPC_LOCAL_DIVIDER)
    if outcome is Outcome.HANDED_TO_DIVIDER:
        dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    if outcome is Outcome.SENT_TO_DIVIDER:
        dut.interface(flags=map_layout.INTERFACE_PINNED)
    if outcome in (Outcome.SENT_DIRECT, Outcome.DELIVERED_SAME_HOST, Outcome.SENT_TO_BOUNCER, Outcome.SENT_TO_DIVIDER):
        frame = p.ethernet(MAC[B], MAC[A], kind, fragment(own, to, later=later))
        run = dut.from_endpoint(frame)
    elif outcome is Outcome.REROUTED:
        frame = p.ethernet(MAC[R], MAC[A], kind, fragment(own, to, later=later))
        run = dut.from_underlay(tunnelled(frame, options=p.INVALIDATE, flags=0x40))
    else:
        options = b"" if outcome is Outcome.RETURNED else p.rts(D4, 1)
        source = ("10.0.0.44", "fd00::44")[family == 6] if to == far else far
        frame = p.ethernet(MAC[A], MAC[R], kind, fragment(source, to, later=later))
        run = dut.from_underlay(tunnelled(frame, options=options))
    assert run.outcome is outcome
    assert run.frame.endswith(frame)


def test_a_routed_packet_loses_one_hop(dut: Dut) -> None:
    run = dut.from_endpoint(from_a(p.ipv6(A6, R6, p.udp(), ttl=9), GW))
    assert run.frame[50:] == from_a(p.ipv6(A6, R6, p.udp(), ttl=8), GW)


def test_on_the_same_host_a_frame_reaches_the_endpoints_address(dut: Dut) -> None:
    run = dut.from_endpoint(from_a(p.ipv6(A6, B6, p.udp(), ttl=9), GW))
    assert run.frame == p.ethernet(MAC[B], GW, p.IPV6, p.ipv6(A6, B6, p.udp(), ttl=8))


def test_the_gateways_echo_reply_is_whole(dut: Dut) -> None:
    run = dut.from_endpoint(from_a(p.ipv6(A6, GATEWAY6, p.echo_ipv6(A6, GATEWAY6), protocol=p.ICMPV6), GW))
    reply = p.ipv6(GATEWAY6, A6, p.echo_ipv6(GATEWAY6, A6, 129), protocol=p.ICMPV6)
    assert run.frame == p.ethernet(MAC[A], GW, p.IPV6, reply)


def test_a_path_is_learnt_for_ipv6_too(dut: Dut) -> None:
    dut.remove(MapName.ENDPOINTS, key(R6))
    assert dut.from_underlay(tunnelled(frame_to(A6, R6))).outcome is Outcome.DELIVERED
    assert (dut.direct(R6) or ("",))[0] == D2
    assert dut.from_endpoint(plain()).outcome is Outcome.SENT_DIRECT


def test_the_source_of_an_ipv6_endpoint_of_ours_comes_from_nowhere_else(dut: Dut) -> None:
    assert dut.from_underlay(tunnelled(frame_to(A6, B6))).outcome is Outcome.SOURCE_ELSEWHERE


def test_the_same_ipv6_address_in_another_vpc_is_another_address(dut: Dut) -> None:
    dut.interface(vni=VNI + 1)
    assert dut.from_endpoint(plain()).outcome is Outcome.NO_NETWORK


def test_a_bouncer_bounces_ipv6(dut: Dut) -> None:
    dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    dut.endpoint(R6, "192.0.2.3")
    run = dut.from_underlay(tunnelled(frame_to(R6, A6), options=p.rts("192.0.2.4")))
    assert run.outcome is Outcome.BOUNCED
    assert run.frame[42:] == p.geneve(VNI, frame_to(R6, A6), options=p.rts("192.0.2.4", 1))
