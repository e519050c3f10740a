"""Next hops of a host with several interfaces in the underlay, on the real kernel."""

from __future__ import annotations

import socket

import pytest

from agent.core.model.map_layout import NEXT_HOP_BY_OTHER, NEXT_HOP_DOWN
from agent.core.nexthop.next_hops import PathFindings
from agent.datapath.bpf.maps import Map
from agent.datapath.nexthop.neighbours import NeighbourWatch
from tests.netns.conftest import Topo, ip, uplinks_now
from tests.netns.hops import entry, mac_of, peers, set_peers, until

FAR = "10.99.1.1"


def second_interface(topo: Topo, address: str, other: str) -> None:
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "sub1", "netns", topo.underlay)
    ip("addr", "add", address, "dev", "eth1")
    ip("addr", "add", other, "dev", "sub1", namespace=topo.underlay)
    ip("link", "set", "eth1", "up")
    ip("link", "set", "sub1", "up", namespace=topo.underlay)


def by_first(address: str, mac: bytes, interface: str = "eth0", flags: int = 0) -> tuple[bytes, bytes]:
    """Return the entry of an interface by which eth0 leads to a droplet."""
    return entry(address, mac, interface, flags=flags | (0 if interface == "eth0" else NEXT_HOP_BY_OTHER))


def by_second(address: str, mac: bytes, interface: str = "eth1", flags: int = 0) -> tuple[bytes, bytes]:
    """Return the entry of an interface by which eth1 leads to a droplet."""
    return entry(address, mac, interface, flags=flags | (0 if interface == "eth1" else NEXT_HOP_BY_OTHER), place=1)


@pytest.fixture
async def watch(topo: Topo, table: Map):
    """Two interfaces in subnets of their own: 10.77.0.0/24 and 10.78.0.0/24."""
    second_interface(topo, "10.78.0.1/24", "10.78.0.2/24")
    made = NeighbourWatch(await uplinks_now("eth0", "eth1"), table)
    await made.start()
    yield made
    await made.close()


async def test_each_droplet_is_reached_by_the_interface_that_its_subnet_is_on(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers("10.77.0.2", "10.78.0.2"))
    first, second = mac_of(topo), mac_of(topo, "sub1")
    expected = [entry("10.77.0.2", first), by_first("10.77.0.2", first, "eth1")]
    expected += [by_second("10.78.0.2", second), by_second("10.78.0.2", second, "eth0")]
    await until(lambda: table.dump() == dict(expected))
    assert watch.unresolved() == []


async def test_a_droplet_behind_routers_is_reached_by_each_interface_with_a_route(
    topo: Topo, table: Map, watch
) -> None:
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.2")
    set_peers(watch, peers(FAR))
    first, second = mac_of(topo), mac_of(topo, "sub1")
    await until(lambda: table.dump() == dict([by_first(FAR, first), by_first(FAR, first, "eth1")]))
    ip("route", "add", "10.99.0.0/16", "via", "10.78.0.2", "metric", "50")
    await until(lambda: table.dump() == dict([by_first(FAR, first), by_second(FAR, second)]))
    ip("route", "del", "10.99.0.0/16", "via", "10.77.0.2")
    await until(lambda: table.dump() == dict([by_second(FAR, second), by_second(FAR, second, "eth0")]))
    assert watch.unresolved() == []
    ip("route", "del", "10.99.0.0/16", "via", "10.78.0.2")
    await until(lambda: [one.address for one in watch.unresolved()] == [FAR])
    assert table.dump() == {}


async def test_a_rule_for_the_source_address_chooses_the_route(topo: Topo, table: Map, watch) -> None:
    ip("route", "add", "default", "via", "10.77.0.2")
    ip("route", "add", "default", "via", "10.78.0.2", "table", "102")
    set_peers(watch, peers(FAR))
    first, second = mac_of(topo), mac_of(topo, "sub1")
    await until(lambda: table.dump() == dict([by_first(FAR, first), by_first(FAR, first, "eth1")]))
    ip("rule", "add", "from", "10.78.0.1", "lookup", "102")
    expected = [by_first(FAR, first), by_second(FAR, second)]
    await until(lambda: table.dump() == dict(expected))


async def test_an_interface_that_goes_down_leaves_the_other_one(topo: Topo, table: Map, watch) -> None:
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.2")
    ip("route", "add", "10.99.0.0/16", "via", "10.78.0.2", "metric", "50")
    set_peers(watch, peers(FAR))
    await until(lambda: len(table.dump()) == 2)
    ip("link", "set", "eth0", "down")
    second = mac_of(topo, "sub1")
    await until(lambda: table.dump() == dict([by_second(FAR, second), by_second(FAR, second, "eth0")]))
    assert watch.unresolved() == []


async def test_a_droplet_that_is_silent_on_one_uplink_is_reached_by_the_other(topo: Topo, table: Map, watch) -> None:
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.2")
    ip("route", "add", "10.99.0.0/16", "via", "10.78.0.2", "metric", "50")
    first, second = mac_of(topo), mac_of(topo, "sub1")
    set_peers(watch, peers(FAR))
    await until(lambda: table.dump() == dict([by_first(FAR, first), by_second(FAR, second)]))
    silent = PathFindings(down=True)
    set_peers(watch, peers(FAR, by={socket.if_nametoindex("eth0"): silent}))
    expected = [by_second(FAR, second, "eth0"), by_second(FAR, second)]
    await until(lambda: table.dump() == dict(expected))
    set_peers(watch, peers(FAR, by={socket.if_nametoindex(name): silent for name in ("eth0", "eth1")}))
    await until(
        lambda: (
            table.dump()
            == dict([by_first(FAR, first, flags=NEXT_HOP_DOWN), by_second(FAR, second, flags=NEXT_HOP_DOWN)])
        )
    )


async def test_the_same_subnet_on_two_interfaces_is_reached_by_both(topo: Topo, table: Map) -> None:
    second_interface(topo, "10.77.0.101/24", "10.77.0.102/24")
    for path in ("all", "sub0", "sub1"):
        ip_forwarding(topo, path)
    watch = NeighbourWatch(await uplinks_now("eth0", "eth1"), table)
    await watch.start()
    try:
        set_peers(watch, peers("10.77.0.102"))
        key, _ = by_second("10.77.0.102", mac_of(topo, "sub1"))
        await until(lambda: key in table.dump())
        assert watch.unresolved() == []
    finally:
        await watch.close()


def ip_forwarding(topo: Topo, interface: str) -> None:
    """Let each interface answer for its own addresses alone (Documentation/networking/ip-sysctl.rst: arp_ignore)."""
    ip("netns", "exec", topo.underlay, "sysctl", "-qw", f"net.ipv4.conf.{interface}.arp_ignore=1")
