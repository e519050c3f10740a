"""What leads nowhere is answered by ICMP: RFC 1122 section 3.2.2, RFC 1812 section 5.2.7.1, RFC 4443 section 3.1."""

from __future__ import annotations

import struct
from collections.abc import Callable

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    D1,
    D2,
    D4,
    ELSEWHERE,
    ELSEWHERE6,
    GATEWAY,
    GATEWAY6,
    MAC,
    NOWHERE,
    R6,
    S1,
    S2,
    S4,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome

GW = p.GATEWAY_MAC
NOWHERE6 = "fd99::1"
BOUNCES, DIVIDES = map_layout.NETWORK_LOCAL_BOUNCER, map_layout.VPC_LOCAL_DIVIDER
HOST, NET, PORT, PROTOCOL = (
    {4: (3, 1), 6: (1, 3)},
    {4: (3, 0), 6: (1, 0)},
    {4: (3, 3), 6: (1, 4)},
    {4: (3, 2), 6: (4, 1)},
)
"""Type and code by family."""
both_families = pytest.mark.parametrize("family", [4, 6])


def packet(source: str, to: str, payload: bytes | None = None, protocol: int = p.TCP, **header: object) -> bytes:
    build = p.ipv6 if ":" in to else p.ipv4
    return build(source, to, p.tcp() if payload is None else payload, protocol=protocol, **header)  # type: ignore[operator,no-any-return]


def frame(inner: bytes, source_mac: bytes = MAC[A], to_mac: bytes = GW) -> bytes:
    return p.ethernet(to_mac, source_mac, p.IPV6 if inner[0] >> 4 == 6 else p.IPV4, inner)


def from_a(family: int, to: dict[int, str], payload: bytes | None = None, protocol: int = p.TCP) -> bytes:
    return frame(packet(A6 if family == 6 else A, to[family], payload, protocol))


def error(kind: tuple[int, int], quoted: bytes, to: str, to_mac: bytes = MAC[A], value: int = 0) -> bytes:
    """Return the whole error about an IP packet, from the gateway of A's network."""
    if ":" in to:
        head = struct.pack("!BBHI", *kind, 0, value)
        message = p.summed(GATEWAY6, to, head + quoted[:1168], p.ICMPV6)
        return p.ethernet(to_mac, GW, p.IPV6, p.ipv6(GATEWAY6, to, message, protocol=p.ICMPV6))
    head = struct.pack("!BBHI", *kind, 0, value) + quoted[:528]
    message = head[:2] + struct.pack("!H", p.checksum(head)) + head[4:]
    return p.ethernet(to_mac, GW, p.IPV4, p.ipv4(GATEWAY, to, message, protocol=p.ICMP, fragment=p.DF))


def bounces(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)


def divides(dut: Dut) -> None:
    bounces(dut)
    dut.vpc((D1,), DIVIDES)


def divides_for_a_network_without_bouncers(dut: Dut) -> None:
    divides(dut)
    dut.other_network(())


def without_dividers(dut: Dut) -> None:
    bounces(dut)
    dut.vpc(())


def pinned_without_dividers(dut: Dut) -> None:
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    dut.vpc(())


def without_bouncers(dut: Dut) -> None:
    dut.own_network(())


UNKNOWNS, OUTSIDE, OTHER = {4: UNKNOWN, 6: UNKNOWN6}, {4: NOWHERE, 6: NOWHERE6}, {4: ELSEWHERE, 6: ELSEWHERE6}
GATEWAYS = {4: GATEWAY, 6: GATEWAY6}
HERE = [
    ("its bouncer, which is here, knows no such endpoint", bounces, UNKNOWNS, HOST),
    ("its divider, which is here, knows no such network", divides, OUTSIDE, NET),
    ("the other network has no bouncer", divides_for_a_network_without_bouncers, OTHER, NET),
    ("the VPC has no divider", without_dividers, OTHER, NET),
    ("the VPC has no divider, for an address of no network", without_dividers, OUTSIDE, NET),
    ("a pinned network without dividers", pinned_without_dividers, OTHER, NET),
    ("the own network has no bouncer", without_bouncers, UNKNOWNS, NET),
]


@both_families
@pytest.mark.parametrize(("sentence", "prepare", "to", "kind"), HERE, ids=[row[0] for row in HERE])
def test_a_local_endpoint_gets_icmp_errors_about_unreachable_destinations(
    dut: Dut, sentence: str, prepare: Callable[[Dut], None], to: dict[int, str], kind: dict[int, tuple[int, int]],
    family: int,
) -> None:  # fmt: skip
    prepare(dut)
    sent = from_a(family, to)
    run = dut.from_endpoint(sent)
    assert run.outcome is Outcome.ICMP_UNREACHABLE_SENT, sentence
    assert run.frame == error(kind[family], sent[14:], A6 if family == 6 else A)


REFUSED = [
    ("UDP", p.UDP, p.udp(), PORT),
    ("SCTP", p.SCTP, bytes(12), PORT),
    ("DCCP", 33, bytes(12), PORT),
    ("UDP-Lite", 136, bytes(8), PORT),
    ("GRE", 47, bytes(8), PROTOCOL),
]


@both_families
@pytest.mark.parametrize(("sentence", "protocol", "payload", "kind"), REFUSED, ids=[row[0] for row in REFUSED])
def test_the_gateway_refuses_what_it_has_no_service_for(
    dut: Dut, sentence: str, protocol: int, payload: bytes, kind: dict[int, tuple[int, int]], family: int
) -> None:
    """Nor protocol: over IPv6 the error points to where the packet names it (RFC 4443 section 3.4)."""
    sent = from_a(family, GATEWAYS, payload, protocol)
    run = dut.from_endpoint(sent)
    assert run.outcome is Outcome.GATEWAY_REFUSED
    points_to = 6 if (family, kind) == (6, PROTOCOL) else 0
    assert run.frame == error(kind[family], sent[14:], A6 if family == 6 else A, value=points_to)


SYN, FIN, RST, ACK = 2, 1, 4, 16


def segment(
    flags: int, data: bytes = b"", sequence: int = 0xFFFFFFFF, acknowledged: int = 7, options: int = 0
) -> bytes:
    """Return TCP from port 1000 to 2000; `options` in words."""
    head = struct.pack("!HHIIHHHH", 1000, 2000, sequence, acknowledged, (5 + options) << 12 | flags, 512, 0, 0)
    return head + b"\1" * 4 * options + data


def reset(family: int, sequence: int, acknowledged: int, flags: int) -> bytes:
    """Return the whole frame from A's gateway to A."""
    ends = (GATEWAY6, A6) if family == 6 else (GATEWAY, A)
    head = struct.pack("!HHIIHHHH", 2000, 1000, sequence, acknowledged, 5 << 12 | flags, 0, 0, 0)
    header = {} if family == 6 else {"fragment": p.DF}
    return frame(packet(*ends, p.summed(*ends, head, p.TCP), **header), GW, MAC[A])  # type: ignore[arg-type]


SEGMENTS = [
    ("to begin a connection", segment(SYN), (0, 0, RST | ACK)),
    ("with options", segment(SYN, options=10), (0, 0, RST | ACK)),
    ("with data", segment(SYN | FIN, b"hello"), (0, 6, RST | ACK)),
    ("of a connection that is none", segment(ACK, b"hello"), (7, 0, RST)),
    ("to answer one", segment(SYN | ACK), (7, 0, RST)),
    ("that is nothing", segment(0, sequence=41), (0, 41, RST | ACK)),
]


@both_families
@pytest.mark.parametrize(("sentence", "sent", "want"), SEGMENTS, ids=[row[0] for row in SEGMENTS])
def test_the_gateway_resets_a_segment(
    dut: Dut, sentence: str, sent: bytes, want: tuple[int, int, int], family: int
) -> None:
    """As RFC 9293 section 3.10.7.1 says: a kernel takes it at once, where an ICMP error may be too quick for it."""
    run = dut.from_endpoint(from_a(family, GATEWAYS, sent))
    assert run.outcome is Outcome.GATEWAY_REFUSED, sentence
    assert run.frame == reset(family, *want)


@both_families
@pytest.mark.parametrize("sent", [segment(RST), segment(RST | ACK), segment(SYN)[:19], b"\0" * 12 + b"\x40" + bytes(7),
                                  segment(SYN, options=3)[:28]])  # fmt: skip
def test_neither_a_reset_nor_half_a_segment_is_reset(dut: Dut, sent: bytes, family: int) -> None:
    outcome = dut.from_endpoint(from_a(family, GATEWAYS, sent)).outcome
    assert outcome is (Outcome.GATEWAY_REFUSED if len(sent) == 19 else Outcome.TO_GATEWAY)


@both_families
def test_where_the_segment_is_a_fragment_an_error_tells_as_much(dut: Dut, family: int) -> None:
    if family == 6:
        sent = frame(packet(A6, GATEWAY6, p.fragment_header(p.TCP, 0, True) + segment(SYN), p.FRAGMENT))
    else:
        sent = frame(packet(A, GATEWAY, segment(SYN), fragment=p.MF))
    run = dut.from_endpoint(sent)
    assert run.outcome is Outcome.GATEWAY_REFUSED
    assert run.frame == error(PORT[family], sent[14:], A6 if family == 6 else A)


def to_gateway6(payload: bytes, protocol: int) -> bytes:
    return frame(packet(A6, GATEWAY6, payload, protocol))


SILENT = [
    ("an ICMP error", from_a(4, GATEWAYS, p.echo(kind=3), p.ICMP)),
    ("an echo reply", from_a(4, GATEWAYS, p.echo(kind=0), p.ICMP)),
    ("an ICMPv6 error", to_gateway6(p.echo_ipv6(A6, GATEWAY6, 1), p.ICMPV6)),
    ("a later fragment of UDP", frame(p.ipv4(A, GATEWAY, bytes(32), fragment=100))),
    ("a later fragment of UDP over IPv6", to_gateway6(p.fragment_header(p.UDP, 800) + bytes(32), p.FRAGMENT)),
    ("no next header", to_gateway6(b"", p.NO_NEXT)),
    ("an unknown protocol behind options", to_gateway6(p.extension(47) + bytes(8), p.DESTINATION)),
]


@pytest.mark.parametrize(("sentence", "sent"), SILENT, ids=[row[0] for row in SILENT])
def test_the_gateway_is_silent_where_no_error_is_due(dut: Dut, sentence: str, sent: bytes) -> None:
    assert dut.from_endpoint(sent).outcome is Outcome.TO_GATEWAY, sentence


@both_families
@pytest.mark.parametrize("size", [100, 1300, 4000, 9000])
def test_the_gateway_answers_an_echo_of_any_size_piece_by_piece(dut: Dut, size: int, family: int) -> None:
    data = bytes(n % 251 for n in range(size))
    own, gateway = (A6, GATEWAY6) if family == 6 else (A, GATEWAY)
    asked = p.echo_ipv6(A6, GATEWAY6, data=data) if family == 6 else p.echo(data)
    answer = p.echo_ipv6(GATEWAY6, A6, 129, data=data) if family == 6 else p.echo(data, kind=0)
    for at in range(0, len(asked), 1280):
        more = at + 1280 < len(asked)

        def part(message: bytes, source: str, to: str, at: int = at, more: bool = more) -> bytes:
            piece = message[at : at + 1280]
            if len(asked) <= 1280:
                return packet(source, to, piece, p.ICMPV6 if family == 6 else p.ICMP)
            if family == 6:
                return packet(source, to, p.fragment_header(p.ICMPV6, at, more, 9) + piece, p.FRAGMENT)
            return packet(source, to, piece, p.ICMP, identity=9, fragment=at // 8 | (p.MF if more else 0))

        run = dut.from_endpoint(frame(part(asked, own, gateway)))
        assert run.outcome is Outcome.GATEWAY_ECHO
        assert run.frame == p.ethernet(MAC[A], GW, p.IPV6 if family == 6 else p.IPV4, part(answer, gateway, own))


REMOTE = [
    ("a bouncer that knows no such endpoint", bounces, UNKNOWNS, HOST),
    ("a divider that knows no such network", divides, OUTSIDE, NET),
    ("a divider, of a network without bouncers", divides_for_a_network_without_bouncers, OTHER, NET),
    ("a bouncer without dividers", without_dividers, OTHER, NET),
]


@pytest.mark.parametrize("outer", [4, 6])
@both_families
@pytest.mark.parametrize(("sentence", "prepare", "to", "kind"), REMOTE, ids=[row[0] for row in REMOTE])
def test_the_sender_of_a_tunnel_packet_gets_an_icmp_error_from_the_droplet_that_knows(
    dut: Dut, sentence: str, prepare: Callable[[Dut], None], to: dict[int, str], kind: dict[int, tuple[int, int]],
    family: int, outer: int,
) -> None:  # fmt: skip
    dut.fill(over_ipv6=outer == 6)
    prepare(dut)
    peer, own, origin = (S2, S1, S4) if outer == 6 else (D2, D1, D4)
    sender = R6 if family == 6 else R
    inner = packet(sender, to[family])
    run = dut.from_underlay(tunnelled(frame(inner, MAC[R]), Outer(peer, own, tos=0x28), options=p.rts(origin, 1)))
    assert run.outcome is Outcome.ICMP_UNREACHABLE_SENT_REMOTE, sentence
    label = int.from_bytes(run.frame[14:18], "big") & 0xFFFFF if outer == 6 else 0
    expected = Outer(own, origin, fragment=p.DF, label=label, tos=0x28)
    error_frame = error(kind[family], inner, sender, MAC[R])
    assert run.frame[14:] == expected.wrap(p.geneve(VNI, error_frame, options=p.rts(own, 0, p.UNLEARNT)))[14:]


@both_families
def test_a_sender_behind_vxlan_gets_the_icmp_error_by_vxlan(dut: Dut, family: int) -> None:
    bounces(dut)
    sender = R6 if family == 6 else R
    inner = packet(sender, UNKNOWNS[family])
    run = dut.from_underlay(Outer(port=4789).wrap(p.vxlan(VNI, frame(inner, MAC[R]))))
    assert run.outcome is Outcome.ICMP_UNREACHABLE_SENT_REMOTE
    assert run.frame.endswith(p.vxlan(VNI, error(HOST[family], inner, sender, MAC[R])))


@both_families
def test_a_returned_packet_to_a_removed_endpoint_is_answered_to_its_local_sender(dut: Dut, family: int) -> None:
    bounces(dut)
    sent = from_a(family, UNKNOWNS)
    run = dut.from_underlay(tunnelled(sent, options=p.INVALIDATE))
    assert run.outcome is Outcome.ICMP_UNREACHABLE_SENT
    assert run.frame == error(HOST[family], sent[14:], A6 if family == 6 else A)


@both_families
def test_an_undeliverable_packet_that_returns_to_its_own_host_is_answered_to_its_local_sender(
    dut: Dut, family: int
) -> None:
    """A bouncer elsewhere knew no more, and gave it to this droplet, which divides or bounces the other network."""
    dut.other_network((D1,), BOUNCES)
    sent = from_a(family, OTHER)
    run = dut.from_underlay(tunnelled(sent, options=p.rts(D1, 1)))
    assert run.outcome is Outcome.ICMP_UNREACHABLE_SENT
    assert run.frame == error(HOST[family], sent[14:], A6 if family == 6 else A)
    run = dut.from_underlay(tunnelled(sent, options=p.rts(D4, 1)))
    assert run.outcome is Outcome.ICMP_UNREACHABLE_SENT_REMOTE, "in its name from elsewhere: it is told nothing"


@both_families
@pytest.mark.parametrize("by", ["Geneve", "VXLAN"])
def test_an_error_that_another_droplet_tells_reaches_its_endpoint(dut: Dut, by: str, family: int) -> None:
    for kind in (HOST, NET):
        error_frame = error(kind[family], packet(A6 if family == 6 else A, OUTSIDE[family]), A6 if family == 6 else A)
        if by == "Geneve":
            run = dut.from_underlay(tunnelled(error_frame, options=p.rts(D4, 0, p.UNLEARNT)))
        else:
            run = dut.from_underlay(Outer(port=4789).wrap(p.vxlan(VNI, error_frame)))
        assert (run.outcome, run.frame) == (Outcome.DELIVERED, error_frame)


def icmpv6(kind: int) -> bytes:
    return frame(packet(A6, UNKNOWN6, p.echo_ipv6(A6, UNKNOWN6, kind), p.ICMPV6))


UNTOLD = [
    ("an ICMP error", from_a(4, UNKNOWNS, p.echo(kind=3), p.ICMP), Outcome.NO_ENDPOINT),
    ("an ICMPv6 error", icmpv6(1), Outcome.NO_ENDPOINT),
    ("an unknown ICMPv6 error", icmpv6(127), Outcome.NO_ENDPOINT),
    ("a later fragment", frame(p.ipv4(A, UNKNOWN, bytes(32), fragment=100)), Outcome.NO_ENDPOINT),
    ("a later fragment of IPv6", frame(packet(A6, UNKNOWN6, p.fragment_header(p.UDP, 800) + bytes(8), p.FRAGMENT)),
     Outcome.NO_ENDPOINT),
    ("an ARP question", p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN)), Outcome.NO_ENDPOINT),
    ("a solicitation", frame(p.nd(A6, "ff02::1:ff00:77", UNKNOWN6, MAC[A]), to_mac=b"\x33\x33\xff\0\0\x77"),
     Outcome.NO_ENDPOINT),
    ("an echo request", from_a(4, UNKNOWNS, p.echo(), p.ICMP), Outcome.ICMP_UNREACHABLE_SENT),
    ("an ICMPv6 echo request", icmpv6(128), Outcome.ICMP_UNREACHABLE_SENT),
    ("a first fragment", frame(p.ipv4(A, UNKNOWN, p.udp(), fragment=p.MF)), Outcome.ICMP_UNREACHABLE_SENT),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "sent", "outcome"), UNTOLD, ids=[row[0] for row in UNTOLD])
def test_which_packets_get_an_unreachable_error_and_which_keep_their_drop_reason(
    dut: Dut, sentence: str, sent: bytes, outcome: Outcome
) -> None:
    bounces(dut)
    assert dut.from_endpoint(sent).outcome is outcome, sentence


NOBODY = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "10.0.0.255", "::", "ff02::1"]


@pytest.mark.parametrize("source", NOBODY)
def test_a_source_that_is_not_unicast_gets_no_unreachable_error(dut: Dut, source: str) -> None:
    """As a VXLAN peer may send, which does no source filtering."""
    bounces(dut)
    inner = packet(source, UNKNOWNS[6 if ":" in source else 4])
    run = dut.from_underlay(Outer(port=4789).wrap(p.vxlan(VNI, frame(inner, MAC[R]))))
    assert run.outcome is Outcome.NO_ENDPOINT


@both_families
def test_a_packet_in_a_multicast_frame_gets_no_unreachable_error_on_any_path(dut: Dut, family: int) -> None:
    bounces(dut)
    inner = frame(packet(R6 if family == 6 else R, UNKNOWNS[family]), MAC[R], b"\xff" * 6)
    assert dut.from_underlay(tunnelled(inner, options=p.rts(D4))).outcome is Outcome.NO_ENDPOINT


@both_families
def test_drops_keep_their_reasons_where_no_error_is_due(dut: Dut, family: int) -> None:
    """An ICMP error is never answered by another one."""
    kind = p.ICMPV6 if family == 6 else p.ICMP
    about = p.echo_ipv6(A6, OTHER[6], 1) if family == 6 else p.echo(kind=3)
    without_dividers(dut)
    assert dut.from_endpoint(from_a(family, OTHER, about, kind)).outcome is Outcome.NO_DIVIDER
    divides_for_a_network_without_bouncers(dut)
    assert dut.from_endpoint(from_a(family, OTHER, about, kind)).outcome is Outcome.NO_BOUNCER
    about = p.echo_ipv6(A6, OUTSIDE[6], 1) if family == 6 else about
    assert dut.from_endpoint(from_a(family, OUTSIDE, about, kind)).outcome is Outcome.NO_NETWORK


def test_without_the_senders_network_no_network_unreachable_error_is_sent(dut: Dut) -> None:
    """That network is what is missing here; the receiver's gateway has no part in it."""
    dut.remove(MapName.NETWORKS, map_layout.network_key(VNI, p.ip("10.0.0.0"), 24))
    assert dut.from_endpoint(from_a(4, OTHER)).outcome is Outcome.NO_NETWORK


def test_a_packet_that_came_by_a_bouncer_with_an_old_map_goes_back_and_is_not_answered(dut: Dut) -> None:
    """This host does not know where its endpoint is now, and so not that it is nowhere."""
    assert dut.from_underlay(tunnelled(frame_to(UNKNOWN), options=p.rts(D4))).outcome is Outcome.MISDIRECTED


@both_families
def test_the_gateway_resets_as_many_connections_as_it_tells_errors(dut: Dut, family: int) -> None:
    outcomes = [dut.from_endpoint(from_a(family, GATEWAYS, p.tcp(), p.TCP)).outcome for _ in range(400)]
    assert set(outcomes[:50]) == {Outcome.GATEWAY_REFUSED}
    assert Outcome.TO_GATEWAY in outcomes


def test_errors_about_unknown_protocols_do_not_use_up_those_about_the_mtu(dut: Dut) -> None:
    """Over IPv6 their errors carry a value too."""
    refused = [dut.from_endpoint(from_a(6, GATEWAYS, bytes(8), 47)).outcome for _ in range(400)]
    assert Outcome.TO_GATEWAY in refused
    long = frame(p.ipv6(A6, R6, p.udp(data=bytes(1450))))
    assert dut.from_endpoint(long).outcome is Outcome.ICMP_TOO_BIG_SENT


def test_unreachable_errors_do_not_use_up_those_about_the_mtu(dut: Dut) -> None:
    bounces(dut)
    outcomes = [dut.from_endpoint(from_a(4, UNKNOWNS)).outcome for _ in range(400)]
    assert set(outcomes[:50]) == {Outcome.ICMP_UNREACHABLE_SENT}
    assert Outcome.NO_ENDPOINT in outcomes
    refused = [dut.from_endpoint(from_a(4, GATEWAYS, p.udp(), p.UDP)).outcome for _ in range(400)]
    assert Outcome.TO_GATEWAY in refused
    long = frame(p.ipv4(A, R, p.udp(data=bytes(1450))))
    assert dut.from_endpoint(long).outcome is Outcome.ICMP_TOO_BIG_SENT
