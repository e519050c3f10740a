"""Next hops over an IPv6 underlay, on the real kernel: by neighbour discovery, and through routers."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from agent.core.probe.paths import Path
from agent.datapath.bpf.maps import Map
from agent.datapath.nexthop.neighbours import NeighbourWatch
from tests.netns.conftest import Topo, ip, ip_json, run, uplinks_now
from tests.netns.hops import entry, mac_of, packed, peers, set_peers, until

HERE, THERE, FAR = "2001:db8::1", "2001:db8::2", "2001:db8:9::1"
OTHER_ROUTER = "2001:db8::3"


@pytest.fixture
async def watch(topo: Topo, table: Map):
    """The droplet has an IPv6 address, its neighbour two, on interfaces of their own."""
    ip("addr", "add", f"{HERE}/64", "dev", "eth0", "nodad")
    ip("addr", "add", f"{THERE}/64", "dev", "sub0", "nodad", namespace=topo.underlay)
    made = NeighbourWatch(await uplinks_now("eth0"), table)
    await made.start()
    yield made
    await made.close()


def link_local(topo: Topo, interface: str = "sub0") -> str:
    (shown,) = ip_json("-6", "addr", "show", interface, namespace=topo.underlay)
    texts = [one["local"] for one in shown["addr_info"]]
    return next(text for text in texts if ipaddress.ip_address(text).is_link_local)


async def test_an_on_link_droplet_is_resolved_without_any_traffic(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(THERE))
    key, value = entry(THERE, mac_of(topo))
    await until(lambda: table.lookup(key) == value)
    assert watch.unresolved() == []
    assert "managed" in next(one for one in ip_json("-6", "neigh", "show", "dev", "eth0") if one["dst"] == THERE)


async def test_a_router_known_by_its_link_local_address_is_the_next_hop(topo: Topo, table: Map, watch) -> None:
    ip("route", "add", "2001:db8:9::/48", "via", link_local(topo), "dev", "eth0")
    set_peers(watch, peers(FAR))
    key, value = entry(FAR, mac_of(topo))
    await until(lambda: table.lookup(key) == value)


async def test_a_droplet_follows_its_route_to_another_router_and_back(topo: Topo, table: Map, watch) -> None:
    ip("neigh", "add", OTHER_ROUTER, "lladdr", "02:00:00:00:00:33", "dev", "eth0", "nud", "permanent")
    ip("route", "add", "2001:db8:9::/48", "via", THERE)
    set_peers(watch, peers(FAR))
    key, first = entry(FAR, mac_of(topo))
    await until(lambda: table.lookup(key) == first)
    ip("route", "replace", "2001:db8:9::/48", "via", OTHER_ROUTER)
    await until(lambda: table.lookup(key) == entry(FAR, bytes.fromhex("020000000033"))[1])
    ip("route", "replace", "2001:db8:9::/48", "via", THERE)
    await until(lambda: table.lookup(key) == first)
    ip("route", "del", "2001:db8:9::/48")
    await until(lambda: table.dump() == {})
    assert "no route" in watch.unresolved()[0].reason


async def test_a_neighbour_that_moves_its_mac_is_followed(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(THERE))
    await until(lambda: len(table.dump()) == 1)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:77", namespace=topo.underlay)
    ip("neigh", "flush", "dev", "eth0")
    key, value = entry(THERE, bytes.fromhex("020000000077"))
    await until(lambda: table.lookup(key) == value)


async def test_a_neighbour_that_silently_changes_its_mac_is_resolved_again(topo: Topo, table: Map, watch) -> None:
    """The kernel is sure of what it knows, and tunnel packets give it no reason to doubt."""
    run("sysctl", "-qw", "net.ipv6.neigh.eth0.base_reachable_time_ms=3600000")
    set_peers(watch, peers(THERE))
    key, old = entry(THERE, mac_of(topo))
    await until(lambda: table.lookup(key) == old)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:7a", namespace=topo.underlay)
    watch.rescan()
    await asyncio.wait_for(watch.caught_up(), 20)
    assert table.lookup(key) == old
    new = entry(THERE, bytes.fromhex("02000000007a"))[1]

    def asked_and_answered() -> bool:
        watch.revalidate([Path(packed(HERE), packed(THERE))])
        return table.lookup(key) == new

    await until(asked_and_answered)


async def test_a_neighbour_that_no_longer_answers_loses_its_entry(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(THERE))
    await until(lambda: len(table.dump()) == 1)
    ip("addr", "del", f"{THERE}/64", "dev", "sub0", namespace=topo.underlay)
    ip("neigh", "flush", "dev", "eth0")
    await until(lambda: table.dump() == {})
    assert "does not answer" in watch.unresolved()[0].reason


async def test_both_families_share_an_interface(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(THERE, topo.neighbour))
    expected = dict([entry(THERE, mac_of(topo)), entry(topo.neighbour, mac_of(topo))])
    await until(lambda: table.dump() == expected)
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: table.dump() == dict([entry(topo.neighbour, mac_of(topo))]))
