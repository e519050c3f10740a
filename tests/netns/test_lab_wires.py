"""What passes the wires between hosts: complete frames as on NICs' wires, or GSO packets as between VMs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, leftovers
from lab.offloaded import exchange_segments, sent_by
from lab.traffic import exchange_stream
from lab.tunnels import End, tunnel_between

TEXT = """\
underlay:
  wires: {wires}
  subnets:
    left: {{cidr: [172.18.1.0/24, "fd18:0:0:1::/64"]}}
    right: {{cidr: [172.18.2.0/24, "fd18:0:0:2::/64"]}}
droplets:
  a4: {{host: a, interface: eth0, address: 172.18.1.11}}
  a6: {{host: a, interface: eth0, address: "fd18:0:0:1::11"}}
  b4: {{host: b, interface: eth0, address: 172.18.2.12}}
  b6: {{host: b, interface: eth0, address: "fd18:0:0:2::12"}}
  p: {{address: 172.18.2.13, peer: vxlan}}
vpcs:
  - {{name: red, vni: 1001, cidr: 10.0.0.0/16}}
networks:
  - {{name: web, vpc: red, cidr: 10.0.1.0/24}}
"""
SIZE = 1 << 20


@pytest.fixture(params=["physical", "virtual"])
def wires(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lab(wires: str) -> Iterator[SystemLab]:
    """Return hosts without agents, in two subnets."""
    made = SystemLab("wires", TEXT.format(wires=wires))
    made.build()
    try:
        yield made
    finally:
        made.down()
        assert leftovers(made.lab.name) == []


def end_of(lab: SystemLab, droplet: str) -> End:
    found = lab.topology.droplets[droplet]
    return End(lab.names.droplet(found.host), found.address, lab.topology.underlay.mtu)


def ends_of_wires(lab: SystemLab) -> list[tuple[str, str]]:
    """Return both ends of every wire, as namespaces and interfaces."""
    hosts = [(lab.names.droplet(host), interface) for host, interface in lab.ports()]
    router = [(lab.names.router, "eth0"), (lab.names.router, "eth1")]
    ports = [(lab.names.fabric, port) for port in (*lab.ports().values(), "router0", "router1")]
    return [*hosts, *router, *ports]


def exchange(one: End, other: End) -> None:
    """Send streams and datagrams from one end to the other, which the kernel segments, in a tunnel and without."""
    exchange_stream(one.namespace, other.namespace, one.address, other.address, SIZE)
    exchange_segments((one.namespace, one.address), (other.namespace, other.address), 1200, 40)
    with tunnel_between(one, other, "vxlan") as (own, to):
        exchange_stream(one.namespace, other.namespace, own, to, SIZE)
        exchange_segments((one.namespace, own), (other.namespace, to), 1200, 40)


def test_frames_are_complete_on_physical_wires_and_as_their_sender_left_them_on_virtual_ones(lab, wires):
    longest = 14 + lab.topology.underlay.mtu
    for own, to in (("a4", "b4"), ("a6", "b6"), ("b4", "p")):
        with contextlib.ExitStack() as stack:
            taps = {end: stack.enter_context(sent_by(*end)) for end in ends_of_wires(lab)}
            exchange(end_of(lab, own), end_of(lab, to))
            frames = {end: tap.frames() for end, tap in taps.items()}
        receiver = lab.topology.droplets[to]
        first = (end_of(lab, own).namespace, "eth0")
        last = (lab.names.fabric, lab.ports()[receiver.host, receiver.interface])
        assert frames[first]
        assert frames[last]
        left = {end for end, sent in frames.items() if not all(one.complete for one in sent)}
        if wires == "physical":
            assert left == set()
            assert max(len(one.data) for sent in frames.values() for one in sent) <= longest
        else:
            assert {first, last} <= left
