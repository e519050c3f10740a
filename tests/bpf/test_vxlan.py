"""VXLAN (RFC 7348) for networks whose peers support only that: it has no options, so nothing is learnt from it."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    D1,
    D2,
    D3,
    D4,
    DROPLET_MAC,
    ELSEWHERE,
    GATEWAY,
    GATEWAY6,
    MAC,
    R6,
    S1,
    S2,
    STRANGER,
    UNKNOWN,
    VNI,
    A,
    B,
    Dut,
    R,
    key,
    mapped,
)  # fmt: skip
from bpf_tunnels import Outer, asks, frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome

PORT = 4789
FAR, BESIDE = "10.0.0.45", "10.0.0.46"
OUTER = Outer(port=PORT)
PAYLOAD = p.vxlan(VNI, frame_to())
CHECK = int.from_bytes(p.summed(D2, D1, OUTER.datagram(PAYLOAD))[6:8], "big")


def from_r6(payload: bytes, first: int) -> bytes:
    """Return R's inner frame to A with a payload that begins with a header of this number."""
    return p.ethernet(MAC[A], MAC[R], p.IPV6, p.ipv6(R6, A6, payload, protocol=first))


TABLE = [
    ("a packet for an endpoint", OUTER.wrap(PAYLOAD), Outcome.DELIVERED),
    ("reserved flags", OUTER.wrap(p.vxlan(VNI, frame_to(), 0xFFFFFFFF)), Outcome.DELIVERED),
    ("the reserved byte behind the VNI", OUTER.wrap(p.vxlan(VNI, frame_to(), reserved=0xFF)), Outcome.DELIVERED),
    ("a right UDP checksum", Outer(port=PORT, udp_check=CHECK).wrap(PAYLOAD), Outcome.DELIVERED),
    ("a wrong UDP checksum", Outer(port=PORT, udp_check=1).wrap(PAYLOAD), Outcome.OUTER_CHECKSUM),
    ("not marked as having a VNI", OUTER.wrap(p.vxlan(VNI, frame_to(), 0xF7FFFFFF)), Outcome.VXLAN_FLAGS),
    ("a VNI that is not known", OUTER.wrap(p.vxlan(VNI + 1, frame_to())), Outcome.NO_VPC),
    ("an unknown address", OUTER.wrap(p.vxlan(VNI, frame_to(UNKNOWN))), Outcome.ENDPOINT_NOT_LOCAL),
    ("no inner frame", OUTER.wrap(p.vxlan(VNI, b"")), Outcome.MALFORMED_OUTER),
    ("an inner Ethernet header cut short", OUTER.wrap(p.vxlan(VNI, bytes(13))), Outcome.MALFORMED_OUTER),
    ("a stranger's", Outer(STRANGER, port=PORT).wrap(PAYLOAD), Outcome.UNKNOWN_DROPLET),
    ("the source of an endpoint of ours", OUTER.wrap(p.vxlan(VNI, frame_to(A, B))), Outcome.SOURCE_ELSEWHERE),
    ("over IPv6", Outer(S2, S1, port=PORT).wrap(PAYLOAD), Outcome.DELIVERED),
    ("over IPv6 without a checksum", Outer(S2, S1, port=PORT, udp_check=0).wrap(PAYLOAD), Outcome.NO_CHECKSUM),
    ("IPv6 inside", OUTER.wrap(p.vxlan(VNI, frame_to(A6, R6))), Outcome.DELIVERED),
    ("an ARP question for an endpoint here", OUTER.wrap(p.vxlan(VNI, asks(A))), Outcome.ARP_ANSWERED_REMOTE),
    ("an ARP reply, which only bouncers give", OUTER.wrap(p.vxlan(VNI, asks(A, operation=2))), Outcome.ARP_OPCODE),
    ("a multicast listener's report", OUTER.wrap(p.vxlan(VNI, frame_to("ff02::16", R6))), Outcome.MULTICAST),
    ("IPv6 inside, more extension headers than are looked at", OUTER.wrap(p.vxlan(VNI, from_r6(
        p.extension(p.DESTINATION) * 8 + p.extension(p.UDP) + p.udp(), p.DESTINATION))), Outcome.EXTENSION_HEADERS),
    ("IPv6 inside, a fragment of a fragment", OUTER.wrap(p.vxlan(VNI, from_r6(
        p.fragment_header(p.FRAGMENT, more=True) + p.fragment_header(p.ICMPV6), p.FRAGMENT))),
     Outcome.MALFORMED_INNER),
    ("a fragment", Outer(port=PORT, fragment=p.MF).wrap(PAYLOAD), Outcome.OUTER_FRAGMENT),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_a_vxlan_packet(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    dut.fill(over_ipv6="IPv6" in sentence and "inside" not in sentence)
    assert dut.from_underlay(frame).outcome is outcome


def test_a_vxlan_packet_is_delivered_whole_and_nothing_is_learnt_from_it(dut: Dut) -> None:
    run = dut.from_underlay(OUTER.wrap(p.vxlan(VNI, frame_to(source="10.0.0.44"))))
    assert run.frame == frame_to(source="10.0.0.44")
    assert dut.entries(MapName.DIRECT) == {}


@pytest.mark.parametrize("over", [(D1, D2), (S1, S2)], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("addresses", [(A, R), (A6, R6)], ids=["IPv4 inside", "IPv6 inside"])
def test_every_byte_in_front_of_the_inner_frame(dut: Dut, addresses: tuple[str, str], over: tuple[str, str]) -> None:
    six = ":" in over[0]
    dut.fill(over_ipv6=six)
    dut.endpoint(addresses[1], D2, flags=map_layout.ENDPOINT_VXLAN)
    build, kind = (p.ipv6, p.IPV6) if ":" in addresses[0] else (p.ipv4, p.IPV4)
    inner = p.ethernet(MAC[R], MAC[A], kind, build(*addresses, p.udp()))
    run = dut.from_endpoint(inner)
    assert run.outcome is Outcome.SENT_DIRECT
    at = 54 if six else 34
    port = int.from_bytes(run.frame[at : at + 2], "big")
    assert port >= 49152
    label = int.from_bytes(run.frame[14:18], "big") & 0xFFFFF if six else 0
    expected = Outer(
        *over, port=PORT, source_port=port, fragment=p.DF, label=label,
        to_mac=DROPLET_MAC[D2], from_mac=DROPLET_MAC[D1],
    )  # fmt: skip
    assert run.frame == expected.wrap(p.vxlan(VNI, inner))


def test_a_bouncers_last_hop_to_a_vxlan_endpoint_is_vxlan(dut: Dut) -> None:
    dut.endpoint(R, D3, flags=map_layout.ENDPOINT_VXLAN)
    run = dut.from_underlay(tunnelled(frame_to(R), options=p.rts(D4, 1)))
    assert run.outcome is Outcome.BOUNCED
    assert run.frame[36:38] == PORT.to_bytes(2, "big")
    assert run.frame[42:] == p.vxlan(VNI, frame_to(R))


def test_a_bouncer_is_reached_by_geneve_even_for_a_vxlan_endpoint(dut: Dut) -> None:
    dut.endpoint(R, D2, flags=map_layout.ENDPOINT_VXLAN)
    dut.next_hop(D2, flags=map_layout.NEXT_HOP_DOWN)
    run = dut.from_endpoint(p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp())))
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    assert run.frame[36:38] == (6081).to_bytes(2, "big")


UNHEARD = "10.0.0.44"
"""A source that no document tells of."""
SPEAKS = p.UNLEARNT | p.SPEAKS_VXLAN


def test_a_vxlan_packet_bounced_into_geneve_carries_the_flags_unlearnt_and_vxlan(dut: Dut) -> None:
    dut.endpoint(R, D3)
    inner = frame_to(R, UNHEARD)
    run = dut.from_underlay(OUTER.wrap(p.vxlan(VNI, inner)))
    assert run.frame[42:] == p.geneve(VNI, inner, options=p.rts(D2, 1, SPEAKS))


@pytest.mark.parametrize(
    ("flags", "port"), [(SPEAKS, PORT), (p.UNLEARNT, 6081)], ids=["an origin of VXLAN", "an origin of Geneve"]
)
def test_a_second_bouncer_answers_an_origin_in_its_encapsulation(dut: Dut, flags: int, port: int) -> None:
    dut.endpoint(R, D4)
    dut.next_hop(D4, mtu=1000)
    inner = p.ethernet(MAC[R], MAC[R], p.IPV4, p.ipv4(UNHEARD, R, p.udp(data=bytes(1100))))
    run = dut.from_underlay(tunnelled(inner, Outer(D3), options=p.rts(D2, 1, flags)))
    assert (run.outcome, run.frame[30:34]) == (Outcome.ICMP_TOO_BIG_SENT_REMOTE, p.ip(D2))
    assert run.frame[36:38] == port.to_bytes(2, "big")
    assert run.frame[42:50] == (p.vxlan(VNI, b"") if port == PORT else p.geneve(VNI, b"", option_words=3))


def test_the_vxlan_flag_of_an_origin_is_forwarded(dut: Dut) -> None:
    dut.endpoint(R, D4)
    inner = frame_to(R, UNHEARD)
    run = dut.from_underlay(tunnelled(inner, Outer(D3), options=p.rts(D2, 1, SPEAKS)))
    assert run.frame[42:] == p.geneve(VNI, inner, options=p.rts(D2, 2, SPEAKS))


def icmp_error(mtu: int = 1200, kind: int = 3, code: int = 4) -> bytes:
    """Return an ICMP error from the gateway to A."""
    head = bytes([kind, code, 0, 0, 0, 0, *mtu.to_bytes(2, "big")]) + p.ipv4(A, R, p.udp())
    packet = p.ipv4(GATEWAY, A, head[:2] + p.checksum(head).to_bytes(2, "big") + head[4:], protocol=p.ICMP)
    return p.ethernet(MAC[A], p.GATEWAY_MAC, p.IPV4, packet)


def icmpv6_error(kind: int = 2) -> bytes:
    message = p.summed(GATEWAY6, A6, bytes([kind, *bytes(7)]) + p.ipv6(A6, R6, p.udp()), p.ICMPV6)
    return p.ethernet(MAC[A], p.GATEWAY_MAC, p.IPV6, p.ipv6(GATEWAY6, A6, message, protocol=p.ICMPV6))


SOURCES = [
    ("for an endpoint here, of an endpoint of the peer", frame_to(A, R), Outcome.DELIVERED),
    ("for an endpoint here, of one that is elsewhere by the documents", frame_to(A, ELSEWHERE), Outcome.DELIVERED),
    ("for an endpoint here, of one here", frame_to(A, B), Outcome.SOURCE_ELSEWHERE),
    ("for an endpoint here, of nobody that is known", frame_to(A, UNHEARD), Outcome.DELIVERED),
    ("for an endpoint here, of the gateway", frame_to(A, GATEWAY), Outcome.SOURCE_ELSEWHERE),
    ("for an endpoint here, of the gateway over IPv6", frame_to(A6, GATEWAY6), Outcome.SOURCE_ELSEWHERE),
    ("an error of the gateway", icmp_error(), Outcome.DELIVERED),
    ("a used up time to live, told by the gateway", icmp_error(0, 11, 0), Outcome.DELIVERED),
    ("an error of the gateway over IPv6", icmpv6_error(), Outcome.DELIVERED),
    ("a redirection by the gateway", icmp_error(0, 5, 1), Outcome.SOURCE_ELSEWHERE),
    ("an echo request of the gateway over IPv6", icmpv6_error(128), Outcome.SOURCE_ELSEWHERE),
    ("to go on, of an endpoint of the peer", frame_to(FAR, R), Outcome.BOUNCED),
    ("to go on, of an endpoint on another droplet of the peer's host", frame_to(FAR, BESIDE), Outcome.BOUNCED),
    ("to go on, of one that is elsewhere by the documents", frame_to(FAR, ELSEWHERE), Outcome.SOURCE_ELSEWHERE),
    ("to go on, of one here", frame_to(FAR, A), Outcome.SOURCE_ELSEWHERE),
    ("to go on, of nobody that is known", frame_to(FAR, UNHEARD), Outcome.BOUNCED),
    ("to go on, of the gateway", frame_to(FAR, GATEWAY), Outcome.SOURCE_ELSEWHERE),
]


@pytest.mark.parametrize(("sentence", "inner", "outcome"), SOURCES, ids=[row[0] for row in SOURCES])
def test_which_sources_a_vxlan_peer_may_use(dut: Dut, sentence: str, inner: bytes, outcome: Outcome) -> None:
    """FAR and ELSEWHERE are on D4, which is of another host than D2; BESIDE is on D3, of D2's."""
    dut.known(D3, host=2)
    for address, droplet in ((FAR, D4), (ELSEWHERE, D4), (BESIDE, D3)):
        dut.put(MapName.ENDPOINTS, key(address), map_layout.ENDPOINT.pack(mapped(droplet), 0, 0, 0, MAC[R]))
    assert dut.from_underlay(OUTER.wrap(p.vxlan(VNI, inner))).outcome is outcome


def test_packets_between_vxlan_peers_end_with_their_time_to_live(dut: Dut) -> None:
    """VXLAN has no room to count bounces; a loop of two ends at once, as nothing goes back to where it came from."""
    dut.endpoint(R, D4, flags=map_layout.ENDPOINT_VXLAN)
    inner = frame_to(R, UNHEARD)
    run = dut.from_underlay(Outer(port=PORT, ttl=9).wrap(p.vxlan(VNI, inner)))
    assert (run.outcome, run.frame[22], run.frame[36:38]) == (Outcome.BOUNCED, 8, PORT.to_bytes(2, "big"))
    assert dut.from_underlay(Outer(port=PORT, ttl=1).wrap(p.vxlan(VNI, inner))).outcome is Outcome.OUTER_TTL
    assert dut.from_underlay(Outer(D4, port=PORT).wrap(p.vxlan(VNI, inner))).outcome is Outcome.ENDPOINT_NOT_LOCAL


def test_flooded_packets_for_a_peers_own_endpoint_are_not_sent_back(dut: Dut) -> None:
    """Its bridge would learn that the endpoint, or the one that asks, is behind the tunnel."""
    dut.endpoint(R, D2, flags=map_layout.ENDPOINT_VXLAN)
    for inner in (frame_to(R), asks(R)):
        assert dut.from_underlay(OUTER.wrap(p.vxlan(VNI, inner))).outcome is Outcome.ENDPOINT_NOT_LOCAL


def test_an_arp_answer_goes_back_by_vxlan(dut: Dut) -> None:
    run = dut.from_underlay(OUTER.wrap(p.vxlan(VNI, asks(A))))
    reply = p.ethernet(MAC[R], MAC[A], p.ARP, p.arp(MAC[A], A, R, operation=2, target_mac=MAC[R]))
    assert run.frame[36:38] == PORT.to_bytes(2, "big")
    assert run.frame[42:] == p.vxlan(VNI, reply)


def test_a_neighbour_advertisement_goes_back_by_vxlan(dut: Dut) -> None:
    question = p.ethernet(b"\x33\x33\xff\0\0\1", MAC[R], p.IPV6, p.nd(R6, "ff02::1:ff00:1", A6, MAC[R]))
    run = dut.from_underlay(OUTER.wrap(p.vxlan(VNI, question)))
    assert run.outcome is Outcome.ND_ANSWERED_REMOTE
    answer = p.nd(A6, R6, A6, MAC[A], kind=136, flags=0x60000000, option=2)
    assert run.frame[42:] == p.vxlan(VNI, p.ethernet(MAC[R], MAC[A], p.IPV6, answer))


@pytest.mark.parametrize(("sender_speaks", "port"), [("VXLAN", PORT), ("Geneve", 6081)])
def test_a_packet_that_exceeds_the_next_mtu_is_answered_in_its_senders_encapsulation(
    dut: Dut, sender_speaks: str, port: int
) -> None:
    """The packet is forwarded in the other encapsulation each time."""
    inner = p.ethernet(MAC[R], MAC[R], p.IPV4, p.ipv4("10.0.0.44", R, p.udp(data=bytes(1200))))
    dut.endpoint(R, D3, flags=map_layout.ENDPOINT_VXLAN if sender_speaks == "Geneve" else 0)
    dut.next_hop(D3, mtu=1000)
    payload = p.vxlan(VNI, inner) if sender_speaks == "VXLAN" else p.geneve(VNI, inner)
    run = dut.from_underlay(Outer(port=port).wrap(payload))
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT_REMOTE
    assert run.frame[30:34] == p.ip(D2)
    assert run.frame[36:38] == port.to_bytes(2, "big")
