"""The map of next hops follows the kernel's neighbours, on the real kernel."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import structlog

from agent.core.layout import NEXT_HOP, MapName, mapped
from agent.datapath import bpf_syscall as bpf
from agent.datapath.maps import Map
from agent.datapath.neighbours import NeighbourWatch, release_all
from agent.datapath.netlink import Netlink
from tests.netns.conftest import World, ip, ip_json

SETTLING = 400


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.fixture
def table() -> Iterator[Map]:
    descriptor = bpf.create_map(bpf.MapType.HASH, 16, NEXT_HOP.size, 64, bpf.BPF_F_NO_PREALLOC)
    yield Map(MapName.NEXT_HOPS, descriptor)
    os.close(descriptor)


@pytest.fixture
async def watch(world: World, table: Map) -> AsyncIterator[NeighbourWatch]:
    made = NeighbourWatch(world.ifindex("eth0"), table)
    await made.start()
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(SETTLING):
        if condition():
            return
        await asyncio.sleep(0.025)
    raise AssertionError("did not come about")


def mac_of(world: World) -> bytes:
    (link,) = ip_json("link", "show", "sub0", namespace=world.substrate)
    return bytes.fromhex(link["address"].replace(":", ""))


def entry(address: str, mac: bytes) -> tuple[bytes, bytes]:
    return mapped(packed(address)), NEXT_HOP.pack(mac)


def neighbours(world: World) -> dict[str, dict]:
    return {one["dst"]: one for one in ip_json("neigh", "show", "dev", "eth0")}


async def test_an_on_link_droplet_is_resolved_without_any_traffic(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    key, value = entry(world.neighbour, mac_of(world))
    await until(lambda: table.lookup(key) == value)
    assert watch.unresolved() == []


async def test_a_droplet_behind_a_gateway_gets_the_gateways_address(world: World, table: Map, watch) -> None:
    ip("route", "add", "10.99.0.0/16", "via", world.neighbour)
    watch.set_droplets([mapped(packed("10.99.1.1"))])
    key, value = entry("10.99.1.1", mac_of(world))
    await until(lambda: table.lookup(key) == value)


async def test_a_route_that_comes_later_is_followed_and_one_that_goes_too(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed("10.99.1.1")])
    await until(lambda: [one.address for one in watch.unresolved()] == ["10.99.1.1"])
    assert "no route" in watch.unresolved()[0].reason
    ip("route", "add", "10.99.0.0/16", "via", world.neighbour)
    await until(lambda: len(table.dump()) == 1)
    ip("route", "del", "10.99.0.0/16")
    await until(lambda: table.dump() == {})


async def test_a_droplet_routed_by_another_interface_is_named(world: World, table: Map, watch) -> None:
    ip("link", "add", "side", "type", "veth", "peer", "name", "side2")
    ip("addr", "add", "10.88.0.1/24", "dev", "side")
    ip("link", "set", "side", "up")
    watch.set_droplets([packed("10.88.0.2")])
    await until(lambda: any("another interface" in one.reason for one in watch.unresolved()))
    assert table.dump() == {}


async def test_a_neighbour_that_moves_its_mac_is_followed(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:77", namespace=world.substrate)
    ip("neigh", "flush", "dev", "eth0")
    key, value = entry(world.neighbour, bytes.fromhex("020000000077"))
    await until(lambda: table.lookup(key) == value)


async def test_a_flushed_neighbour_table_takes_no_entry_away(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    for _ in range(20):
        ip("neigh", "flush", "dev", "eth0")
        assert len(table.dump()) == 1
        await asyncio.sleep(0.01)
        assert len(table.dump()) == 1
    await until(lambda: "managed" in neighbours(world).get(world.neighbour, {}))


async def test_a_neighbour_that_no_longer_answers_loses_its_entry(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    ip("addr", "flush", "dev", "sub0", namespace=world.substrate)
    ip("neigh", "flush", "dev", "eth0")
    await until(lambda: table.dump() == {})
    assert "does not answer" in watch.unresolved()[0].reason
    ip("addr", "add", f"{world.neighbour}/24", "dev", "sub0", namespace=world.substrate)
    await until(lambda: len(table.dump()) == 1)


async def test_an_interface_that_goes_down_and_up_resolves_again(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    ip("link", "set", "eth0", "down")
    await until(lambda: table.dump() == {})
    ip("link", "set", "eth0", "up")
    await until(lambda: len(table.dump()) == 1)


async def test_a_droplet_that_is_gone_loses_its_entry_and_its_neighbour(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: "managed" in neighbours(world).get(world.neighbour, {}))
    await until(lambda: len(table.dump()) == 1)
    watch.set_droplets([])
    await until(lambda: table.dump() == {})
    await until(lambda: "managed" not in neighbours(world).get(world.neighbour, {}))


async def test_an_operators_permanent_neighbour_is_used_and_left_alone(world: World, table: Map, watch) -> None:
    ip("neigh", "add", world.neighbour, "lladdr", "02:00:00:00:00:55", "dev", "eth0", "nud", "permanent")
    watch.set_droplets([packed(world.neighbour)])
    key, value = entry(world.neighbour, bytes.fromhex("020000000055"))
    await until(lambda: table.lookup(key) == value)
    assert neighbours(world)[world.neighbour]["state"] == ["PERMANENT"]
    assert "managed" not in neighbours(world)[world.neighbour]


async def test_nothing_is_removed_before_the_droplets_are_told(world: World, table: Map) -> None:
    key, value = entry(world.neighbour, bytes.fromhex("020000000011"))
    table.put([(key, value)])
    watch = NeighbourWatch(world.ifindex("eth0"), table)
    await watch.start()
    try:
        await watch.settled()
        assert table.dump() == {key: value}
        watch.set_droplets([packed(world.neighbour)])
        await until(lambda: table.lookup(key) == NEXT_HOP.pack(mac_of(world)))
    finally:
        await watch.close()


async def test_a_restarted_watch_releases_what_its_predecessor_kept(world: World, table: Map, watch) -> None:
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    await watch.close()
    assert "managed" in neighbours(world)[world.neighbour]
    second = NeighbourWatch(world.ifindex("eth0"), table)
    await second.start()
    try:
        second.set_droplets([])
        await until(lambda: "managed" not in neighbours(world).get(world.neighbour, {}))
        assert table.dump() == {}
    finally:
        await second.close()


async def test_releasing_all_leaves_no_neighbour_of_ours(world: World, table: Map, watch) -> None:
    ip("neigh", "add", "10.77.0.50", "lladdr", "02:00:00:00:00:55", "dev", "eth0", "nud", "permanent")
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    await watch.close()
    async with Netlink() as netlink:
        await release_all(netlink, world.ifindex("eth0"))
    assert list(neighbours(world)) == ["10.77.0.50"]


async def test_many_events_at_once_end_in_the_true_table(world: World, table: Map, watch) -> None:
    others = [f"10.77.0.{host}" for host in range(10, 60)]
    for address in others:
        ip("addr", "add", f"{address}/24", "dev", "sub0", namespace=world.substrate)
    watch.set_droplets([packed(address) for address in others])
    expected = dict(entry(address, mac_of(world)) for address in others)
    await until(lambda: table.dump() == expected)
    ip("link", "set", "sub0", "address", "02:00:00:00:00:78", namespace=world.substrate)
    ip("neigh", "flush", "dev", "eth0")
    expected = dict(entry(address, bytes.fromhex("020000000078")) for address in others)
    await until(lambda: table.dump() == expected)


async def test_lost_events_end_in_a_full_look(world: World, table: Map, watch, tmp_path) -> None:
    """More events than the socket holds, while nobody reads: one of them is the neighbour's new address."""
    watch.set_droplets([packed(world.neighbour)])
    await until(lambda: len(table.dump()) == 1)
    batch = tmp_path / "batch"
    mac = "02:00:00:00:00:55"
    lines = [f"neigh add 10.77.{1 + n // 250}.{1 + n % 250} lladdr {mac} dev eth0 nud permanent" for n in range(4000)]
    lines.append(f"neigh replace {world.neighbour} lladdr {mac} dev eth0 nud permanent")
    batch.write_text("\n".join(lines))
    key, value = entry(world.neighbour, bytes.fromhex("020000000055"))
    with structlog.testing.capture_logs() as logged:
        ip("-batch", str(batch))
        await until(lambda: table.lookup(key) == value)
    assert "neighbour_events_lost" in [one["event"] for one in logged]
