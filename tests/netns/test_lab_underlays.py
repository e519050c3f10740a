"""Underlays as they are: a router between hosts, several interfaces a host, several queues, next hops that change.

This kernel has neither VLAN devices nor bonds: `tests/kernels` shows those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import exchange_all, exchange_tcp, exchange_udp, flow_between, ping, pings, udp_socket, unbroken_flow
from lab.underlays import over
from lab.waiting import until
from lab.wire import tapped

from agent.core.model.map_layout import mapped
from controller_sim.lab.namespaces import run_in
from protocol.addresses import parse_address

PORT = 7115
OTHER_MAC = "02:00:00:00:77:01"


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def routed(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """Two subnets behind a router, with the hosts' droplets of either family."""
    with running_lab("routed", over(request.param, topology_text("routed"))) as lab:
        yield lab


def mac_in(lab: SystemLab, namespace: str, interface: str) -> str:
    return str(json.loads(lab.ip(namespace, "-j", "link", "show", interface))[0]["address"])


def next_hop(lab: SystemLab, host: str, droplet: str) -> str:
    """Return the Ethernet address by which a host reaches a droplet, as its map has it."""
    wanted = mapped(parse_address(lab.topology.droplets[droplet].address))
    return next(value[:6].hex(":") for key, value in lab.entries(host, "next_hops").items() if key[:16] == wanted)


def test_hosts_in_different_subnets_talk_through_the_router_in_both_families(routed):
    for one, other, family in routed.talks():
        exchange_all(routed, one, other, family, 300_000)


def test_conversations_go_direct_across_the_router(routed):
    for family in (4, 6):
        exchange_udp(routed, "web-1", "web-2", [100, 100], family)
        path = routed.path("web-1", "web-2", family)
        assert (path.route, path.hosts) == ("direct", (routed.topology.droplets["h2"].address,))


def test_the_next_hop_beyond_is_the_router_and_in_the_subnet_the_host_itself(routed):
    north, south = (mac_in(routed, routed.names.router, name) for name in ("eth0", "eth1"))
    assert next_hop(routed, "h1", "h2") == next_hop(routed, "h1", "h3") == north
    assert next_hop(routed, "h2", "h1") == south
    assert next_hop(routed, "h1", "h4") == mac_in(routed, routed.names.droplet("h4"), "eth0")


def test_the_router_counts_one_hop_of_the_tunnel_and_none_of_the_tenant(routed):
    exchange_udp(routed, "web-1", "web-2", [1, 1])
    with tapped(routed, "h2") as tap:
        exchange_udp(routed, "web-1", "web-2", [100])
        packets = [one for one in tap.tunnelled() if one.source == routed.topology.droplets["h1"].address]
    assert {packet.ttl for packet in packets} == {63}
    assert {packet.inner[22] for packet in packets if packet.inner[12:14] == b"\x08\x00"} == {64}


def test_a_router_that_changes_its_ethernet_address_is_followed(routed):
    old = mac_in(routed, routed.names.router, "eth0")
    announce = ["net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.ndisc_notify=1"]
    assert run_in(routed.names.router, ["sysctl", "-qw", *announce]).returncode == 0
    with flow_between(routed, "web-1", "web-2") as flow:
        routed.ip(routed.names.router, "link", "set", "eth0", "address", OTHER_MAC)
        try:
            until(lambda: next_hop(routed, "h1", "h2") == OTHER_MAC, "the new address in the map")
            again = flow.sent
            until(lambda: len([n for n in flow.back if n > again]) > 50, "answers by the new address")
        finally:
            routed.ip(routed.names.router, "link", "set", "eth0", "address", old)
        until(lambda: next_hop(routed, "h1", "h2") == old, "the old address in the map")
    assert pings(routed, "web-1", "web-2")
    routed.lossy = "packets to the router's old Ethernet address are gone"


def test_a_neighbour_table_that_is_flushed_loses_no_packet(routed):
    with unbroken_flow(routed, "web-1", "web-2") as flow:
        for host in ("h1", "h2"):
            routed.ip(routed.names.droplet(host), "neigh", "flush", "dev", "eth0")
        again = flow.sent
        until(lambda: len([n for n in flow.back if n > again]) > 100, "answers")


MIXED = """\
underlay: {cidr: [172.18.0.0/24, "fd18::/64"]}
droplets:
  h1: {address: 172.18.0.11}
  h1-six: {host: h1, interface: eth0, address: "fd18::11"}
  h2: {address: 172.18.0.12}
  h2-six: {host: h2, interface: eth0, address: "fd18::12"}
  h3: {address: 172.18.0.13}
  h3-six: {host: h3, interface: eth0, address: "fd18::13"}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: []}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h2]}
  - {name: six, vpc: red, cidr: [10.0.6.0/24, "fd10:0:0:6::/64"], bouncers: [h3-six]}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
  - {name: six-1, network: six, droplet: h1-six}
  - {name: six-2, network: six, droplet: h3-six}
"""
"""Every host has a droplet of each family on its one interface; each endpoint is on one of them."""


def test_droplets_of_both_families_on_one_interface_each_carry_both_families(lab_cache):
    with running_lab("mixed", MIXED) as lab:
        for family in (4, 6):
            for one, other in (("web-1", "web-2"), ("six-1", "six-2")):
                exchange_all(lab, one, other, family, 300_000)
            exchange_tcp(lab, "web-1", "six-1", 300_000, family)  # whose MTUs differ
        with tapped(lab, "h1") as tap:
            for one, other in (("web-1", "web-2"), ("six-1", "six-2")):
                exchange_udp(lab, one, other, [100] * 5)
            ends = {(packet.source, packet.destination) for packet in tap.tunnelled() if not packet.is_control}
        assert ends == {
            ("172.18.0.11", "172.18.0.12"),
            ("172.18.0.12", "172.18.0.11"),
            ("fd18::11", "fd18::13"),
            ("fd18::13", "fd18::11"),
        }


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def uplinks(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """Over an underlay of either family."""
    with running_lab("uplinks", over(request.param, topology_text("two_uplinks"))) as lab:
        yield lab


def test_an_agent_serves_all_interfaces_of_its_host(uplinks):
    found = {one.interface: (one.droplets, one.attach_mode) for one in uplinks.status("a").uplinks}
    assert found == {"eth0": (("a1",), "native"), "eth1": (("a2",), "native")}


def test_endpoints_on_every_interface_talk_in_both_families(uplinks):
    for one, other, family in uplinks.talks():
        exchange_all(uplinks, one, other, family, 200_000)


def test_an_endpoint_sends_by_its_own_droplet_and_is_reached_by_it(uplinks):
    """web-1 is on a1 (eth0), web-2 on a2 (eth1); web-3 on b1."""
    for endpoint, droplet, interface, other in (("web-1", "a1", "eth0", "eth1"), ("web-2", "a2", "eth1", "eth0")):
        exchange_udp(uplinks, endpoint, "web-3", [1, 1])
        with tapped(uplinks, "a", interface) as own, tapped(uplinks, "a", other) as foreign:
            exchange_udp(uplinks, endpoint, "web-3", [100] * 20)
            packets, strays = own.tunnelled(), foreign.tunnelled()
        address = uplinks.topology.droplets[droplet].address
        assert len([one for one in packets if one.source == address]) >= 20
        assert len([one for one in packets if one.destination == address]) >= 20
        assert [one for one in strays if address in (one.source, one.destination)] == []


def test_endpoints_of_one_host_on_different_interfaces_talk_without_leaving_it(uplinks):
    before = uplinks.counters("a")
    exchange_udp(uplinks, "web-1", "web-2", [100] * 10)
    after = uplinks.counters("a")
    assert after["delivered_same_host"] - before["delivered_same_host"] >= 20
    assert uplinks.path("web-1", "web-2").route == "same_host"


def test_several_receive_queues_are_all_served(uplinks):
    """web-2's droplet has two queues: many flows spread over them, and none loses a datagram."""

    def by_queue() -> list[int]:
        done = run_in(uplinks.names.droplet("a"), ["ethtool", "-S", "eth1"])
        lines = dict(line.strip().split(": ") for line in done.stdout.splitlines() if "xdp_packets" in line)
        return [int(lines[f"rx_queue_{queue}_xdp_packets"]) for queue in range(2)]

    exchange_udp(uplinks, "web-3", "web-2", [1, 1])
    before = by_queue()
    with udp_socket(uplinks.inside("web-2"), uplinks.address("web-2"), PORT) as receiver:
        for number in range(100):
            with udp_socket(uplinks.inside("web-3"), uplinks.address("web-3")) as sender:
                sender.sendto(bytes([number]), (uplinks.address("web-2"), PORT))
                assert receiver.recv(10) == bytes([number])
    grown = [after - one for after, one in zip(by_queue(), before, strict=True)]
    assert sum(grown) >= 100
    assert min(grown) > 0, grown


def test_an_interface_that_goes_down_affects_only_its_own_endpoints_and_recovers(uplinks):
    uplinks.lossy = "a wire is cut under traffic"
    port = uplinks.ports()["a", "eth1"]
    with unbroken_flow(uplinks, "web-1", "web-3") as flow:
        uplinks.ip(uplinks.names.fabric, "link", "set", port, "down")
        try:
            assert ping(uplinks, "web-2", uplinks.address("web-4"), count=2, wait=1) == 0
            again = flow.sent
            until(lambda: len([n for n in flow.back if n > again]) > 100, "the other interface's traffic")
        finally:
            uplinks.ip(uplinks.names.fabric, "link", "set", port, "up")
    until(lambda: pings(uplinks, "web-2", "web-4"), "its return")
