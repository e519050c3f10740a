"""RFC 8926 on sending: every byte in front of the inner frame, in every pair of families, with and without a tag."""

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
    MAC,
    R6,
    S1,
    S2,
    S3,
    S4,
    SECOND_UPLINK,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

GENEVE_PORT = 6081
FAMILIES = [(inner, outer) for outer in (4, 6) for inner in (4, 6)]
IDS = [f"{inner} in {outer}" for inner, outer in FAMILIES]


def from_a(family: int, to: str, segment: bytes | None = None, **header: object) -> bytes:
    sender, build, kind = (A6, p.ipv6, p.IPV6) if family == 6 else (A, p.ipv4, p.IPV4)
    packet = build(sender, to, p.udp() if segment is None else segment, **header)  # type: ignore[arg-type]
    return p.ethernet(MAC[R], MAC[A], kind, packet)


def source_port(frame: bytes) -> int:
    """Return the tunnel's UDP source port, whatever the outer family."""
    at = 34 if frame[12:14] == b"\x08\x00" else 54
    return int.from_bytes(frame[at : at + 2], "big")


def label(frame: bytes) -> int:
    return int.from_bytes(frame[14:18], "big") & 0xFFFFF


@pytest.mark.parametrize("vlan", [0, 5])
@pytest.mark.parametrize("bounced", [False, True], ids=["direct", "to a bouncer"])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=IDS)
def test_every_byte_in_front_of_the_inner_frame(dut: Dut, inner: int, outer: int, bounced: bool, vlan: int) -> None:
    dut.fill(over_ipv6=outer == 6)
    dut.interface(dscp=0x2E)
    own, direct, bouncer = (S1, S2, S3) if outer == 6 else (D1, D2, D3)
    dut.local(int(outer == 6), own, vlan=vlan)
    known, unknown = (R6, UNKNOWN6) if inner == 6 else (R, UNKNOWN)
    frame = from_a(inner, unknown if bounced else known)
    run = dut.from_endpoint(frame)
    assert run.outcome is (Outcome.SENT_TO_BOUNCER if bounced else Outcome.SENT_DIRECT)
    there = bouncer if bounced else direct
    expected = Outer(
        own, there, tos=0x2E << 2, ttl=64, fragment=p.DF, source_port=source_port(run.frame[4 if vlan else 0 :]),
        vlan=vlan or None, to_mac=DROPLET_MAC[there], from_mac=DROPLET_MAC[D1],
        label=label(run.frame[4 if vlan else 0 :]),
    )  # fmt: skip
    assert run.frame == expected.wrap(p.geneve(VNI, frame, options=p.rts(own) if bounced else b""))


@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=IDS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 63, 64, 65, 500, 512, 1000, 1337])
def test_udp_has_a_right_checksum_over_ipv6_and_none_over_ipv4(dut: Dut, size: int, inner: int, outer: int) -> None:
    """Also where it comes from the inner transport's own: TCP, and UDP with one of its own."""
    dut.fill(over_ipv6=outer == 6)
    sender, receiver = (A6, R6) if inner == 6 else (A, R)
    data = bytes(n * 31 % 253 for n in range(size))
    segments = [
        (p.UDP, p.udp(data=data)),
        (p.UDP, p.summed(sender, receiver, p.udp(data=data))),
        (p.TCP, p.summed(sender, receiver, p.tcp(data=data), p.TCP)),
        (200, data),
    ]
    for protocol, segment in segments:
        run = dut.from_endpoint(from_a(inner, receiver, segment, protocol=protocol))
        assert run.outcome is Outcome.SENT_DIRECT
        if outer == 4:
            assert run.frame[40:42] == b"\0\0"
            continue
        datagram = run.frame[54:]
        assert datagram[6:8] != b"\0\0"
        assert p.checksum(p.pseudo(S1, S2, len(datagram), p.UDP) + datagram) == 0


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("bad", ["TCP", "UDP"])
def test_a_wrong_inner_checksum_is_never_made_right(dut: Dut, bad: str, inner: int) -> None:
    dut.fill(over_ipv6=True)
    protocol, segment = (p.TCP, p.tcp()) if bad == "TCP" else (p.UDP, p.udp()[:6] + b"\x12\x34" + b"data")
    frame = from_a(inner, R6 if inner == 6 else R, segment, protocol=protocol)
    run = dut.from_endpoint(frame)
    assert run.frame.endswith(frame)
    assert p.checksum(p.pseudo(S1, S2, len(run.frame) - 54, p.UDP) + run.frame[54:]) != 0


@pytest.mark.parametrize("to", [R, UNKNOWN], ids=["straight", "to a bouncer"])
@pytest.mark.parametrize("peer", ["full", "zero"])
@pytest.mark.parametrize("own", ["full", "zero"])
def test_a_pair_of_which_either_is_configured_so_has_no_checksum_over_ipv6(
    dut: Dut, own: str, peer: str, to: str
) -> None:
    dut.fill(over_ipv6=True)
    dut.local(1, S1, flags=map_layout.DROPLET_ZERO_CHECKSUM if own == "zero" else 0)
    for name in (D2, D3):
        dut.next_hop(name, flags=map_layout.NEXT_HOP_ZERO_CHECKSUM if peer == "zero" else 0)
    run = dut.from_endpoint(from_a(4, to))
    if "zero" in (own, peer):
        assert run.frame[60:62] == b"\0\0"
    else:
        assert p.checksum(p.pseudo(S1, S2 if to == R else S3, len(run.frame) - 54, p.UDP) + run.frame[54:]) == 0


def test_the_droplet_that_a_packet_leaves_by_counts_not_another_of_this_host(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    dut.local(1, S1, flags=map_layout.DROPLET_ZERO_CHECKSUM)
    dut.local(2, "2001:db8::6", SECOND_UPLINK)
    dut.next_hop(D2, by=2)
    run = dut.from_endpoint(from_a(4, R))
    assert p.checksum(p.pseudo("2001:db8::6", S2, len(run.frame) - 54, p.UDP) + run.frame[54:]) == 0


def test_padding_behind_the_inner_packet_is_summed_too(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    segment = p.summed(A, R, p.tcp(), p.TCP)
    run = dut.from_endpoint(from_a(4, R, segment, protocol=p.TCP) + b"padded")
    assert p.checksum(p.pseudo(S1, S2, len(run.frame) - 54, p.UDP) + run.frame[54:]) == 0


def test_what_follows_the_datagram_inside_its_packet_is_summed_too(dut: Dut) -> None:
    """A surplus area behind UDP's own length (RFC 9868): under no checksum of the endpoint's."""
    dut.fill(over_ipv6=True)
    datagram = p.summed(A, R, p.udp(), p.UDP)
    run = dut.from_endpoint(from_a(4, R, datagram + b"surplus!", protocol=p.UDP))
    assert p.checksum(p.pseudo(S1, S2, len(run.frame) - 54, p.UDP) + run.frame[54:]) == 0


@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=IDS)
def test_source_ports_are_the_flows_and_spread_over_the_full_ephemeral_range(dut: Dut, inner: int, outer: int) -> None:
    dut.fill(over_ipv6=outer == 6)
    known = R6 if inner == 6 else R
    ports = [source_port(dut.from_endpoint(from_a(inner, known, p.udp(n))).frame) for n in range(1, 400)]
    assert all(49152 <= port <= 65535 for port in ports)
    assert len(set(ports)) > 380
    sixteenths = {(port - 49152) // 1024 for port in ports}
    assert sixteenths == set(range(16))
    again = [source_port(dut.from_endpoint(from_a(inner, known, p.udp(n, data=b"x" * n))).frame) for n in range(1, 400)]
    assert again == ports, "neither length nor content is in it"


@pytest.mark.parametrize("protocol", [p.TCP, p.UDP, p.SCTP])
def test_each_of_the_five_counts_for_the_source_port(dut: Dut, protocol: int) -> None:
    segment = p.udp() + bytes(12)
    base = source_port(dut.from_endpoint(from_a(4, R, segment, protocol=protocol)).frame)
    other = p.udp(1001) + bytes(12), p.udp(destination=2001) + bytes(12)
    frames = [from_a(4, R, bytes_, protocol=protocol) for bytes_ in other]
    frames += [from_a(4, UNKNOWN, segment, protocol=protocol), from_a(4, R, segment, protocol=p.ICMP)]
    moved = [source_port(run.frame) for run in map(dut.from_endpoint, frames) if run.outcome is Outcome.SENT_DIRECT]
    assert base not in moved


def test_over_ipv6_a_flow_has_a_label_of_its_own(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    labels = [label(dut.from_endpoint(from_a(4, R, p.udp(n))).frame) for n in range(1, 200)]
    assert len(set(labels)) > 190
    assert label(dut.from_endpoint(from_a(4, R, p.udp(1))).frame) == labels[0]


def test_a_bounce_keeps_the_source_port(dut: Dut) -> None:
    dut.endpoint(R, D3)
    run = dut.from_underlay(tunnelled(frame_to(R), Outer(source_port=61234)))
    assert source_port(run.frame) == 61234


@pytest.mark.parametrize("ttl", [1, 2, 63, 255])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=IDS)
def test_the_time_to_live_is_a_pipes(dut: Dut, inner: int, outer: int, ttl: int) -> None:
    """The outer one starts at 64 whatever the inner one is, and the tunnel does not change the inner one."""
    dut.fill(over_ipv6=outer == 6)
    frame = from_a(inner, R6 if inner == 6 else R, ttl=ttl)
    run = dut.from_endpoint(frame)
    assert run.frame[21 if outer == 6 else 22] == 64
    assert run.frame.endswith(frame)
    here = frame_to(A6 if inner == 6 else A, R6 if inner == 6 else R, ttl=ttl)
    over = (S2, S1) if outer == 6 else (D2, D1)
    assert dut.from_underlay(tunnelled(here, Outer(*over, ttl=7))).frame == here


def test_no_option_but_ours_leaves_and_a_bouncer_passes_none_on(dut: Dut) -> None:
    dut.endpoint(R, D3)
    options = p.option(0x0102, 0x05, bytes(4)) + p.rts(D4, 1)
    run = dut.from_underlay(tunnelled(frame_to(R), options=options))
    assert run.frame[42:].startswith(p.geneve(VNI, b"", options=p.rts(D4, 2)))


def test_a_frame_leaves_by_the_interface_that_reaches_the_other_droplet(dut: Dut) -> None:
    """R's droplet has no IPv4 address, and this host's IPv6 droplet is on another interface."""
    dut.local(1, S1, SECOND_UPLINK)
    dut.no_next_hop(D2)
    dut.over_ipv6 = True
    dut.endpoint(R, D2)
    dut.next_hop(D2, by=1)
    run = dut.from_endpoint(from_a(4, R))
    assert run.outcome is Outcome.SENT_DIRECT
    assert run.frame[22:54] == p.ip(S1) + p.ip(S2)


def test_an_ipv6_origin_does_not_travel_over_ipv4(dut: Dut) -> None:
    """A bouncer of both families names itself, from where no direct path is learnt."""
    dut.endpoint(R, D3)
    dut.over_ipv6 = True
    dut.known(D2)
    run = dut.from_underlay(tunnelled(frame_to(R), Outer(S2, S1), options=p.rts(S4)))
    assert run.outcome is Outcome.BOUNCED
    assert run.frame[42:] == p.geneve(VNI, frame_to(R), options=p.rts(D1, 1, p.UNLEARNT))
