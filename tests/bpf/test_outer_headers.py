"""What stands in front of Geneve and VXLAN on receipt: families, tags, options, fragments, lengths, checksums."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    D1,
    D2,
    D3,
    DROPLET_MAC,
    MAC,
    R6,
    S1,
    S2,
    S3,
    SECOND_UPLINK,
    STRANGER,
    STRANGER6,
    UPLINK,
    VNI,
    A,
    Dut,
    R,
    mapped,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome

PAYLOAD = p.geneve(VNI, frame_to())
DATAGRAM = Outer(S2, S1).datagram(PAYLOAD)


def extended(headers: bytes, first: int, datagram: bytes = DATAGRAM) -> bytes:
    """Return a tunnel packet over IPv6 with extension headers in front of UDP."""
    return p.ethernet(DROPLET_MAC[D1], DROPLET_MAC[D2], p.IPV6, p.ipv6(S2, S1, headers + datagram, protocol=first))


def tag(frame: bytes, vlan: int) -> bytes:
    return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]


TABLE = [
    ("IPv4: options", Outer(ip_options=b"\1" * 4).wrap(PAYLOAD), Outcome.OUTER_OPTIONS),
    ("IPv4: a first fragment", Outer(fragment=p.MF).wrap(PAYLOAD), Outcome.OUTER_FRAGMENT),
    ("IPv4: a later fragment, whose port nobody sees", Outer(fragment=100).wrap(PAYLOAD), Outcome.PASSED),
    ("IPv4: a wrong header checksum", Outer(ip_check=1).wrap(PAYLOAD), Outcome.OUTER_CHECKSUM),
    ("IPv4: without a UDP checksum", Outer().wrap(PAYLOAD), Outcome.DELIVERED),
    ("IPv4: a wrong UDP checksum", Outer(udp_check=1).wrap(PAYLOAD), Outcome.OUTER_CHECKSUM),
    ("IPv4: a UDP length below its payload", Outer(udp_length=60).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv4: a UDP length above its payload", Outer(udp_length=900).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv4: a length above the frame's", Outer(ip_length=900).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv4: a length below its header's", Outer(ip_length=19).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv4: padding behind", Outer().wrap(PAYLOAD) + bytes(6), Outcome.DELIVERED),
    ("IPv4: to another droplet", Outer(destination=D3).wrap(PAYLOAD), Outcome.PASSED),
    ("IPv4: from a stranger", Outer(STRANGER).wrap(PAYLOAD), Outcome.UNKNOWN_DROPLET),
    ("IPv6: a right UDP checksum", Outer(S2, S1).wrap(PAYLOAD), Outcome.DELIVERED),
    ("IPv6: a flow label", Outer(S2, S1, label=0xFFFFF).wrap(PAYLOAD), Outcome.DELIVERED),
    ("IPv6: without a UDP checksum", Outer(S2, S1, udp_check=0).wrap(PAYLOAD), Outcome.NO_CHECKSUM),
    ("IPv6: a wrong UDP checksum", Outer(S2, S1, udp_check=1).wrap(PAYLOAD), Outcome.OUTER_CHECKSUM),
    ("IPv6: a UDP length below its payload", Outer(S2, S1, udp_length=60).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv6: a length above the frame's", Outer(S2, S1, ip_length=900).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv6: a length of 0, as of a jumbogram", Outer(S2, S1, ip_length=0).wrap(PAYLOAD), Outcome.MALFORMED_OUTER),
    ("IPv6: padding behind", Outer(S2, S1).wrap(PAYLOAD) + bytes(6), Outcome.DELIVERED),
    ("IPv6: to another droplet", Outer(S2, S3).wrap(PAYLOAD), Outcome.PASSED),
    ("IPv6: from a stranger", Outer(STRANGER6, S1).wrap(PAYLOAD), Outcome.UNKNOWN_DROPLET),
    ("IPv6: hop-by-hop options", extended(p.extension(p.UDP), p.HOP_BY_HOP), Outcome.OUTER_OPTIONS),
    ("IPv6: destination options", extended(p.extension(p.UDP, bytes(14)), p.DESTINATION), Outcome.OUTER_OPTIONS),
    ("IPv6: a routing header", extended(p.extension(p.UDP), p.ROUTING), Outcome.OUTER_OPTIONS),
    ("IPv6: an atomic fragment", extended(p.fragment_header(p.UDP), p.FRAGMENT), Outcome.OUTER_OPTIONS),
    ("IPv6: a first fragment", extended(p.fragment_header(p.UDP, more=True), p.FRAGMENT), Outcome.OUTER_FRAGMENT),
    ("IPv6: a later fragment", extended(p.fragment_header(p.UDP, 80), p.FRAGMENT), Outcome.PASSED),
    ("IPv6: extension headers before something else", extended(p.extension(p.TCP), p.HOP_BY_HOP), Outcome.PASSED),
    ("IPv6: extension headers without an end", extended(p.extension(p.DESTINATION) * 9, p.DESTINATION),
     Outcome.PASSED),
    ("another port", Outer(port=6080).wrap(PAYLOAD), Outcome.PASSED),
    ("a tag of a VLAN that no droplet is in", Outer(vlan=9).wrap(PAYLOAD), Outcome.PASSED),
    ("a tag with a priority alone", Outer(vlan=0xE000).wrap(PAYLOAD), Outcome.DELIVERED),
    ("a tag cut short", Outer(vlan=9).wrap(PAYLOAD)[:16], Outcome.PASSED),
    ("two tags", tag(Outer(vlan=0).wrap(PAYLOAD), 0), Outcome.PASSED),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "frame", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_outer_headers_of_received_packets(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    dut.fill(over_ipv6="IPv6" in sentence)
    assert dut.from_underlay(frame).outcome is outcome


INNER = {"IPv4": frame_to(), "IPv6": frame_to(A6, R6)}


@pytest.mark.parametrize("vlan", [None, 5])
@pytest.mark.parametrize("over", [(D2, D1), (S2, S1)], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("inner", INNER)
def test_either_family_is_carried_by_either_family_with_and_without_a_tag(
    dut: Dut, inner: str, over: tuple[str, str], vlan: int | None
) -> None:
    dut.fill(over_ipv6=":" in over[0])
    if vlan:
        dut.local(int(":" in over[0]), over[1], vlan=vlan)
    run = dut.from_underlay(tunnelled(INNER[inner], Outer(*over, vlan=vlan)))
    assert (run.outcome, run.frame) == (Outcome.DELIVERED, INNER[inner])


def test_a_tagged_droplet_accepts_only_its_own_tag(dut: Dut) -> None:
    dut.local(0, D1, vlan=5)
    assert dut.from_underlay(tunnelled(outer=Outer(vlan=0xA005))).outcome is Outcome.DELIVERED
    assert dut.from_underlay(tunnelled()).outcome is Outcome.PASSED
    assert dut.from_underlay(tunnelled(outer=Outer(vlan=6))).outcome is Outcome.PASSED


def test_a_droplet_is_reached_by_its_own_interface_alone(dut: Dut) -> None:
    assert dut.from_underlay(tunnelled(), uplink=SECOND_UPLINK).outcome is Outcome.PASSED


def test_an_empty_place_among_the_droplets_hides_none_behind_it(dut: Dut) -> None:
    dut.local(0, "::", 0)
    dut.local(5, D1)
    assert dut.from_underlay(tunnelled()).outcome is Outcome.DELIVERED


def test_frames_of_a_bond_come_in_on_every_member(dut: Dut) -> None:
    dut.local(2, D1, SECOND_UPLINK)
    assert dut.from_underlay(tunnelled(), uplink=SECOND_UPLINK).outcome is Outcome.DELIVERED
    assert dut.from_underlay(tunnelled(), uplink=UPLINK).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("size", [1, 2, 3, 4, 64, 65, 127, 511, 512, 513, 1023, 1024, 1300, 1399])
@pytest.mark.parametrize("over", [(D2, D1), (S2, S1)], ids=["over IPv4", "over IPv6"])
def test_checksums_are_verified_at_every_length(dut: Dut, size: int, over: tuple[str, str]) -> None:
    dut.fill(over_ipv6=":" in over[0])
    data = bytes(n * 7 % 251 for n in range(size))
    inner = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp(data=data)))
    datagram = p.summed(*over, Outer(*over, udp_check=0).datagram(p.geneve(VNI, inner)))
    check = int.from_bytes(datagram[6:8], "big")
    dut.endpoint(A, D1, 1, mtu=1500)
    frame = tunnelled(inner, Outer(*over, udp_check=check))
    assert dut.from_underlay(frame).outcome is Outcome.DELIVERED
    damaged = frame[:-1] + bytes([frame[-1] ^ 1])
    assert dut.from_underlay(damaged).outcome is Outcome.OUTER_CHECKSUM


def test_a_droplet_may_send_without_a_checksum_over_ipv6_where_that_is_configured(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    dut.known(D2, map_layout.DROPLET_ZERO_CHECKSUM)
    unsummed = tunnelled(outer=Outer(S2, S1, udp_check=0))
    assert dut.from_underlay(unsummed).outcome is Outcome.DELIVERED
    assert dut.from_underlay(unsummed).outcome is Outcome.DELIVERED, "over a path that was just learnt"
    assert dut.from_underlay(tunnelled(outer=Outer(S2, S1))).outcome is Outcome.DELIVERED, "it may send one, too"
    wrong = tunnelled(outer=Outer(S2, S1, udp_check=1))
    assert dut.from_underlay(wrong).outcome is Outcome.OUTER_CHECKSUM


@pytest.mark.parametrize("peer", ["full", "zero"])
@pytest.mark.parametrize("own", ["full", "zero"])
def test_without_a_checksum_over_ipv6_only_a_pair_is_listened_to_of_which_either_is_configured_so(
    dut: Dut, own: str, peer: str
) -> None:
    dut.fill(over_ipv6=True)
    dut.known(D2, map_layout.DROPLET_ZERO_CHECKSUM if peer == "zero" else 0)
    dut.local(1, S1, flags=map_layout.DROPLET_ZERO_CHECKSUM if own == "zero" else 0)
    dut.local(2, "2001:db8::6", flags=0 if own == "zero" else map_layout.DROPLET_ZERO_CHECKSUM)
    run = dut.from_underlay(tunnelled(outer=Outer(S2, S1, udp_check=0)))
    assert run.outcome is (Outcome.DELIVERED if "zero" in (own, peer) else Outcome.NO_CHECKSUM)


def test_without_a_checksum_a_path_in_use_is_renewed_once_a_second_too(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    dut.known(D2, map_layout.DROPLET_ZERO_CHECKSUM)
    dut.from_underlay(tunnelled(outer=Outer(S2, S1, udp_check=0)))
    learnt = dut.direct(R)
    dut.from_underlay(tunnelled(outer=Outer(S2, S1, udp_check=0)))
    assert dut.direct(R) == learnt


def test_a_confirmed_path_excuses_no_missing_checksum(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    assert dut.from_underlay(tunnelled(outer=Outer(S2, S1))).outcome is Outcome.DELIVERED
    assert dut.from_underlay(tunnelled(outer=Outer(S2, S1, udp_check=0))).outcome is Outcome.NO_CHECKSUM


def test_frames_that_are_not_for_a_droplet_pass_to_the_hosts_stack_unchanged(dut: Dut) -> None:
    dut.remove(MapName.DROPLETS, mapped(D2))
    frame = Outer(destination=D3, ip_check=1).wrap(PAYLOAD)
    run = dut.from_underlay(frame)
    assert (run.outcome, run.frame) == (Outcome.PASSED, frame)
