"""The map of next hops follows the kernel's neighbours, on the real kernel."""

from __future__ import annotations

import asyncio
import socket

import structlog

from agent.core.model.map_layout import NEXT_HOP, NEXT_HOP_DOWN, mapped
from agent.core.nexthop.next_hops import PathFindings, Peer
from agent.core.probe.paths import Path
from agent.datapath.bpf.maps import Map
from agent.datapath.net.netlink import Netlink
from agent.datapath.nexthop.managed_neighbours import release_all
from agent.datapath.nexthop.neighbours import NeighbourWatch
from tests.netns.conftest import Topo, ip, ip_json, run, uplinks_now
from tests.netns.hops import entry, mac_of, packed, peers, set_peers, until


def neighbours(topo: Topo) -> dict[str, dict]:
    return {one["dst"]: one for one in ip_json("neigh", "show", "dev", "eth0")}


async def test_an_on_link_droplet_is_resolved_without_any_traffic(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    key, value = entry(topo.neighbour, mac_of(topo))
    await until(lambda: table.lookup(key) == value)
    assert watch.unresolved() == []


async def test_a_droplet_behind_a_gateway_gets_the_gateways_address(topo: Topo, table: Map, watch) -> None:
    ip("route", "add", "10.99.0.0/16", "via", topo.neighbour)
    set_peers(watch, {mapped(packed("10.99.1.1")): Peer()})
    key, value = entry("10.99.1.1", mac_of(topo))
    await until(lambda: table.lookup(key) == value)


async def test_a_droplet_follows_its_route_to_another_router_and_back(topo: Topo, table: Map, watch) -> None:
    ip("neigh", "add", "10.77.0.3", "lladdr", "02:00:00:00:00:33", "dev", "eth0", "nud", "permanent")
    ip("route", "add", "10.99.0.0/16", "via", topo.neighbour)
    set_peers(watch, peers("10.99.1.1"))
    key, first = entry("10.99.1.1", mac_of(topo))
    await until(lambda: table.lookup(key) == first)
    ip("route", "replace", "10.99.0.0/16", "via", "10.77.0.3")
    await until(lambda: table.lookup(key) == entry("10.99.1.1", bytes.fromhex("020000000033"))[1])
    ip("route", "replace", "10.99.0.0/16", "via", topo.neighbour)
    await until(lambda: table.lookup(key) == first)


async def test_an_ipv4_route_through_an_ipv6_router_is_followed(topo: Topo, table: Map, watch) -> None:
    """RFC 8950: unnumbered links between routers."""
    ip("addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    ip("neigh", "add", "2001:db8::9", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
    ip("route", "add", "10.99.0.0/16", "via", "inet6", "2001:db8::9", "dev", "eth0")
    set_peers(watch, peers("10.99.1.1"))
    key, value = entry("10.99.1.1", bytes.fromhex("020000000099"))
    await until(lambda: table.lookup(key) == value)


async def test_a_route_that_comes_later_is_followed_and_one_that_goes_too(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers("10.99.1.1"))
    await until(lambda: ["no route" in one.reason for one in watch.unresolved()] == [True])
    ip("route", "add", "10.99.0.0/16", "via", topo.neighbour)
    await until(lambda: len(table.dump()) == 1)
    ip("route", "del", "10.99.0.0/16")
    await until(lambda: table.dump() == {})


async def test_a_droplet_routed_by_another_interface_is_named(topo: Topo, table: Map, watch) -> None:
    ip("link", "add", "side", "type", "veth", "peer", "name", "side2")
    ip("addr", "add", "10.88.0.1/24", "dev", "side")
    ip("link", "set", "side", "up")
    set_peers(watch, peers("10.88.0.2"))
    await until(lambda: any("another interface" in one.reason for one in watch.unresolved()))
    assert table.dump() == {}


async def test_a_neighbour_that_moves_its_mac_is_followed(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:77", namespace=topo.underlay)
    ip("neigh", "flush", "dev", "eth0")
    key, value = entry(topo.neighbour, bytes.fromhex("020000000077"))
    await until(lambda: table.lookup(key) == value)


async def test_a_neighbour_that_silently_changes_its_mac_is_resolved_again(topo: Topo, table: Map, watch) -> None:
    """The kernel is sure of what it knows, and tunnel packets give it no reason to doubt."""
    run("sysctl", "-qw", "net.ipv4.neigh.eth0.base_reachable_time_ms=3600000")
    set_peers(watch, peers(topo.neighbour))
    key, old = entry(topo.neighbour, mac_of(topo))
    await until(lambda: table.lookup(key) == old)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:7a", namespace=topo.underlay)
    watch.rescan()
    await asyncio.wait_for(watch.caught_up(), 20)
    assert table.lookup(key) == old
    new = entry(topo.neighbour, bytes.fromhex("02000000007a"))[1]

    def asked_and_answered() -> bool:
        watch.revalidate([Path(packed(topo.address), packed(topo.neighbour))])
        return table.lookup(key) == new

    await until(asked_and_answered)


async def test_a_flushed_neighbour_table_takes_no_entry_away(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    for _ in range(20):
        ip("neigh", "flush", "dev", "eth0")
        assert len(table.dump()) == 1
        await asyncio.sleep(0.01)
        assert len(table.dump()) == 1
    await until(lambda: "managed" in neighbours(topo).get(topo.neighbour, {}))


async def test_a_neighbour_that_no_longer_answers_loses_its_entry(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    ip("addr", "flush", "dev", "sub0", namespace=topo.underlay)
    ip("neigh", "flush", "dev", "eth0")
    await until(lambda: table.dump() == {})
    assert "does not answer" in watch.unresolved()[0].reason
    ip("addr", "add", f"{topo.neighbour}/24", "dev", "sub0", namespace=topo.underlay)
    await until(lambda: len(table.dump()) == 1)


async def test_an_interface_that_goes_down_and_up_resolves_again(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    ip("link", "set", "eth0", "down")
    await until(lambda: table.dump() == {})
    ip("link", "set", "eth0", "up")
    await until(lambda: len(table.dump()) == 1)


async def test_a_droplet_that_is_gone_loses_its_entry_and_its_neighbour(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: "managed" in neighbours(topo).get(topo.neighbour, {}))
    await until(lambda: len(table.dump()) == 1)
    set_peers(watch, {})
    await until(lambda: table.dump() == {})
    await until(lambda: "managed" not in neighbours(topo).get(topo.neighbour, {}))


async def test_an_operators_permanent_neighbour_is_used_and_left_alone(topo: Topo, table: Map, watch) -> None:
    ip("neigh", "add", topo.neighbour, "lladdr", "02:00:00:00:00:55", "dev", "eth0", "nud", "permanent")
    set_peers(watch, peers(topo.neighbour))
    key, value = entry(topo.neighbour, bytes.fromhex("020000000055"))
    await until(lambda: table.lookup(key) == value)
    assert neighbours(topo)[topo.neighbour]["state"] == ["PERMANENT"]
    assert "managed" not in neighbours(topo)[topo.neighbour]


async def test_nothing_is_removed_before_the_droplets_are_known(topo: Topo, table: Map, uplinks) -> None:
    key, value = entry(topo.neighbour, bytes.fromhex("020000000011"))
    table.put([(key, value)])
    watch = NeighbourWatch(uplinks, table)
    await watch.start()
    try:
        await watch.caught_up()
        assert table.dump() == {key: value}
        set_peers(watch, peers(topo.neighbour))
        await until(lambda: table.lookup(key) == NEXT_HOP.pack(mac_of(topo), 1500, 0, 0))
    finally:
        await watch.close()


async def test_a_restarted_watch_releases_what_its_predecessor_kept(topo: Topo, table: Map, watch, uplinks) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    await watch.close()
    assert "managed" in neighbours(topo)[topo.neighbour]
    second = NeighbourWatch(uplinks, table)
    await second.start()
    try:
        set_peers(second, {})
        await until(lambda: "managed" not in neighbours(topo).get(topo.neighbour, {}))
        assert table.dump() == {}
    finally:
        await second.close()


async def test_releasing_all_leaves_no_neighbour_of_ours(topo: Topo, table: Map, watch) -> None:
    ip("neigh", "add", "10.77.0.50", "lladdr", "02:00:00:00:00:55", "dev", "eth0", "nud", "permanent")
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    await watch.close()
    async with Netlink() as netlink:
        await release_all(netlink, topo.ifindex("eth0"))
    assert list(neighbours(topo)) == ["10.77.0.50"]


async def test_many_events_at_once_end_in_the_true_table(topo: Topo, table: Map, watch) -> None:
    others = [f"10.77.0.{host}" for host in range(10, 60)]
    for address in others:
        ip("addr", "add", f"{address}/24", "dev", "sub0", namespace=topo.underlay)
    set_peers(watch, peers(*others))
    expected = dict(entry(address, mac_of(topo)) for address in others)
    await until(lambda: table.dump() == expected)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:78", namespace=topo.underlay)
    ip("neigh", "flush", "dev", "eth0")
    expected = dict(entry(address, bytes.fromhex("020000000078")) for address in others)
    await until(lambda: table.dump() == expected)


async def test_lost_events_end_in_a_full_look(topo: Topo, table: Map, watch, tmp_path) -> None:
    """More events than the socket holds, while it is not read: one of them is the neighbour's new address."""
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    batch = tmp_path / "batch"
    mac = "02:00:00:00:00:55"
    lines = [f"neigh add 10.77.{1 + n // 250}.{1 + n % 250} lladdr {mac} dev eth0 nud permanent" for n in range(4000)]
    lines.append(f"neigh replace {topo.neighbour} lladdr {mac} dev eth0 nud permanent")
    batch.write_text("\n".join(lines))
    key, value = entry(topo.neighbour, bytes.fromhex("020000000055"))
    with structlog.testing.capture_logs() as logged:
        ip("-batch", str(batch))
        await until(lambda: table.lookup(key) == value)
    assert "neighbour_events_lost" in [one["event"] for one in logged]
    assert watch.uplinks_changed.is_set()


async def test_a_new_droplet_is_unresolved_until_it_has_a_next_hop(topo: Topo, table: Map, watch) -> None:
    await watch.caught_up()
    set_peers(watch, peers(topo.neighbour, "10.99.1.1"))
    assert [one.address for one in watch.unresolved()] == [topo.neighbour, "10.99.1.1"]
    await until(lambda: [one.address for one in watch.unresolved()] == ["10.99.1.1"])
    set_peers(watch, peers(topo.neighbour))
    assert watch.unresolved() == []


async def test_the_state_of_a_path_is_in_its_entry(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    set_peers(watch, peers(topo.neighbour, by={socket.if_nametoindex("eth0"): PathFindings(True, 1400)}))
    key, value = entry(topo.neighbour, mac_of(topo), mtu=1400, flags=NEXT_HOP_DOWN)
    await until(lambda: table.lookup(key) == value)
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: table.lookup(key) == entry(topo.neighbour, mac_of(topo))[1])


async def test_a_changed_interface_is_reported_and_used(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    assert not watch.uplinks_changed.is_set()
    ip("link", "set", "eth0", "mtu", "1400")
    await until(watch.uplinks_changed.is_set)
    watch.set_uplinks(await uplinks_now("eth0"))
    await until(lambda: table.dump() == dict([entry(topo.neighbour, mac_of(topo), mtu=1400)]))


async def test_a_replaced_interface_is_reported_and_used(topo: Topo, table: Map, watch) -> None:
    set_peers(watch, peers(topo.neighbour))
    await until(lambda: len(table.dump()) == 1)
    before = topo.ifindex("eth0")
    ip("link", "del", "eth0")
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "sub0", "netns", topo.underlay)
    ip("addr", "add", f"{topo.neighbour}/24", "dev", "sub0", namespace=topo.underlay)
    ip("link", "set", "sub0", "up", namespace=topo.underlay)
    ip("link", "set", "eth0", "up")
    await until(watch.uplinks_changed.is_set)
    watch.uplinks_changed.clear()
    watch.set_uplinks(await uplinks_now("eth0"))
    ip("addr", "add", f"{topo.address}/24", "dev", "eth0")
    await until(watch.uplinks_changed.is_set)
    watch.set_uplinks(await uplinks_now("eth0"))
    set_peers(watch, peers(topo.neighbour))
    assert topo.ifindex("eth0") != before
    await until(lambda: table.dump() == dict([entry(topo.neighbour, mac_of(topo))]))
    assert watch.unresolved() == []
