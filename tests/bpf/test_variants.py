"""What a host does not use is not in its programs: each set of features loads, and knows only what it was compiled for.

The sets are chosen so that every two choices meet in one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import bpf_packets as p
import pytest
from bpf_dut import A6, D1, D2, GATEWAY, GATEWAY6, MAC, R6, S1, S2, UNKNOWN, UNKNOWN6, VNI, A, Dut, R
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.features import Family, Features
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import compile_programs
from agent.datapath.bpf.outcomes import Outcome

IPV4: frozenset[Family] = frozenset({"ipv4"})
IPV6: frozenset[Family] = frozenset({"ipv6"})
BOTH = IPV4 | IPV6
VARIANTS = {
    "everything": Features(vlan_tags=True),
    "IPv4 alone": Features(families=IPV4, underlay=IPV4, vxlan_port=0),
    "IPv4 alone, tagged, with VXLAN": Features(families=IPV4, underlay=IPV4, vlan_tags=True),
    "IPv4 over IPv6": Features(families=IPV4, underlay=IPV6, vxlan_port=0, vlan_tags=True),
    "IPv4 over both": Features(families=IPV4),
    "both over IPv4": Features(underlay=IPV4, vxlan_port=0, vlan_tags=True),
    "both over IPv6": Features(underlay=IPV6),
    "other ports": Features(geneve_port=16081, vxlan_port=8472),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, lab_cache: Path) -> Iterator[tuple[Features, Dut]]:
    features = VARIANTS[request.param]
    compiled = asyncio.run(compile_programs(lab_cache, features=features))
    with closing(Dut(compiled)) as dut:
        yield features, dut


INNER: dict[Family, tuple[bytes, bytes]] = {
    "ipv4": (frame_to(), p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp()))),
    "ipv6": (frame_to(A6, R6), p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(A6, R6, p.udp()))),
}
"""What comes in for A and what it sends."""
OVER: dict[Family, tuple[str, str]] = {"ipv4": (D2, D1), "ipv6": (S2, S1)}


@pytest.mark.parametrize("outer", ["ipv4", "ipv6"])
@pytest.mark.parametrize("inner", ["ipv4", "ipv6"])
def test_a_variant_carries_only_its_families(variant: tuple[Features, Dut], inner: Family, outer: Family) -> None:
    features, dut = variant
    dut.fill(over_ipv6=outer == "ipv6")
    received = dut.from_underlay(tunnelled(INNER[inner][0], Outer(*OVER[outer], port=features.geneve_port)))
    if outer not in features.underlay:
        assert received.outcome is Outcome.PASSED, "as everything of a family that no droplet has"
        return
    sent = dut.from_endpoint(INNER[inner][1])
    if inner not in features.families:
        assert (received.outcome, sent.outcome) == (Outcome.INNER_PROTOCOL, Outcome.INNER_PROTOCOL)
        return
    assert (received.outcome, sent.outcome) == (Outcome.DELIVERED, Outcome.SENT_DIRECT)
    assert received.frame == INNER[inner][0]
    assert sent.frame.endswith(p.geneve(VNI, INNER[inner][1]))
    at = 36 if outer == "ipv4" else 56
    assert sent.frame[at : at + 2] == features.geneve_port.to_bytes(2, "big")


VERIFIER_CEILING = 300_000
"""Instructions; the verifier gives up after 1,000,000. That of Linux 6.1 looks at up to twice as many as later ones."""


def test_a_variant_stays_far_below_the_verifiers_limit(variant: tuple[Features, Dut]) -> None:
    for program in variant[1].programs.values():
        looked_at = bpf.verified_instructions(program.fd)
        assert 0 < looked_at < VERIFIER_CEILING, program.name


def over_of(features: Features) -> tuple[str, str]:
    return OVER["ipv4" if "ipv4" in features.underlay else "ipv6"]


def test_a_variant_takes_vxlan_at_its_port_or_leaves_it_to_the_hosts_stack(variant: tuple[Features, Dut]) -> None:
    features, dut = variant
    over = over_of(features)
    dut.fill(over_ipv6=":" in over[0])
    for port in (4789, 8472):
        run = dut.from_underlay(Outer(*over, port=port).wrap(p.vxlan(VNI, frame_to())))
        assert run.outcome is (Outcome.DELIVERED if port == features.vxlan_port else Outcome.PASSED)


def test_a_variant_takes_geneve_at_its_port_alone(variant: tuple[Features, Dut]) -> None:
    features, dut = variant
    over = over_of(features)
    dut.fill(over_ipv6=":" in over[0])
    for port in (6081, 16081):
        run = dut.from_underlay(tunnelled(outer=Outer(*over, port=port)))
        assert run.outcome is (Outcome.DELIVERED if port == features.geneve_port else Outcome.PASSED)


def test_a_variant_reads_tags_where_a_droplet_has_one(variant: tuple[Features, Dut]) -> None:
    features, dut = variant
    over = over_of(features)
    dut.fill(over_ipv6=":" in over[0])
    dut.local(int(":" in over[0]), over[1], vlan=5)
    run = dut.from_underlay(tunnelled(outer=Outer(*over, port=features.geneve_port, vlan=5)))
    assert run.outcome is (Outcome.DELIVERED if features.vlan_tags else Outcome.PASSED)


@pytest.mark.parametrize("tag", [0, 0x2000, 0xE000, 0x1000], ids=["priority 0", "priority 1", "priority 7", "may go"])
def test_every_variant_takes_frames_with_a_priority_alone(variant: tuple[Features, Dut], tag: int) -> None:
    """802.1Q's VLAN id 0 is no VLAN: untagged droplets get such frames, with or without VLANs elsewhere on the host."""
    features, dut = variant
    over = over_of(features)
    dut.fill(over_ipv6=":" in over[0])
    outer = Outer(*over, port=features.geneve_port, vlan=tag)
    run = dut.from_underlay(tunnelled(outer=outer))
    assert (run.outcome, run.frame) == (Outcome.DELIVERED, frame_to())
    asked = outer.wrap(p.geneve(0, b"", options=p.probe(1), flags=0x80))
    run = dut.from_underlay(asked)
    assert run.outcome is Outcome.PROBE_REFLECTED
    assert run.frame[12:18] == asked[12:18], "answered with the priority that it came with"


@pytest.mark.parametrize("tag", [5, 0xE005], ids=["no priority", "priority 7"])
def test_no_variant_takes_frames_of_a_vlan_for_an_untagged_droplet(variant: tuple[Features, Dut], tag: int) -> None:
    features, dut = variant
    over = over_of(features)
    dut.fill(over_ipv6=":" in over[0])
    run = dut.from_underlay(tunnelled(outer=Outer(*over, port=features.geneve_port, vlan=tag)))
    assert run.outcome is Outcome.PASSED


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_variant_answers_unreachable_destinations_and_drops_multicast(
    variant: tuple[Features, Dut], family: Family
) -> None:
    features, dut = variant
    dut.fill(over_ipv6=":" in over_of(features)[0])
    dut.reset_icmp_ratelimit()
    build, kind, source, gateway, unknown, group = (
        (p.ipv4, p.IPV4, A, GATEWAY, UNKNOWN, "10.0.0.255") if family == "ipv4"
        else (p.ipv6, p.IPV6, A6, GATEWAY6, UNKNOWN6, "ff02::1")
    )  # fmt: skip
    dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    known = family in features.families
    for to, mac, outcome in (
        (unknown, MAC[R], Outcome.ICMP_UNREACHABLE_SENT),
        (gateway, p.GATEWAY_MAC, Outcome.GATEWAY_REFUSED),
        (group, MAC[R], Outcome.MULTICAST),
    ):
        run = dut.from_endpoint(p.ethernet(mac, MAC[A], kind, build(source, to, p.udp())))
        assert run.outcome is (outcome if known else Outcome.INNER_PROTOCOL)
    for mac in (b"\xff" * 6, b"\x33\x33\0\0\0\1"):
        run = dut.from_endpoint(p.ethernet(mac, MAC[A], kind, build(source, gateway, p.udp())))
        assert run.outcome is Outcome.MULTICAST


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_variant_answers_packets_that_exceed_the_mtu(variant: tuple[Features, Dut], family: Family) -> None:
    features, dut = variant
    dut.fill(over_ipv6=":" in over_of(features)[0])
    dut.reset_icmp_ratelimit()
    build, kind, ends = (p.ipv4, p.IPV4, (A, R)) if family == "ipv4" else (p.ipv6, p.IPV6, (A6, R6))
    run = dut.from_endpoint(p.ethernet(MAC[R], MAC[A], kind, build(*ends, p.udp(data=bytes(1450)))))
    assert run.outcome is (Outcome.ICMP_TOO_BIG_SENT if family in features.families else Outcome.INNER_PROTOCOL)
