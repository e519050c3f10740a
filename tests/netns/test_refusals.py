"""What the kernel refuses the neighbour watch, and what it tells of uplinks and routes, on the real kernel."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from agent.core.model.map_layout import NEXT_HOP, NEXT_HOP_KEY, MapName
from agent.core.nexthop.next_hops import Reason, unpack_key
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map
from agent.datapath.nexthop import neighbours
from agent.datapath.nexthop.neighbours import NeighbourWatch
from agent.telemetry.fault_reporter import FaultReporter
from tests.netns.conftest import Topo, ip, run, uplinks_now
from tests.netns.hops import entry, heard_all, mac_of, packed, peers, set_peers, until

MAP_FULL_FOR_TWO = "full and lacks 2 entries"


def reasons(watch: NeighbourWatch) -> dict[str, str]:
    return {one.address: one.reason for one in watch.unresolved()}


def reporting(watch: NeighbourWatch) -> FaultReporter:
    """Have the faults of a neighbour watch gathered."""
    made = FaultReporter(lambda _kind, _lines: None)
    watch.report = made.report
    return made


@pytest.fixture
def small() -> Iterator[Map]:
    """A map of next hops that holds two entries."""
    descriptor = bpf.create_map(bpf.MapType.HASH, NEXT_HOP_KEY.size, NEXT_HOP.size, 2, bpf.BPF_F_NO_PREALLOC)
    yield Map(MapName.NEXT_HOPS, descriptor)
    os.close(descriptor)


@pytest.fixture
async def full_map_watch(uplinks, small: Map):
    made = NeighbourWatch(uplinks, small)
    await made.start()
    yield made
    await made.close()


async def test_a_neighbour_that_the_kernel_refuses_holds_up_no_other(topo: Topo, table: Map, watch) -> None:
    """An IPv6 router by an interface that has no IPv6 any more: ndisc_constructor() answers EINVAL."""
    ip("addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    ip("route", "add", "10.99.0.0/16", "via", "inet6", "2001:db8::9", "dev", "eth0")
    ip("link", "set", "eth0", "mtu", "1000")
    reporter = reporting(watch)
    set_peers(watch, peers("10.99.1.1", topo.neighbour))
    await until(lambda: dict([entry(topo.neighbour, mac_of(topo))]) == table.dump())
    await until(lambda: reasons(watch) == {"10.99.1.1": Reason.REFUSED.value})
    await asyncio.wait_for(watch.caught_up(), 20)
    assert [(one.kind, one.subject) for one in reporter.standing()] == [("neighbours_refused", "EINVAL")]
    assert "managed" in ip("neigh", "show", topo.neighbour)
    ip("link", "set", "eth0", "mtu", "1500")
    await until(lambda: reasons(watch).get("10.99.1.1") != Reason.REFUSED.value)
    await until(lambda: reporter.standing() == ())


async def test_a_full_map_keeps_what_fits_and_names_what_does_not(topo: Topo, small: Map, full_map_watch) -> None:
    others = [f"10.77.0.{number}" for number in (10, 11, 12, 13)]
    for address in others:
        ip("addr", "add", f"{address}/24", "dev", "sub0", namespace=topo.underlay)
    mac = mac_of(topo)
    reporter = reporting(full_map_watch)
    set_peers(full_map_watch, peers(*others))
    await until(lambda: len(small.dump()) == 2)
    await until(lambda: list(reasons(full_map_watch).values()) == [Reason.MAP_FULL.value] * 2)
    held = small.dump()
    assert held.items() <= dict(entry(address, mac) for address in others).items()
    assert {packed(address) for address in reasons(full_map_watch)} | {unpack_key(key).droplet for key in held} == {
        packed(address) for address in others
    }
    await until(lambda: [one.detail.split(":")[0] for one in reporter.standing()] == [f"the map is {MAP_FULL_FOR_TWO}"])
    (full,) = reporter.standing()
    assert (full.kind, full.subject) == ("map_full", "next_hops")
    ip("neigh", "flush", "dev", "eth0")
    full_map_watch.rescan()
    await asyncio.wait_for(full_map_watch.caught_up(), 20)
    assert small.dump() == held
    assert reporter.standing() == (full,), "the same fault since the same moment"
    kept = sorted(reasons(full_map_watch))
    set_peers(full_map_watch, peers(*kept))
    full_map_watch.rescan()
    await until(lambda: small.dump() == dict(entry(address, mac) for address in kept))
    await until(lambda: reasons(full_map_watch) == {})
    await until(lambda: reporter.standing() == ())


async def test_what_the_kernel_holds_is_known_after_a_refusal(topo: Topo, small: Map, full_map_watch) -> None:
    """A new Ethernet address goes into the entries that are there, also while the map is full."""
    others = [f"10.77.0.{number}" for number in (10, 11, 12)]
    for address in others:
        ip("addr", "add", f"{address}/24", "dev", "sub0", namespace=topo.underlay)
    set_peers(full_map_watch, peers(*others))
    await until(lambda: len(reasons(full_map_watch)) == 1)
    held = small.dump().keys()
    ip("link", "set", "sub0", "address", "02:00:00:00:00:79", namespace=topo.underlay)
    ip("neigh", "flush", "dev", "eth0")
    await until(lambda: {value[:6].hex() for value in small.dump().values()} == {"020000000079"})
    assert small.dump().keys() == held


async def test_a_removed_address_is_reported(topo: Topo, watch) -> None:
    await watch.caught_up()
    ip("addr", "add", "10.77.0.7/24", "dev", "eth0")
    await until(watch.uplinks_changed.is_set)
    watch.set_uplinks(await uplinks_now("eth0"))
    watch.uplinks_changed.clear()
    ip("addr", "del", "10.77.0.7/24", "dev", "eth0")
    await until(watch.uplinks_changed.is_set)
    watch.set_uplinks(await uplinks_now("eth0"))
    watch.uplinks_changed.clear()
    ip("addr", "add", "fe80::7/64", "dev", "eth0", "nodad")
    ip("addr", "del", "fe80::7/64", "dev", "eth0")
    await heard_all(watch)
    assert not watch.uplinks_changed.is_set()


async def test_an_address_of_another_host_is_reported_and_not_used(topo: Topo, watch) -> None:
    """Until it is known to be another's it counts: most are not, and an agent would flicker at its start."""
    await watch.caught_up()
    run("sysctl", "-qw", "net.ipv6.conf.eth0.dad_transmits=30")  # a second each: the first ones get no reply
    ip("addr", "add", "2001:db8::1/64", "dev", "eth0")
    (found,) = await uplinks_now("eth0")
    assert packed("2001:db8::1") in found.addresses
    await until(watch.uplinks_changed.is_set)
    watch.set_uplinks([found])
    watch.uplinks_changed.clear()
    ip("addr", "add", "2001:db8::1/64", "dev", "sub0", "nodad", namespace=topo.underlay)
    await until(watch.uplinks_changed.is_set)
    assert "dadfailed" in ip("addr", "show", "dev", "eth0")
    (found,) = await uplinks_now("eth0")
    assert found.addresses == (packed(topo.address),)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The droplets that the kernel is asked for the route to, in turn."""
    found: list[bytes] = []
    ask = neighbours.route_by

    async def counted(requests, droplet, uplink, *, only):
        found.append(droplet)
        return await ask(requests, droplet, uplink, only=only)

    monkeypatch.setattr(neighbours, "route_by", counted)
    return found


async def test_a_foreign_route_is_no_reason_to_ask_for_all(topo: Topo, table: Map, watch, asked) -> None:
    set_peers(watch, peers(topo.neighbour, "10.77.0.3", "10.99.1.1"))
    await until(lambda: len(table.dump()) == 1)
    await heard_all(watch)
    asked.clear()
    ip("link", "add", "side", "type", "veth", "peer", "name", "side2")
    ip("link", "set", "side", "up")
    ip("addr", "add", "10.88.0.1/24", "dev", "side")
    ip("route", "add", "203.0.113.0/24", "via", topo.neighbour)
    await heard_all(watch)
    assert asked == []
    ip("route", "add", "10.99.0.0/16", "via", topo.neighbour)
    await until(lambda: len(table.dump()) == 2)
    assert asked == [packed("10.99.1.1")]
    ip("route", "add", "default", "via", topo.neighbour)
    await until(lambda: len(asked) == 4)
    ip("rule", "add", "from", "10.77.0.1", "lookup", "102")
    await until(lambda: len(asked) == 7)


async def test_a_route_that_goes_with_its_link_is_followed(topo: Topo, table: Map, watch) -> None:
    """The kernel tells of no IPv4 route that goes because its link went down (fib_sync_down_dev)."""
    ip("link", "add", "side", "type", "veth", "peer", "name", "side2")
    ip("addr", "add", "10.88.0.1/24", "dev", "side")
    ip("link", "set", "side2", "up")
    ip("link", "set", "side", "up")
    ip("route", "add", "10.99.0.0/16", "via", "10.88.0.2")
    set_peers(watch, peers("10.99.1.1"))
    await until(lambda: reasons(watch) == {"10.99.1.1": Reason.OTHER_INTERFACE.value})
    ip("link", "set", "side", "down")
    await until(lambda: reasons(watch) == {"10.99.1.1": Reason.NO_ROUTE.value})


async def test_a_route_is_looked_up_as_a_packet_of_the_only_uplink_would_be(topo: Topo, table: Map, watch) -> None:
    """A better route by another interface does not concern it, and a rule for its source address does."""
    ip("link", "add", "side", "type", "veth", "peer", "name", "side2")
    ip("addr", "add", "10.88.0.1/24", "dev", "side")
    ip("link", "set", "side2", "up")
    ip("link", "set", "side", "up")
    ip("route", "add", "10.99.0.0/16", "via", topo.neighbour, "metric", "50")
    ip("route", "add", "10.99.0.0/16", "via", "10.88.0.2")
    set_peers(watch, peers("10.99.1.1", "10.98.1.1"))
    await until(lambda: table.dump() == dict([entry("10.99.1.1", mac_of(topo))]))
    assert reasons(watch) == {"10.98.1.1": Reason.NO_ROUTE.value}
    ip("route", "add", "10.98.0.0/16", "via", topo.neighbour, "table", "102")
    ip("rule", "add", "from", topo.address, "lookup", "102")
    await until(lambda: reasons(watch) == {})
