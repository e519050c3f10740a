"""GSO packets at the tc hook: measured and counted by the segments that they will be cut into.

A test run marks no GSO packet as TCP's or UDP's, so the kernel refuses to change its headers there: test_gso_frames.py
sends such packets on a wire.
"""

from __future__ import annotations

from dataclasses import replace

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    B6,
    D1,
    D2,
    D3,
    ELSEWHERE,
    GATEWAY,
    GATEWAY6,
    MAC,
    MTU,
    R6,
    SINGLE,
    A,
    B,
    Dut,
    Gso,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, six, tunnelled

from agent.core.model.hooks import Hook
from agent.core.model.map_layout import NETWORK_LOCAL_BOUNCER
from agent.datapath.bpf.outcomes import Outcome

TC_ONLY = pytest.mark.parametrize("hook", [Hook.TC], indirect=True)
"""XDP sees single packets, with complete checksums."""
pytestmark = TC_ONLY
THREE = Gso(1000, 3)
"""For 2,500 bytes of payload."""


def stream(source: str, destination: str, payload: int = 2500, mac: bytes = MAC[R], own: bytes = MAC[A]) -> bytes:
    segment = p.tcp(data=bytes(payload))
    if ":" in source:
        return p.ethernet(mac, own, p.IPV6, p.ipv6(source, destination, segment, protocol=p.TCP))
    return p.ethernet(mac, own, p.IPV4, p.ipv4(source, destination, segment, protocol=p.TCP))


@pytest.mark.parametrize("payload", [1000, 1001, 2000, 2001, 3000])
@pytest.mark.parametrize(("source", "destination"), [(A, B), (A6, B6)], ids=["IPv4", "IPv6"])
def test_a_gso_packet_stays_whole_on_the_same_host_and_counts_as_its_segments(
    dut: Dut, source: str, destination: str, payload: int
) -> None:
    frame, packets = stream(source, destination, payload, mac=MAC[B]), (payload + 999) // 1000
    before = dut.endpoint_traffic(2)[2]
    run = dut.from_endpoint(frame, gso=Gso(1000, packets))
    assert (run.outcome, run.frame) == (Outcome.DELIVERED_SAME_HOST, frame)
    assert dut.endpoint_traffic(2)[2] - before == packets


def test_a_frame_that_fits_one_segment_counts_once_whatever_its_mark_says(dut: Dut) -> None:
    run = dut.from_endpoint(stream(A, B, 100, mac=MAC[B]), gso=Gso(1000, packets=1, noted=3))
    assert run.outcome is Outcome.DELIVERED_SAME_HOST


def test_datagrams_of_udp_count_likewise(dut: Dut) -> None:
    frame = p.ethernet(MAC[B], MAC[A], p.IPV4, p.ipv4(A, B, p.udp(data=bytes(2500))))
    assert dut.from_endpoint(frame, gso=THREE).outcome is Outcome.DELIVERED_SAME_HOST


@pytest.mark.parametrize(
    ("source", "destination", "headers"), [(A, B, 20 + 20), (A6, B6, 40 + 20)], ids=["IPv4", "IPv6"]
)
def test_the_mtu_of_the_endpoint_holds_for_each_segment(dut: Dut, source: str, destination: str, headers: int) -> None:
    most = MTU - headers
    frame = stream(source, destination, 2 * most, mac=MAC[B])
    assert dut.from_endpoint(frame, gso=Gso(most, 2)).outcome is Outcome.DELIVERED_SAME_HOST
    assert dut.from_endpoint(frame, gso=Gso(most + 1, 2)).outcome is Outcome.ICMP_TOO_BIG_SENT


@pytest.mark.parametrize("source", [A, A6], ids=["IPv4", "IPv6"])
def test_the_error_about_a_gso_packet_quotes_its_beginning(dut: Dut, source: str) -> None:
    dut.next_hop(D2, mtu=1000)
    frame = stream(source, R6 if ":" in source else R)
    run = dut.from_endpoint(frame, gso=THREE)
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT
    error = 14 + (40 if ":" in source else 20) + 8
    assert 500 < len(run.frame) < 1300
    assert run.frame[error:] == frame[14 : 14 + len(run.frame) - error]


def partial(source: str, destination: str, segment: bytes, protocol: int, field: int) -> bytes:
    """Return a segment whose checksum a device is to complete: the sum of the pseudo-header is in its place."""
    sum_ = ~p.checksum(p.pseudo(source, destination, len(segment), protocol)) & 0xFFFF
    return segment[:field] + sum_.to_bytes(2, "big") + segment[field + 2 :]


def completed(frame: bytes, start: int, field: int) -> bytes:
    """Return a frame after a device completed the checksum from `start` on, as skb_checksum_help() does."""
    sum_ = p.checksum(frame[start:]) or 0xFFFF
    return frame[: start + field] + sum_.to_bytes(2, "big") + frame[start + field + 2 :]


def is_error_valid(frame: bytes, source: str, header: int) -> bool:
    """Whether the checksum of an ICMP error to `source` is right."""
    error = frame[14 + header :]
    before = frame[22:54] + len(error).to_bytes(4, "big") + bytes([0, 0, 0, 58]) if ":" in source else b""
    return p.checksum(before + error) == 0


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 700, bytes(range(256)) * 5], ids=len)
@pytest.mark.parametrize(("protocol", "field"), [(p.TCP, 16), (p.UDP, 6)], ids=["TCP", "UDP"])
@pytest.mark.parametrize(("source", "destination"), [(A, R), (A6, R6)], ids=["IPv4", "IPv6"])
def test_a_device_may_complete_the_quoted_checksum(
    dut: Dut, source: str, destination: str, protocol: int, field: int, data: bytes
) -> None:
    """The frame is still marked so, and the sum of the error must hold before and after."""
    whole = p.tcp(data=data) if protocol == p.TCP else p.udp(data=data)
    segment = partial(source, destination, whole, protocol, field)
    if ":" in source:
        kind, header, packet = p.IPV6, 40, p.ipv6(source, destination, segment, protocol=protocol, ttl=1)
    else:
        kind, header, packet = p.IPV4, 20, p.ipv4(source, destination, segment, protocol=protocol, ttl=1)
    run = dut.from_endpoint(p.ethernet(p.GATEWAY_MAC, MAC[A], kind, packet))
    assert run.outcome is Outcome.ICMP_TTL_EXCEEDED_SENT
    assert is_error_valid(run.frame, source, header)
    assert is_error_valid(completed(run.frame, 14 + header + 8 + header, field), source, header)


def extended(segment: bytes) -> bytes:
    """Return A's IPv6 frame through the gateway, with time to live for one hop and an extension header."""
    packet = p.ipv6(A6, R6, p.extension(p.TCP) + segment, protocol=p.DESTINATION, ttl=1)
    return p.ethernet(p.GATEWAY_MAC, MAC[A], p.IPV6, packet)


def test_a_device_may_complete_the_quoted_checksum_behind_extension_headers(dut: Dut) -> None:
    run = dut.from_endpoint(extended(partial(A6, R6, p.tcp(data=b"data"), p.TCP, 16)))
    assert run.outcome is Outcome.ICMP_TTL_EXCEEDED_SENT
    assert is_error_valid(run.frame, A6, 40)
    assert is_error_valid(completed(run.frame, 14 + 40 + 8 + 40 + 8, 16), A6, 40)


@pytest.mark.parametrize(("source", "gateway", "at"), [(A, GATEWAY, 34), (A6, GATEWAY6, 54)], ids=["IPv4", "IPv6"])
def test_a_device_completes_the_checksum_of_a_reset_as_that_of_the_segment_before(
    dut: Dut, source: str, gateway: str, at: int
) -> None:
    """The kernel still marks the frame as unfinished, so a complete checksum would become a wrong one."""
    whole = stream(source, gateway, 0, mac=p.GATEWAY_MAC)
    frame = whole[:at] + partial(source, gateway, whole[at:], p.TCP, 16)
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.GATEWAY_REFUSED
    sent = completed(run.frame, at, 16)[at:]
    assert p.checksum(p.pseudo(gateway, source, len(sent), p.TCP) + sent) == 0


def completed_inside(frame: bytes, inner: bytes, at: int) -> bytes:
    """Return a tunnel packet after a device completed the checksum of the TCP segment `at` bytes behind `inner`."""
    return completed(frame, len(frame) - len(inner) + at, 16)


def is_outer_right(frame: bytes) -> bool:
    """Whether the UDP checksum over IPv6 of a tunnel packet without a tag is right."""
    return p.checksum(frame[22:54] + (len(frame) - 54).to_bytes(4, "big") + bytes([0, 0, 0, p.UDP]) + frame[54:]) == 0


@pytest.mark.parametrize("padding", [b"", b"\xff"], ids=["", "padded"])
@pytest.mark.parametrize("headers", [0, 8], ids=["", "extension header"])
def test_an_outer_checksum_is_right_once_a_device_has_completed_the_inner_one(
    dut: Dut, headers: int, padding: bytes
) -> None:
    dut.fill(over_ipv6=True)
    segment = partial(A6, R6, p.tcp(data=b"data"), p.TCP, 16)
    packet = p.ipv6(A6, R6, segment, protocol=p.TCP)
    if headers:
        packet = p.ipv6(A6, R6, p.extension(p.TCP) + segment, protocol=p.DESTINATION)
    inner = p.ethernet(MAC[R], MAC[A], p.IPV6, packet) + padding
    run = dut.from_endpoint(inner)
    assert run.outcome is Outcome.SENT_DIRECT
    assert is_outer_right(completed_inside(run.frame, inner, 54 + headers))


def test_a_bouncers_outer_checksum_is_right_once_a_device_has_completed_the_inner_one(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    dut.endpoint(ELSEWHERE, D3)
    dut.other_network(flags=NETWORK_LOCAL_BOUNCER)
    inner = stream(R, ELSEWHERE, 100, own=MAC[R])
    inner = inner[:34] + partial(R, ELSEWHERE, inner[34:], p.TCP, 16)
    run = dut.from_underlay(tunnelled(inner, Outer(six(D2), six(D1)), options=p.rts(six(D2))))
    assert run.outcome is Outcome.BOUNCED
    assert is_outer_right(completed_inside(run.frame, inner, 34))


def test_a_complete_checksum_is_quoted_as_it_was(dut: Dut) -> None:
    segment = p.summed(A, R, p.udp(data=b"data"))
    frame = p.ethernet(p.GATEWAY_MAC, MAC[A], p.IPV4, p.ipv4(A, R, segment, ttl=1))
    assert dut.from_endpoint(frame).frame[42:] == frame[14:]


OTHER_PROTOCOL = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, bytes(2500), protocol=132))
FRAGMENT = p.ethernet(
    MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.tcp(data=bytes(2500)), protocol=p.TCP, fragment=0x2000, identity=1)
)
SHORT_HEADER = p.ethernet(
    MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.tcp(data=bytes(2500)).replace(b"\x50\x10", b"\x40\x10", 1), protocol=p.TCP)
)
"""TCP's header has at least five words (RFC 9293 section 3.1)."""


@pytest.mark.parametrize("frame", [OTHER_PROTOCOL, FRAGMENT, SHORT_HEADER], ids=["SCTP", "a fragment", "wrong header"])
def test_a_gso_packet_that_cannot_be_cut_is_dropped(dut: Dut, frame: bytes) -> None:
    assert dut.from_endpoint(frame, gso=Gso(1000, 1)).outcome is Outcome.GSO_PACKET
    assert dut.from_underlay(tunnelled(frame), gso=Gso(1000, 1)).outcome is Outcome.GSO_PACKET


def test_no_gso_packet_goes_to_a_droplet_that_needs_udp_checksums(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    assert dut.from_endpoint(stream(A, R), gso=THREE).outcome is Outcome.GSO_PACKET
    assert dut.from_endpoint(stream(A, R, 100), gso=SINGLE).outcome is Outcome.SENT_DIRECT


def test_a_bouncer_forwards_a_gso_packet_whole(dut: Dut) -> None:
    """Its headers stay as long as they were."""
    dut.endpoint(ELSEWHERE, D3)
    dut.other_network(flags=NETWORK_LOCAL_BOUNCER)
    inner = stream(R, ELSEWHERE, mac=p.GATEWAY_MAC, own=MAC[R])
    run = dut.from_underlay(tunnelled(inner, options=p.rts(D2)), gso=THREE)
    assert run.outcome is Outcome.BOUNCED
    assert run.frame.endswith(inner)


def test_an_unfinished_outer_checksum_is_accepted_and_a_wrong_one_is_not(dut: Dut) -> None:
    """A packet of this machine has the sum of the pseudo-header there, for a device to complete."""
    inner = stream(R, A, 100, mac=MAC[A], own=MAC[R])
    length = len(Outer().datagram(p.geneve(7, inner)))
    unfinished = ~p.checksum(p.pseudo(D2, D1, length, p.UDP)) & 0xFFFF
    assert dut.from_underlay(tunnelled(inner, replace(Outer(), udp_check=unfinished))).outcome is Outcome.DELIVERED
    wrong = replace(Outer(), udp_check=unfinished ^ 0x0101)
    assert dut.from_underlay(tunnelled(inner, wrong)).outcome is Outcome.OUTER_CHECKSUM


@pytest.mark.parametrize("headers", [0, 8], ids=["", "extension header"])
@pytest.mark.parametrize("outer", [Outer(), Outer(six(D2), six(D1))], ids=["over IPv4", "over IPv6"])
def test_an_outer_checksum_that_covers_an_inner_one_which_a_device_completes_is_accepted(
    dut: Dut, outer: Outer, headers: int
) -> None:
    """As a tunnel device on this machine sends it. A wrong one is dropped, also if the inner one is finished."""
    dut.fill(over_ipv6=":" in outer.source)
    unfinished = partial(R6, A6, p.tcp(data=b"data"), p.TCP, 16)
    packet = p.ipv6(R6, A6, unfinished, protocol=p.TCP)
    if headers:
        packet = p.ipv6(R6, A6, p.extension(p.TCP) + unfinished, protocol=p.DESTINATION)
    inner = p.ethernet(MAC[A], MAC[R], p.IPV6, packet)
    finished = completed(inner, 54 + headers, 16)
    datagram = replace(outer, udp_check=0).datagram(p.geneve(7, finished))
    right = p.checksum(p.pseudo(outer.source, outer.destination, len(datagram), p.UDP) + datagram)
    assert dut.from_underlay(tunnelled(finished, replace(outer, udp_check=right))).outcome is Outcome.DELIVERED
    run = dut.from_underlay(tunnelled(inner, replace(outer, udp_check=right)))
    assert run.outcome is Outcome.DELIVERED
    assert run.frame[14:] == inner[14:]
    for frame, check in ((inner, right ^ 0x0101), (finished, right ^ 0x0101)):
        assert dut.from_underlay(tunnelled(frame, replace(outer, udp_check=check))).outcome is Outcome.OUTER_CHECKSUM


def test_a_gso_packet_of_udp_from_a_tunnel_is_dropped_instead_of_lost_at_the_endpoint(dut: Dut) -> None:
    """It stays marked as a tunnel's, and no stack can then cut it for a socket; a bouncer forwards it."""
    inner = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp(data=bytes(2500))))
    assert dut.from_underlay(tunnelled(inner), gso=THREE).outcome is Outcome.GSO_PACKET
    assert dut.from_underlay(tunnelled(inner[:500])).outcome is not Outcome.GSO_PACKET


def test_an_unfinished_checksum_of_a_probe_stays_unfinished_in_its_answer(dut: Dut) -> None:
    payload = p.geneve(0, b"", options=p.probe(), flags=0x80)
    unfinished = ~p.checksum(p.pseudo(D2, D1, 8 + len(payload), p.UDP)) & 0xFFFF
    run = dut.from_underlay(replace(Outer(), udp_check=unfinished).wrap(payload))
    assert run.outcome is Outcome.PROBE_REFLECTED
    assert run.frame[40:42] == unfinished.to_bytes(2, "big")
