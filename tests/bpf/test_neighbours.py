"""Neighbour discovery: RFC 826 and RFC 4861 as the overlay answers them, from endpoints and through tunnels."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    B6,
    D1,
    D2,
    D3,
    D4,
    GATEWAY6,
    MAC,
    R6,
    S1,
    S2,
    S4,
    STRANGER,
    UNKNOWN6,
    VNI,
    A,
    B,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, tunnelled

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

GROUP = "ff02::1:ff00:3"
GROUP_MAC = b"\x33\x33\xff\0\0\3"
LINK_LOCAL = "fe80::1"
ROUTER, SOLICITED, OVERRIDE = 0x80000000, 0x40000000, 0x20000000
BOUNCES = map_layout.NETWORK_LOCAL_BOUNCER


def asks(target: str, source: str = A6, to: str = GROUP, mac: bytes | None = MAC[A], **fields: object) -> bytes:
    """Return A's solicitation."""
    return p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.nd(source, to, target, mac, **fields))  # type: ignore[arg-type]


def behind(headers: bytes, first: int, target: str = R6) -> bytes:
    """Return A's solicitation behind extension headers."""
    message = p.nd(A6, GROUP, target, MAC[A])[40:]
    return p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.ipv6(A6, GROUP, headers + message, protocol=first, ttl=255))


MAC_OPTION, NONCE = bytes([1, 1]) + MAC[A], bytes([14, 1, *bytes(6)])


def with_options(options: bytes, source: str = A6) -> bytes:
    """Return A's solicitation of R6 with these options."""
    message = bytes([135, *bytes(7)]) + p.ip(R6) + options
    packet = p.ipv6(source, GROUP, p.summed(source, GROUP, message, p.ICMPV6), protocol=p.ICMPV6, ttl=255)
    return p.ethernet(GROUP_MAC, MAC[A], p.IPV6, packet)


TABLE = [
    ("a question for an endpoint of this host", asks(B6), Outcome.ND_ANSWERED),
    ("a question for a known endpoint elsewhere", asks(R6), Outcome.ND_ANSWERED),
    ("a question for the gateway", asks(GATEWAY6), Outcome.ND_ANSWERED),
    ("a question to the neighbour alone, whether it is still there", asks(R6, to=R6), Outcome.ND_ANSWERED),
    ("a question without an option", asks(R6, mac=None), Outcome.ND_ANSWERED),
    ("a question with another option", asks(R6, option=14), Outcome.ND_ANSWERED),
    ("a question from a link-local address", asks(R6, LINK_LOCAL), Outcome.ND_ANSWERED),
    ("another's address probed for duplicates", asks(R6, "::", mac=None), Outcome.ND_ANSWERED),
    ("its own address probed for duplicates", asks(A6, "::", mac=None), Outcome.ND_OWN_ADDRESS),
    ("an address probed for duplicates that nobody here knows", asks(UNKNOWN6, "::", mac=None),
     Outcome.SENT_TO_BOUNCER),
    ("another's address probed for duplicates with a nonce", asks(R6, "::", option=14), Outcome.ND_ANSWERED),
    ("a link-local address probed for duplicates", asks(LINK_LOCAL, "::", mac=None), Outcome.ND_OWN_ADDRESS),
    ("a question for an unknown address", asks(UNKNOWN6), Outcome.SENT_TO_BOUNCER),
    ("a question in another's name", asks(R6, B6), Outcome.SOURCE_ND),
    ("a question with another's Ethernet address", asks(R6, mac=MAC[B]), Outcome.SOURCE_ND),
    ("a hop limit of 254: it was routed", asks(R6, ttl=254), Outcome.MALFORMED_ND),
    ("a code", asks(R6, code=1), Outcome.MALFORMED_ND),
    ("a multicast target", asks("ff02::1"), Outcome.MALFORMED_ND),
    ("an option of length 0", asks(R6, option_length=0), Outcome.MALFORMED_ND),
    ("a second option of length 0", with_options(MAC_OPTION + bytes([14, 0, *bytes(6)])), Outcome.MALFORMED_ND),
    ("a second option that ends behind the packet", with_options(MAC_OPTION + bytes([14, 2, *bytes(6)])),
     Outcome.MALFORMED_ND),
    ("half an option", with_options(MAC_OPTION[:4]), Outcome.MALFORMED_ND),
    ("eight options", with_options(MAC_OPTION + NONCE * 7), Outcome.ND_ANSWERED),
    ("nine options", with_options(MAC_OPTION + NONCE * 8), Outcome.MALFORMED_ND),
    ("a wrong checksum", asks(R6, check=0x1234), Outcome.MALFORMED_ND),
    ("probed for duplicates with a source option behind a nonce", with_options(NONCE + MAC_OPTION, "::"),
     Outcome.MALFORMED_ND),
    ("probed for duplicates with a source option", asks(R6, "::"), Outcome.MALFORMED_ND),
    ("probed for duplicates, to all nodes", asks(R6, "::", to="ff02::1", mac=None), Outcome.MALFORMED_ND),
    ("a solicitation cut short", p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.ipv6(
        A6, GROUP, bytes([135]) + bytes(22), protocol=p.ICMPV6, ttl=255)), Outcome.MALFORMED_ND),
    ("a solicitation behind destination options", behind(p.extension(p.ICMPV6), p.DESTINATION), Outcome.ND_TYPE),
    ("a first fragment that ends before it says what it is", p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.ipv6(
        A6, GROUP, p.fragment_header(p.DESTINATION, more=True) + p.extension(p.ICMPV6), protocol=p.FRAGMENT, ttl=255)),
     Outcome.MALFORMED_INNER),
    ("the same with something behind it in the frame", p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.ipv6(
        A6, GROUP, p.fragment_header(p.DESTINATION, more=True) + p.extension(p.ICMPV6), protocol=p.FRAGMENT, ttl=255)
        + bytes([128, 0, 0, 0])), Outcome.MALFORMED_INNER),
    ("a first fragment whose headers end behind it", p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.ipv6(
        A6, R6, p.fragment_header(p.DESTINATION, more=True) + p.extension(p.DESTINATION), protocol=p.FRAGMENT)
        + p.extension(253)), Outcome.MALFORMED_INNER),
    ("a solicitation in a fragment of a fragment", behind(
        p.fragment_header(p.FRAGMENT, more=True) + p.fragment_header(p.ICMPV6), p.FRAGMENT), Outcome.MALFORMED_INNER),
    ("a solicitation in a later fragment of a first one", behind(
        p.fragment_header(p.FRAGMENT, more=True) + p.fragment_header(p.ICMPV6, 8), p.FRAGMENT),
     Outcome.MALFORMED_INNER),
    ("a solicitation in a fragment", behind(p.fragment_header(p.ICMPV6, more=True), p.FRAGMENT), Outcome.ND_TYPE),
    ("an advertisement", asks(A6, kind=136), Outcome.ND_TYPE),
    ("a router's solicitation", asks(A6, kind=133), Outcome.ND_TYPE),
    ("a router's solicitation as short as it may be", p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.ipv6(
        A6, "ff02::2", bytes([133, *bytes(7)]), protocol=p.ICMPV6, ttl=255)), Outcome.ND_TYPE),
    ("a router's advertisement", asks(A6, kind=134), Outcome.ND_TYPE),
    ("a redirection", asks(A6, kind=137), Outcome.ND_TYPE),
    ("a multicast listener's report", p.ethernet(b"\x33\x33\0\0\0\x16", MAC[A], p.IPV6, p.ipv6(
        A6, "ff02::16", p.extension(p.ICMPV6) + b"\x8f" + bytes(19), protocol=p.HOP_BY_HOP, ttl=1)),
     Outcome.MULTICAST),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_neighbour_discovery_from_an_endpoint(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    assert dut.from_endpoint(frame).outcome is outcome


def test_an_endpoint_without_an_ipv6_address_sends_no_solicitation(dut: Dut) -> None:
    dut.interface(ipv6=None)
    assert dut.from_endpoint(asks(R6)).outcome is Outcome.SOURCE_ND
    assert dut.from_endpoint(asks(R6, "::", mac=None)).outcome is Outcome.SOURCE_ND


def test_an_endpoint_without_an_ipv4_address_sends_no_arp_request(dut: Dut) -> None:
    dut.interface(ipv4=None)
    frame = p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], "0.0.0.0", R))
    assert dut.from_endpoint(frame).outcome is Outcome.SOURCE_ARP


@pytest.mark.parametrize(
    ("target", "mac", "router"), [(B6, MAC[B], 0), (R6, MAC[R], 0), (GATEWAY6, p.GATEWAY_MAC, ROUTER)]
)
def test_the_answer_is_a_whole_advertisement_to_the_asker(dut: Dut, target: str, mac: bytes, router: int) -> None:
    """RFC 4861 section 4.4, checksum included; only the gateway is a router."""
    run = dut.from_endpoint(asks(target))
    answer = p.nd(target, A6, target, mac, kind=136, flags=router | SOLICITED | OVERRIDE, option=2)
    assert run.frame == p.ethernet(MAC[A], mac, p.IPV6, answer)


def test_the_advertisement_has_an_option_even_if_the_solicitation_had_none(dut: Dut) -> None:
    run = dut.from_endpoint(asks(R6, mac=None))
    answer = p.nd(R6, A6, R6, MAC[R], kind=136, flags=SOLICITED | OVERRIDE, option=2)
    assert run.frame == p.ethernet(MAC[A], MAC[R], p.IPV6, answer)


def test_the_answer_to_a_link_local_address_goes_there(dut: Dut) -> None:
    run = dut.from_endpoint(asks(R6, LINK_LOCAL))
    answer = p.nd(R6, LINK_LOCAL, R6, MAC[R], kind=136, flags=SOLICITED | OVERRIDE, option=2)
    assert run.frame == p.ethernet(MAC[A], MAC[R], p.IPV6, answer)


def test_a_duplicate_address_is_advertised_to_all_nodes_unsolicited(dut: Dut) -> None:
    """RFC 4861 section 7.2.4: the asker has no address yet."""
    run = dut.from_endpoint(asks(R6, "::", mac=None))
    answer = p.nd(R6, "ff02::1", R6, MAC[R], kind=136, flags=OVERRIDE, option=2)
    assert run.frame == p.ethernet(b"\x33\x33\0\0\0\1", MAC[R], p.IPV6, answer)


@pytest.mark.parametrize(
    ("source", "mac"), [(A6, MAC[A]), (LINK_LOCAL, MAC[A]), ("::", None)], ids=["its own", "link-local", "none yet"]
)
def test_a_solicitation_to_a_bouncer_has_the_endpoints_own_address(dut: Dut, source: str, mac: bytes | None) -> None:
    """So that its answer finds back, and that a bouncer knows who probes for duplicates; the checksum follows."""
    run = dut.from_endpoint(asks(UNKNOWN6, source, mac=mac))
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    assert run.frame[30:34] == p.ip(D3)
    assert run.frame[42:] == p.geneve(VNI, asks(UNKNOWN6, mac=mac), options=p.rts(D1))


def test_the_local_bouncer_does_not_answer_for_an_unused_address(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)
    assert dut.from_endpoint(asks(UNKNOWN6, "::", mac=None)).outcome is Outcome.NO_ENDPOINT


def test_a_bouncers_answer_to_duplicate_address_detection_reaches_its_sender(dut: Dut) -> None:
    """The whole exchange: its host asks, the bouncer answers, the advertisement of the target ends the probe."""
    dut.own_network((D1,), BOUNCES)
    probe = p.ethernet(GROUP_MAC, MAC[A], p.IPV6, p.nd("fd00::44", GROUP, R6, None))
    answered = dut.from_underlay(tunnelled(probe, options=p.rts(D4)))
    assert answered.outcome is Outcome.ND_ANSWERED_REMOTE
    answer = p.nd(R6, A6, R6, MAC[R], kind=136, flags=SOLICITED | OVERRIDE, option=2)
    frame = p.ethernet(MAC[A], MAC[R], p.IPV6, answer)
    delivered = dut.from_underlay(tunnelled(frame, Outer(D3), options=p.rts(D3, 0, p.UNLEARNT)))
    assert (delivered.outcome, delivered.frame) == (Outcome.DELIVERED, frame)


def remote(target: str, source: str = R6, **fields: object) -> bytes:
    return p.ethernet(GROUP_MAC, MAC[R], p.IPV6, p.nd(source, GROUP, target, MAC[R], **fields))  # type: ignore[arg-type]


def probes(target: str) -> bytes:
    """Return what a peer makes of a probe for duplicates that does not give it a source."""
    return p.ethernet(GROUP_MAC, MAC[R], p.IPV6, p.nd("::", GROUP, target, None))


REMOTE = [
    ("for an endpoint of this host", remote(A6), 0, Outcome.ND_ANSWERED_REMOTE),
    ("for another's endpoint, at its bouncer", remote(R6, "fd00::44"), BOUNCES, Outcome.ND_ANSWERED_REMOTE),
    ("for another's endpoint, but no role", remote(R6, "fd00::44"), 0, Outcome.ENDPOINT_NOT_LOCAL),
    ("for nobody, at the bouncer", remote(UNKNOWN6), BOUNCES, Outcome.NO_ENDPOINT),
    ("for nobody, but no role", remote(UNKNOWN6), 0, Outcome.ENDPOINT_NOT_LOCAL),
    ("a probe for duplicates of an address that is here", probes(A6), 0, Outcome.ND_ANSWERED_REMOTE),
    ("a probe for duplicates of the own address, at its bouncer", probes(R6), BOUNCES, Outcome.ND_OWN_ADDRESS),
    ("a probe for duplicates of nobody's address", probes(UNKNOWN6), BOUNCES, Outcome.NO_ENDPOINT),
    ("a wrong checksum", remote(A6, check=0x1234), 0, Outcome.MALFORMED_ND),
    ("malformed", remote(A6, ttl=64), 0, Outcome.MALFORMED_ND),
    ("a router's advertisement", remote(A6, kind=134), 0, Outcome.ND_TYPE),
    ("an advertisement for an endpoint", p.ethernet(MAC[A], MAC[R], p.IPV6, p.nd(R6, A6, R6, MAC[R], kind=136)), 0,
     Outcome.DELIVERED),
    ("an advertisement in a fragment", p.ethernet(MAC[A], MAC[R], p.IPV6, p.ipv6(
        R6, A6, p.fragment_header(p.ICMPV6, more=True) + p.nd(R6, A6, R6, MAC[R], kind=136)[40:],
        protocol=p.FRAGMENT, ttl=255)), 0, Outcome.ND_TYPE),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "flags", "outcome"), REMOTE, ids=[row[0] for row in REMOTE])
def test_neighbour_discovery_through_a_tunnel(
    dut: Dut, sentence: str, frame: bytes, flags: int, outcome: Outcome
) -> None:
    dut.own_network((D1,), flags)
    origin = D2 if "the own address" in sentence else D4
    assert dut.from_underlay(tunnelled(frame, options=p.rts(origin))).outcome is outcome


@pytest.mark.parametrize("option", [MAC[R], None], ids=["as long as its question", "longer than its question"])
@pytest.mark.parametrize("over", [(D2, D1, D4), (S2, S1, S4)], ids=["over IPv4", "over IPv6"])
def test_a_bouncer_answers_the_origin_with_a_whole_advertisement(
    dut: Dut, over: tuple[str, str, str], option: bytes | None
) -> None:
    peer, own, origin = over
    dut.fill(over_ipv6=":" in peer)
    dut.own_network((D1,), BOUNCES)
    question = p.ethernet(GROUP_MAC, MAC[R], p.IPV6, p.nd("fd00::44", GROUP, R6, option))
    run = dut.from_underlay(tunnelled(question, Outer(peer, own), options=p.rts(origin)))
    assert run.outcome is Outcome.ND_ANSWERED_REMOTE
    answer = p.nd(R6, "fd00::44", R6, MAC[R], kind=136, flags=SOLICITED | OVERRIDE, option=2)
    inner = p.ethernet(MAC[R], MAC[R], p.IPV6, answer)
    label = int.from_bytes(run.frame[14:18], "big") & 0xFFFFF if ":" in peer else 0
    expected = Outer(own, origin, fragment=p.DF, label=label)
    assert run.frame[14:] == expected.wrap(p.geneve(VNI, inner, options=p.rts(own, 0, p.UNLEARNT)))[14:]


@pytest.mark.parametrize(("host", "outcome"), [(1, Outcome.ND_OWN_ADDRESS), (2, Outcome.ND_ANSWERED_REMOTE)])
def test_a_probe_for_duplicates_is_the_own_one_where_it_comes_from_the_address_own_host(
    dut: Dut, host: int, outcome: Outcome
) -> None:
    """R is on D2; the probe comes from D4, which is of the same host or of another."""
    dut.own_network((D1,), BOUNCES)
    dut.known(D2, host=1)
    dut.known(D4, host=host)
    assert dut.from_underlay(tunnelled(probes(R6), options=p.rts(D4))).outcome is outcome


@pytest.mark.parametrize(("last", "outcome"), [(246, Outcome.NO_ENDPOINT), (255, Outcome.MALFORMED_ND)])
def test_no_option_is_looked_for_farther_than_the_programs_look(dut: Dut, last: int, outcome: Outcome) -> None:
    """The second option begins 2,118 bytes from the frame's start, or before 2,048; it is a well-formed one."""
    dut.own_network((D1,), BOUNCES)
    options = bytes([14, last, *bytes(last * 8 - 2), 14, 1, *bytes(6)])
    message = bytes([135, *bytes(7)]) + p.ip("fd00::101:101:0:3") + options
    packet = p.ipv6(R6, GROUP, p.summed(R6, GROUP, message, p.ICMPV6), protocol=p.ICMPV6, ttl=255)
    frame = p.ethernet(GROUP_MAC, MAC[R], p.IPV6, packet)
    assert dut.from_underlay(tunnelled(frame, options=p.rts(D4))).outcome is outcome


def test_an_advertisement_that_exceeds_the_mtu_is_dropped_without_an_icmp_error(dut: Dut) -> None:
    """The path to the one who asked carries no answer."""
    dut.next_hop(D2, mtu=100)
    assert dut.from_underlay(tunnelled(remote(A6), options=p.rts(D2))).outcome is Outcome.TOO_BIG


def test_a_bouncer_does_not_answer_an_unknown_droplet(dut: Dut) -> None:
    assert dut.from_underlay(tunnelled(remote(A6), options=p.rts(STRANGER))).outcome is Outcome.UNKNOWN_ORIGIN


def test_nothing_is_learnt_from_a_bouncers_answer(dut: Dut) -> None:
    answer = p.ethernet(MAC[A], MAC[R], p.IPV6, p.nd("fd00::44", A6, "fd00::44", MAC[R], kind=136))
    run = dut.from_underlay(tunnelled(answer, options=p.rts(D2, 0, p.UNLEARNT)))
    assert run.outcome is Outcome.DELIVERED
    assert dut.direct("fd00::44") is None


def test_duplicate_address_detection_is_undisturbed(dut: Dut) -> None:
    """Every message of an endpoint that configures its own two addresses ends in silence."""
    for address in (A6, LINK_LOCAL):
        run = dut.from_endpoint(asks(address, "::", to="ff02::1:ff00:1", mac=None))
        assert run.outcome is Outcome.ND_OWN_ADDRESS
    assert dut.from_endpoint(p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], "0.0.0.0", A))).outcome is (
        Outcome.ARP_OWN_ADDRESS
    )
