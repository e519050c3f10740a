"""Every combination of hooks carries what endpoints send: at endpoints and uplinks, the same on both hosts or mixed.

There is a lab for each kind of wire, whose hosts have different hooks. Each host has a droplet of IPv4, one of IPv6 and
one of IPv6 without UDP checksums, and in each of these a Geneve and a VXLAN network of both families. Streams in VXLAN
networks use ECN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.offloaded import send_raw, send_segments
from lab.traffic import exchange_all, exchange_stream, exchange_tcp, exchange_udp
from lab.tunnels import End, kinds_of_tunnels, tunnel_between

from controller_sim.lab.namespaces import run_in

TEXT = """\
underlay:
  wires: {wires}
  subnets:
    left: {{cidr: [172.18.1.0/24, "fd18:0:0:1::/64"]}}
    right: {{cidr: "fd18:0:0:2::/64"}}
agents:
  hosts:
{agents}
droplets:
{droplets}
vpcs:
  - {{name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [{middle}4]}}
networks:
{networks}
  - {{name: routed, vpc: red, cidr: [10.0.9.0/24, "fd10:0:0:9::/64"], bouncers: [{middle}4], routing: divider}}
endpoints:
{endpoints}
"""
HOOKS = {
    "physical": {
        "x1": ("xdp", "xdp"),
        "x2": ("xdp", "xdp"),
        "e1": ("tc", "xdp"),
        "e2": ("tc", "xdp"),
        "t1": ("tc", "tc"),
    },
    "virtual": {
        "t1": ("tc", "tc"),
        "t2": ("tc", "tc"),
        "u1": ("xdp", "tc"),
        "u2": ("xdp", "tc"),
    },
}
"""For each kind of wire, hosts with the hook of their endpoints and that of their uplinks."""
PAIRS = (
    ("physical", "x1", "x2"),
    ("physical", "e1", "e2"),
    ("physical", "e1", "x1"),
    ("physical", "t1", "x1"),
    ("physical", "t1", "e1"),
    ("virtual", "t1", "t2"),
    ("virtual", "u1", "u2"),
    ("virtual", "t1", "u1"),
)
UNDERLAYS = ("4", "6", "0")
NETWORKS = [f"{encapsulation}{underlay}" for underlay in UNDERLAYS for encapsulation in ("geneve", "vxlan")]
SIZE = 2 << 20
SCTP, GRE = 132, 47
REPORTED = {"xdp": "xdp", "tcx": "tc", "clsact": "tc"}
"""The setting for each hook in a status: tc has two ways to attach programs."""
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def text_of(wires: str) -> str:
    """Return a topology with an endpoint on each host in each network, and in one that is reached by a divider."""
    hosts = HOOKS[wires]
    droplets, networks, endpoints = [], [], []
    for number, host in enumerate(hosts, 11):
        droplets += [
            f"{host}4: {{host: {host}, interface: eth0, address: 172.18.1.{number}}}",
            f'{host}6: {{host: {host}, interface: eth0, address: "fd18:0:0:1::{number}"}}',
            f'{host}0: {{host: {host}, interface: eth1, address: "fd18:0:0:2::{number}", udp_checksum: zero}}',
        ]
        endpoints += [f"- {{name: {name}-{host}, network: {name}, droplet: {host}{name[-1]}}}" for name in NETWORKS]
        endpoints += [f"- {{name: routed-{host}, network: routed, droplet: {host}4}}"]
    middle = list(hosts)[-1]
    for number, name in enumerate(NETWORKS, 1):
        cidrs = f'[10.0.{number}.0/24, "fd10:0:0:{number}::/64"]'
        more = f"bouncers: [{middle}{name[-1]}], encapsulation: {name[:-1]}"
        networks.append(f"- {{name: {name}, vpc: red, cidr: {cidrs}, {more}}}")
    agents = [f"  {host}: {{endpoint_hook: {e}, uplink_hook: {u}}}" for host, (e, u) in hosts.items()]
    lists = {"agents": agents, "droplets": droplets, "networks": networks, "endpoints": endpoints}
    lines = {name: "\n".join(f"  {line}" for line in listed) for name, listed in lists.items()}
    return TEXT.format(wires=wires, middle=middle, **lines)


@dataclass(frozen=True)
class Pair:
    """Two hosts of a lab."""

    lab: SystemLab
    one: str
    other: str

    def endpoints(self, network: str) -> tuple[str, str]:
        return f"{network}-{self.one}", f"{network}-{self.other}"


@pytest.fixture(scope="module")
def physical(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("hooks", text_of("physical")) as lab:
        yield with_ecn(lab)


@pytest.fixture(scope="module")
def virtual(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("vhooks", text_of("virtual")) as lab:
        yield with_ecn(lab)


def with_ecn(lab: SystemLab) -> SystemLab:
    for endpoint in lab.endpoints:
        if endpoint.startswith("vxlan"):
            assert run_in(lab.inside(endpoint), ["sysctl", "-qw", "net.ipv4.tcp_ecn=1"]).returncode == 0
    return lab


def hooks_of(wires: str, *hosts: str) -> str:
    return "_".join([wires, *("_".join(HOOKS[wires][host]) for host in hosts)])


@pytest.fixture(params=PAIRS, ids=lambda pair: hooks_of(*pair))
def pair(request: pytest.FixtureRequest) -> Pair:
    wires, one, other = request.param
    return Pair(request.getfixturevalue(wires), one, other)


def test_hosts_report_the_hooks_that_they_are_set_to(pair):
    for host in (pair.one, pair.other):
        status, topology = pair.lab.status(host), pair.lab.topology
        assert REPORTED[status.endpoint_hook] == topology.endpoint_hook_of(host)
        assert {REPORTED[one.hook] for one in status.uplinks} == {topology.uplink_hook_of(host)}


@pytest.mark.parametrize("network", NETWORKS)
@FAMILIES
def test_echoes_streams_and_datagrams_of_all_sizes_arrive_intact(pair, network, family):
    one, other = pair.endpoints(network)
    exchange_all(pair.lab, one, other, family, SIZE)


@pytest.mark.parametrize("network", NETWORKS)
@FAMILIES
def test_datagrams_that_the_kernel_segments_arrive_intact(pair, network, family):
    one, other = pair.endpoints(network)
    send_segments(pair.lab, one, other, 1200, 40, family)
    send_segments(pair.lab, other, one, 1200, 40, family)


@pytest.mark.parametrize("network", NETWORKS)
@FAMILIES
def test_packets_of_other_protocols_arrive_intact(pair, network, family):
    for protocol in (SCTP, GRE):
        for size in (8, 1000, 4000):
            send_raw(pair.lab, *pair.endpoints(network), protocol, size, family)


@pytest.mark.parametrize("network", NETWORKS)
@FAMILIES
def test_streams_in_the_endpoints_own_tunnels_arrive_intact(pair, network, family):
    """In a tunnel of each kind that this kernel has."""
    one, other = pair.endpoints(network)
    ends = [End.of(pair.lab, endpoint, family) for endpoint in (one, other)]
    for kind in kinds_of_tunnels(ends[0].namespace, family):
        with tunnel_between(*ends, kind) as (own, to):
            exchange_stream(ends[0].namespace, ends[1].namespace, own, to, SIZE // 2)


@FAMILIES
def test_streams_by_a_divider_and_between_interfaces_and_encapsulations_arrive_intact(pair, family):
    one, other = pair.one, pair.other
    exchange_all(pair.lab, f"geneve4-{one}", f"routed-{other}", family, SIZE)
    exchange_tcp(pair.lab, f"geneve4-{one}", f"vxlan6-{other}", SIZE, family)
    exchange_tcp(pair.lab, f"vxlan6-{one}", f"geneve0-{other}", SIZE, family)
    exchange_udp(pair.lab, f"geneve6-{one}", f"vxlan0-{other}", [100, 1000], family)


@FAMILIES
def test_endpoints_of_one_host_talk(pair, family):
    exchange_all(pair.lab, f"geneve4-{pair.one}", f"vxlan4-{pair.one}", family, SIZE)
    exchange_all(pair.lab, f"geneve6-{pair.other}", f"vxlan0-{pair.other}", family, SIZE)
    send_segments(pair.lab, f"geneve4-{pair.other}", f"vxlan4-{pair.other}", 1200, 40, family)
