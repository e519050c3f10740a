"""Next hops of a host with several interfaces in the substrate, on the real kernel."""

from __future__ import annotations

import pytest

from agent.datapath.maps import Map
from agent.datapath.neighbours import NeighbourWatch
from tests.netns.conftest import World, ip, uplinks_now
from tests.netns.hops import entry, mac_of, peers, until

FAR = "10.99.1.1"


def second_interface(world: World, address: str, other: str) -> None:
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "sub1", "netns", world.substrate)
    ip("addr", "add", address, "dev", "eth1")
    ip("addr", "add", other, "dev", "sub1", namespace=world.substrate)
    ip("link", "set", "eth1", "up")
    ip("link", "set", "sub1", "up", namespace=world.substrate)


@pytest.fixture
async def watch(world: World, table: Map):
    """Two interfaces in subnets of their own: 10.77.0.0/24 and 10.78.0.0/24."""
    second_interface(world, "10.78.0.1/24", "10.78.0.2/24")
    made = NeighbourWatch(await uplinks_now("eth0", "eth1"), table)
    await made.start()
    yield made
    await made.close()


async def test_each_droplet_is_reached_by_the_interface_that_its_subnet_is_on(world: World, table: Map, watch) -> None:
    watch.set_peers(peers("10.77.0.2", "10.78.0.2"))
    expected = [entry("10.77.0.2", mac_of(world)), entry("10.78.0.2", mac_of(world, "sub1"), "eth1")]
    await until(lambda: table.dump() == dict(expected))
    assert watch.unresolved() == []


async def test_a_droplet_behind_routers_is_reached_by_each_interface_with_a_route(
    world: World, table: Map, watch
) -> None:
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.2")
    watch.set_peers(peers(FAR))
    by_first, by_second = entry(FAR, mac_of(world)), entry(FAR, mac_of(world, "sub1"), "eth1")
    await until(lambda: table.dump() == dict([by_first]))
    ip("route", "add", "10.99.0.0/16", "via", "10.78.0.2", "metric", "50")
    await until(lambda: table.dump() == dict([by_first, by_second]))
    ip("route", "del", "10.99.0.0/16", "via", "10.77.0.2")
    await until(lambda: table.dump() == dict([by_second]))
    assert watch.unresolved() == []
    ip("route", "del", "10.99.0.0/16", "via", "10.78.0.2")
    await until(lambda: [one.address for one in watch.unresolved()] == [FAR])
    assert table.dump() == {}


async def test_a_rule_for_the_source_address_chooses_the_route(world: World, table: Map, watch) -> None:
    ip("route", "add", "default", "via", "10.77.0.2")
    ip("route", "add", "default", "via", "10.78.0.2", "table", "102")
    watch.set_peers(peers(FAR))
    await until(lambda: len(table.dump()) == 1)
    ip("rule", "add", "from", "10.78.0.1", "lookup", "102")
    expected = [entry(FAR, mac_of(world)), entry(FAR, mac_of(world, "sub1"), "eth1")]
    await until(lambda: table.dump() == dict(expected))


async def test_an_interface_that_goes_down_leaves_the_other_one(world: World, table: Map, watch) -> None:
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.2")
    ip("route", "add", "10.99.0.0/16", "via", "10.78.0.2", "metric", "50")
    watch.set_peers(peers(FAR))
    await until(lambda: len(table.dump()) == 2)
    ip("link", "set", "eth0", "down")
    await until(lambda: table.dump() == dict([entry(FAR, mac_of(world, "sub1"), "eth1")]))
    assert watch.unresolved() == []


async def test_the_same_subnet_on_two_interfaces_is_reached_by_both(world: World, table: Map) -> None:
    second_interface(world, "10.77.0.101/24", "10.77.0.102/24")
    for path in ("all", "sub0", "sub1"):
        ip_forwarding(world, path)
    watch = NeighbourWatch(await uplinks_now("eth0", "eth1"), table)
    await watch.start()
    try:
        watch.set_peers(peers("10.77.0.102"))
        by_second = entry("10.77.0.102", mac_of(world, "sub1"), "eth1")
        await until(lambda: by_second[0] in table.dump())
        assert watch.unresolved() == []
    finally:
        await watch.close()


def ip_forwarding(world: World, interface: str) -> None:
    """Let each interface answer for its own addresses alone (Documentation/networking/ip-sysctl.rst: arp_ignore)."""
    ip("netns", "exec", world.substrate, "sysctl", "-qw", f"net.ipv4.conf.{interface}.arp_ignore=1")
