"""What a host does not use is not in its programs: each set of features loads, and knows only what it was compiled for.

The sets are chosen so that every two choices meet in one of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import bpf_packets as p
import pytest
from bpf_tunnels import Outer, frame_to, tunnelled
from bpf_world import A6, D1, D2, MAC, R6, S1, S2, VNI, A, R, World

from agent.core.features import Family, Features
from agent.datapath.compiler import compile_programs
from agent.datapath.outcomes import Outcome

IPV4: frozenset[Family] = frozenset({"ipv4"})
IPV6: frozenset[Family] = frozenset({"ipv6"})
BOTH = IPV4 | IPV6
VARIANTS = {
    "everything": Features(vlan_tags=True),
    "IPv4 alone": Features(families=IPV4, substrate=IPV4, vxlan_port=0),
    "IPv4 alone, tagged, with VXLAN": Features(families=IPV4, substrate=IPV4, vlan_tags=True),
    "IPv4 over IPv6": Features(families=IPV4, substrate=IPV6, vxlan_port=0, vlan_tags=True),
    "IPv4 over both": Features(families=IPV4),
    "both over IPv4": Features(substrate=IPV4, vxlan_port=0, vlan_tags=True),
    "both over IPv6": Features(substrate=IPV6),
    "other ports": Features(geneve_port=16081, vxlan_port=8472),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Features, World]]:
    features = VARIANTS[request.param]
    compiled = asyncio.run(compile_programs(tmp_path_factory.mktemp("objects"), features=features))
    world = World(compiled)
    yield features, world
    for fd in [program.fd for program in world.programs.values()] + list(world.fds.values()):
        os.close(fd)


INNER: dict[Family, tuple[bytes, bytes]] = {
    "ipv4": (frame_to(), p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp()))),
    "ipv6": (frame_to(A6, R6), p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(A6, R6, p.udp()))),
}
"""What comes in for A and what it sends."""
OVER: dict[Family, tuple[str, str]] = {"ipv4": (D2, D1), "ipv6": (S2, S1)}


@pytest.mark.parametrize("outer", ["ipv4", "ipv6"])
@pytest.mark.parametrize("inner", ["ipv4", "ipv6"])
def test_a_variant_carries_its_families_alone(variant: tuple[Features, World], inner: Family, outer: Family) -> None:
    features, world = variant
    world.fill(over_ipv6=outer == "ipv6")
    received = world.from_substrate(tunnelled(INNER[inner][0], Outer(*OVER[outer], port=features.geneve_port)))
    if outer not in features.substrate:
        assert received.outcome is Outcome.PASSED, "as everything of a family that no droplet has"
        return
    sent = world.from_endpoint(INNER[inner][1])
    if inner not in features.families:
        assert (received.outcome, sent.outcome) == (Outcome.INNER_PROTOCOL, Outcome.INNER_PROTOCOL)
        return
    assert (received.outcome, sent.outcome) == (Outcome.DELIVERED, Outcome.SENT_DIRECT)
    assert received.frame == INNER[inner][0]
    assert sent.frame.endswith(p.geneve(VNI, INNER[inner][1]))
    at = 36 if outer == "ipv4" else 56
    assert sent.frame[at : at + 2] == features.geneve_port.to_bytes(2, "big")


def over_of(features: Features) -> tuple[str, str]:
    return OVER["ipv4" if "ipv4" in features.substrate else "ipv6"]


def test_a_variant_takes_vxlan_at_its_port_or_leaves_it_to_the_hosts_stack(variant: tuple[Features, World]) -> None:
    features, world = variant
    over = over_of(features)
    world.fill(over_ipv6=":" in over[0])
    for port in (4789, 8472):
        run = world.from_substrate(Outer(*over, port=port).wrap(p.vxlan(VNI, frame_to())))
        assert run.outcome is (Outcome.DELIVERED if port == features.vxlan_port else Outcome.PASSED)


def test_a_variant_takes_geneve_at_its_port_alone(variant: tuple[Features, World]) -> None:
    features, world = variant
    over = over_of(features)
    world.fill(over_ipv6=":" in over[0])
    for port in (6081, 16081):
        run = world.from_substrate(tunnelled(outer=Outer(*over, port=port)))
        assert run.outcome is (Outcome.DELIVERED if port == features.geneve_port else Outcome.PASSED)


def test_a_variant_reads_tags_where_a_droplet_has_one(variant: tuple[Features, World]) -> None:
    features, world = variant
    over = over_of(features)
    world.fill(over_ipv6=":" in over[0])
    world.local(int(":" in over[0]), over[1], vlan=5)
    run = world.from_substrate(tunnelled(outer=Outer(*over, port=features.geneve_port, vlan=5)))
    assert run.outcome is (Outcome.DELIVERED if features.vlan_tags else Outcome.PASSED)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_variant_tells_what_does_not_fit(variant: tuple[Features, World], family: Family) -> None:
    features, world = variant
    world.fill(over_ipv6=":" in over_of(features)[0])
    world.forgive()
    build, kind, ends = (p.ipv4, p.IPV4, (A, R)) if family == "ipv4" else (p.ipv6, p.IPV6, (A6, R6))
    run = world.from_endpoint(p.ethernet(MAC[R], MAC[A], kind, build(*ends, p.udp(data=bytes(1450)))))
    assert run.outcome is (Outcome.TOO_BIG_TOLD if family in features.families else Outcome.INNER_PROTOCOL)
