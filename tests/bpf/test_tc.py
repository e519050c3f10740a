"""The programs of tc are the same code as those of XDP: on the same frames they do the same, byte for byte.

A test run of tc takes frames as they are, so it cannot show VLAN tags, which the kernel removes before tc; and the
kernel refuses to run frames that end inside an IP header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

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
    GATEWAY,
    GATEWAY6,
    MAC,
    MTU,
    R6,
    STRANGER,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    XDP_ONLY,
    A,
    B,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, asks, frame_to, six, tunnelled
from test_variants import VARIANTS, VERIFIER_CEILING

from agent.core.model import map_layout
from agent.core.model.hooks import PROGRAMS, Hook
from agent.core.model.map_layout import NETWORK_LOCAL_BOUNCER, MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import compile_programs
from agent.datapath.bpf.outcomes import Outcome

RTS = p.rts(D3)
SOLICITS = p.ethernet(MAC[A], MAC[R], p.IPV6, p.nd(R6, A6, A6, MAC[R]))


def sent(source: str, destination: str, payload: bytes | None = None, mac: bytes = MAC[R], **header: object) -> bytes:
    """Return a frame of the endpoint."""
    if ":" in source:
        return p.ethernet(mac, MAC[A], p.IPV6, p.ipv6(source, destination, payload or p.udp(), **header))
    return p.ethernet(mac, MAC[A], p.IPV4, p.ipv4(source, destination, payload or p.udp(), **header))


FROM_ENDPOINT = [
    ("to another droplet", sent(A, R), Outcome.SENT_DIRECT),
    ("to another droplet, IPv6", sent(A6, R6), Outcome.SENT_DIRECT),
    ("through the gateway", sent(A, R, mac=p.GATEWAY_MAC), Outcome.SENT_DIRECT),
    ("by a bouncer", sent(A, UNKNOWN), Outcome.SENT_TO_BOUNCER),
    ("by a bouncer, IPv6", sent(A6, UNKNOWN6), Outcome.SENT_TO_BOUNCER),
    ("a full packet", sent(A, R, p.udp(data=bytes(MTU - 28))), Outcome.SENT_DIRECT),
    ("a first fragment", sent(A, R, fragment=0x2000, identity=5), Outcome.SENT_DIRECT),
    ("to an endpoint of this host", sent(A, B, mac=MAC[B]), Outcome.DELIVERED_SAME_HOST),
    ("to an endpoint of this host, IPv6", sent(A6, B6, mac=MAC[B]), Outcome.DELIVERED_SAME_HOST),
    ("asks for the gateway", p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, GATEWAY)), Outcome.ARP_ANSWERED),
    ("asks for an unknown address", p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN)),
     Outcome.SENT_TO_BOUNCER),
    ("solicits the gateway", p.ethernet(MAC[R], MAC[A], p.IPV6, p.nd(A6, GATEWAY6, GATEWAY6, MAC[A])),
     Outcome.ND_ANSWERED),
    ("solicits an unknown address", p.ethernet(MAC[R], MAC[A], p.IPV6, p.nd(A6, UNKNOWN6, UNKNOWN6, MAC[A])),
     Outcome.SENT_TO_BOUNCER),
    ("echo to the gateway", sent(A, GATEWAY, p.echo(), protocol=1), Outcome.GATEWAY_ECHO),
    ("a service of the gateway", sent(A, GATEWAY), Outcome.GATEWAY_REFUSED),
    ("a service of the gateway, IPv6", sent(A6, GATEWAY6), Outcome.GATEWAY_REFUSED),
    ("too long", sent(A, R, p.udp(data=bytes(MTU))), Outcome.ICMP_TOO_BIG_SENT),
    ("too long, IPv6", sent(A6, R6, p.udp(data=bytes(MTU))), Outcome.ICMP_TOO_BIG_SENT),
    ("no time to live left", sent(A, R, mac=p.GATEWAY_MAC, ttl=1), Outcome.ICMP_TTL_EXCEEDED_SENT),
    ("another's address", sent(B, R), Outcome.SOURCE_ADDRESS),
    ("another's Ethernet address", p.ethernet(MAC[R], MAC[B], p.IPV4, p.ipv4(A, R, p.udp())), Outcome.SOURCE_MAC),
    ("multicast", sent(A, "224.0.0.1"), Outcome.MULTICAST),
    ("another protocol", p.ethernet(MAC[R], MAC[A], 0x88CC, bytes(60)), Outcome.INNER_PROTOCOL),
]  # fmt: skip
FROM_UNDERLAY = [
    ("direct", lambda outer, _: tunnelled(outer=outer), Outcome.DELIVERED),
    ("IPv6", lambda outer, _: tunnelled(frame_to(A6, R6), outer), Outcome.DELIVERED),
    ("after a hop", lambda outer, origin: tunnelled(outer=outer, options=p.rts(origin)), Outcome.DELIVERED),
    ("unknown options", lambda outer, _: tunnelled(outer=outer, options=p.option(1, 2, bytes(4))), Outcome.DELIVERED),
    ("VXLAN", lambda outer, _: replace(outer, port=4789).wrap(p.vxlan(VNI, frame_to(A))), Outcome.DELIVERED),
    ("an ARP request", lambda outer, origin: tunnelled(asks(A), outer, options=p.rts(origin)),
     Outcome.ARP_ANSWERED_REMOTE),
    ("an ARP reply", lambda outer, origin: tunnelled(asks(A, operation=2), outer, options=p.rts(origin)),
     Outcome.DELIVERED),
    ("a solicitation", lambda outer, origin: tunnelled(SOLICITS, outer, options=p.rts(origin)),
     Outcome.ND_ANSWERED_REMOTE),
    ("too long for the endpoint", lambda outer, _: tunnelled(long_frame(), outer), Outcome.ICMP_TOO_BIG_SENT_REMOTE),
    ("for an endpoint that left", lambda outer, _: tunnelled(frame_to(UNKNOWN), outer), Outcome.RETURNED),
    ("sent here by an outdated bouncer", lambda outer, origin: tunnelled(frame_to(UNKNOWN), outer,
                                                                         options=p.rts(origin)), Outcome.MISDIRECTED),
    ("an unknown droplet", lambda outer, _: tunnelled(outer=unknown(outer)), Outcome.UNKNOWN_DROPLET),
    ("a wrong version", lambda outer, _: outer.wrap(b"\x40" + p.geneve(VNI, frame_to(A))[1:]), Outcome.GENEVE_VERSION),
    ("a wrong checksum", lambda outer, _: tunnelled(outer=replace(outer, udp_check=1)), Outcome.OUTER_CHECKSUM),
    ("a probe", lambda outer, _: outer.wrap(p.geneve(0, b"", options=p.probe(), flags=0x80)), Outcome.PROBE_REFLECTED),
    ("not a tunnel packet", lambda outer, _: replace(outer, port=9).wrap(b"data"), Outcome.PASSED),
]  # fmt: skip


def long_frame() -> bytes:
    return p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp(data=bytes(MTU))))


def unknown(outer: Outer) -> Outer:
    return replace(outer, source=six(STRANGER) if ":" in outer.source else STRANGER)


def learnt(dut: Dut) -> set[tuple[bytes, bytes]]:
    """Return the addresses whose direct paths are known, with the droplets."""
    return {(key, value[:16]) for key, value in dut.entries(MapName.DIRECT).items()}


@XDP_ONLY
@pytest.mark.parametrize("over", [4, 6])
@pytest.mark.parametrize(("sentence", "frame", "outcome"), FROM_ENDPOINT, ids=[row[0] for row in FROM_ENDPOINT])
def test_a_frame_of_an_endpoint(dut: Dut, tc: Dut, sentence: str, frame: bytes, outcome: Outcome, over: int) -> None:
    for one in (dut, tc):
        one.fill(over_ipv6=over == 6)
    expected = dut.from_endpoint(frame)
    assert tc.from_endpoint(frame) == expected
    assert expected.outcome is outcome


@XDP_ONLY
def test_an_endpoint_of_a_vxlan_network_is_sent_vxlan(dut: Dut, tc: Dut) -> None:
    for one in (dut, tc):
        one.endpoint(R, D2, flags=map_layout.ENDPOINT_VXLAN)
    expected = dut.from_endpoint(sent(A, R))
    assert tc.from_endpoint(sent(A, R)) == expected
    assert expected.frame.endswith(p.vxlan(VNI, sent(A, R)))


@XDP_ONLY
@pytest.mark.parametrize("over", [4, 6])
@pytest.mark.parametrize(("sentence", "make", "outcome"), FROM_UNDERLAY, ids=[row[0] for row in FROM_UNDERLAY])
def test_a_frame_from_the_underlay(
    dut: Dut, tc: Dut, sentence: str, make: Callable[[Outer, str], bytes], outcome: Outcome, over: int
) -> None:
    for one in (dut, tc):
        one.fill(over_ipv6=over == 6)
    outer = Outer() if over == 4 else Outer(six(D2), six(D1))
    frame = make(outer, dut.droplet(D3))
    expected = dut.from_underlay(frame)
    assert tc.from_underlay(frame) == expected
    assert expected.outcome is outcome
    assert learnt(tc) == learnt(dut)


@XDP_ONLY
@pytest.mark.parametrize("to", [4, 6])
@pytest.mark.parametrize("over", [4, 6])
def test_a_bouncers_hop(dut: Dut, tc: Dut, over: int, to: int) -> None:
    """Between families the headers become longer or shorter."""
    for one in (dut, tc):
        one.fill()
        for name in (D2, six(D2)):
            one.put(MapName.DROPLETS, map_layout.mapped(p.ip(name)), map_layout.DROPLET.pack(0, 2))
        remote = D4 if to == 4 else six(D4)
        one.endpoint(ELSEWHERE, remote)
        one.put(MapName.DROPLETS, map_layout.mapped(p.ip(remote)), map_layout.DROPLET.pack(0, 4))
        one.next_hop(remote, by=int(to == 6))
        one.other_network(flags=NETWORK_LOCAL_BOUNCER)
    outer = Outer() if over == 4 else Outer(six(D2), six(D1))
    frame = tunnelled(frame_to(ELSEWHERE), outer)
    expected = dut.from_underlay(frame)
    assert tc.from_underlay(frame) == expected
    assert expected.outcome is Outcome.BOUNCED


@XDP_ONLY
def test_an_unreachable_destination_is_answered_through_the_tunnel(dut: Dut, tc: Dut) -> None:
    for one in (dut, tc):
        one.own_network(flags=NETWORK_LOCAL_BOUNCER)
    frame = tunnelled(frame_to(UNKNOWN), options=RTS)
    expected = dut.from_underlay(frame)
    assert tc.from_underlay(frame) == expected
    assert expected.outcome is Outcome.ICMP_UNREACHABLE_SENT_REMOTE


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_compiled_for_tc_and_passes_the_verifier(lab_cache: Path, name: str) -> None:
    compiled = asyncio.run(compile_programs(lab_cache, features=VARIANTS[name], hook=Hook.TC))
    assert tuple(program.name for program in compiled.programs) == PROGRAMS[Hook.TC]
    assert compiled.tracers == ()
    with closing(Dut(compiled, hook=Hook.TC)) as dut:
        for program in dut.programs.values():
            assert 0 < bpf.verified_instructions(program.fd) < VERIFIER_CEILING
