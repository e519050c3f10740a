"""Hooks and wires in the topology file: what applies to which host, and what is refused."""

from __future__ import annotations

import pytest

from controller_sim.topology.file import TopologyError, parse_topology

TEXT = """\
droplets:
  a1: {host: a, address: 172.18.0.11/24}
  a2: {host: a, address: 172.18.0.12}
  b: {address: 172.18.0.13}
  p: {address: 172.18.0.14, peer: vxlan}
vpcs:
  - {name: red, vni: 1001, cidr: 10.0.0.0/16}
networks:
  - {name: web, vpc: red, cidr: 10.0.1.0/24, bouncers: [b], encapsulation: vxlan}
"""


def hooks(text: str) -> dict[str, tuple[str, str]]:
    topology = parse_topology(TEXT + text)
    return {host: (topology.endpoint_hook_of(host), topology.uplink_hook_of(host)) for host in topology.hosts}


def mistakes(text: str) -> list[str]:
    with pytest.raises(TopologyError) as raised:
        parse_topology(TEXT + text)
    return [f"{mistake.field}: {mistake.message}" for mistake in raised.value.mistakes]


@pytest.mark.parametrize(
    ("text", "a", "b"),
    [
        ("", ("auto", "xdp"), ("auto", "xdp")),
        ("underlay: {wires: physical}\n", ("auto", "xdp"), ("auto", "xdp")),
        ("underlay: {wires: virtual}\n", ("auto", "auto"), ("auto", "auto")),
        ("agents: {endpoint_hook: xdp, uplink_hook: tc}\n", ("xdp", "tc"), ("xdp", "tc")),
        ("agents: {uplink_hook: auto}\n", ("auto", "auto"), ("auto", "auto")),
        ("agents: {endpoint_hook: tc, hosts: {b: {endpoint_hook: xdp}}}\n", ("tc", "xdp"), ("xdp", "xdp")),
        ("agents: {uplink_hook: tc, hosts: [{name: a, uplink_hook: xdp}]}\n", ("auto", "xdp"), ("auto", "tc")),
        ("agents: {endpoint_hook: tc, hosts: {b: {endpoint_hook: auto}}}\n", ("tc", "xdp"), ("auto", "xdp")),
    ],
)
def test_hooks_apply_to_all_hosts_but_those_with_their_own(text, a, b):
    assert hooks(text) == {"a": a, "b": b}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("underlay: {wires: copper}\n", "underlay.wires: 'copper' is not physical or virtual"),
        ("agents: {endpoint_hook: fast}\n", "agents.endpoint_hook: 'fast' is not auto or tc or xdp"),
        ("agents: {uplink_hook: 3}\n", "agents.uplink_hook: expected auto or xdp or tc, not 3"),
        ("agents: {hosts: {b: {uplink_hook: tcx}}}\n", "agents.hosts.b.uplink_hook: 'tcx' is not auto or xdp or tc"),
        ("agents: {hosts: {b: {hook: tc}}}\n", "agents.hosts.b.hook: unknown field"),
        ("agents: {hosts: [{name: c}]}\n", "agents.hosts[0].name: there is no host 'c': hosts are a, b, p"),
        ("agents: {hosts: {a1: {}}}\n", "agents.hosts.a1.name: there is no host 'a1'"),
        ("agents: {hosts: {p: {endpoint_hook: tc}}}\n", "agents.hosts.p.name: p is a VXLAN peer and has no agent"),
        ("agents: {hosts: [{name: a}, {name: a}]}\n", "agents.hosts[1].name: 'a' is listed twice"),
        ("agents: {hosts: 3}\n", "agents.hosts: expected a list or a map by name, not 3"),
        ("agents: {hosts: [3]}\n", "agents.hosts[0]: expected a map, not 3"),
    ],
)
def test_a_wrong_hook_or_host_is_named_with_its_path(text, said):
    (found,) = mistakes(text)
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("agents", "field"),
    [
        ("{uplink_hook: xdp}", "agents.uplink_hook"),
        ("{uplink_hook: tc, hosts: {b: {uplink_hook: xdp}}}", "agents.hosts.b.uplink_hook"),
    ],
)
def test_native_xdp_on_virtual_wires_is_refused(agents, field):
    (found,) = mistakes(f"underlay: {{wires: virtual}}\nagents: {agents}\n")
    assert found.startswith(f"{field}: native XDP on a virtual wire")


def test_a_host_whose_droplet_is_invalid_is_no_second_error():
    broken = TEXT.replace("172.18.0.13", "172.18.0.1x")
    with pytest.raises(TopologyError) as raised:
        parse_topology(broken + "agents: {hosts: {b: {endpoint_hook: xdp}}}\n")
    assert [mistake.field for mistake in raised.value.mistakes] == ["droplets.b.address"]
