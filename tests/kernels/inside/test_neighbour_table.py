"""A neighbour table that is really full: it is shared by the whole machine, so the test needs a machine of its own.

What does not fit is named, what fits is reached, and the agent goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agent.core.nexthop.next_hops import Peer, Reason
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.bpf.maps import Map
from agent.datapath.net.netlink import Netlink
from agent.datapath.nexthop.neighbours import NeighbourWatch
from agent.telemetry.fault_reporter import FaultReporter
from tests.kernels.inside.wires import ip, namespaces, run

THERE = "full-there"
LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
FEW, MANY = 20, 40
PATIENCE = 240


@pytest.fixture
def underlay() -> Iterator[None]:
    """An interface of the first namespace, and forty droplets behind it."""
    limit = LIMIT.read_text()
    with namespaces(THERE):
        run("ip", "link", "add", "name", "full0", "type", "veth", "peer", "name", "full1", "netns", THERE)
        run("ip", "address", "add", "172.19.0.1/24", "dev", "full0")
        run("ip", "link", "set", "full0", "up")
        ip(THERE, *(f"address add 172.19.0.{100 + number}/24 dev full1" for number in range(MANY)), "link set full1 up")
        # The other side uses the same table: it answers only the neighbours that fit into it.
        mac = Path("/sys/class/net/full0/address").read_text().strip()
        ip(THERE, f"neighbour add 172.19.0.1 lladdr {mac} dev full1 nud permanent")
        try:
            yield
        finally:
            LIMIT.write_text(limit)
            run("ip", "link", "delete", "full0")


def allow(neighbours: int) -> None:
    """Set how many neighbours there may be."""
    LIMIT.write_text(str(neighbours))


async def reached(watch: NeighbourWatch, table: Map, wanted: int) -> int:
    """Wait until so many droplets are reached and the others have a reason that lasts; return how many are reached."""
    for _ in range(PATIENCE * 10):
        known, waiting = len(table.dump()), [one for one in watch.unresolved() if one.reason == Reason.RESOLVING.value]
        if known >= wanted and not waiting:
            return known
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(table.dump())} are reached; {watch.unresolved()}")


async def test_a_full_neighbour_table_is_reported_and_delays_no_other_next_hop(underlay: None, table: Map) -> None:
    allow(FEW)
    async with Netlink() as netlink:
        watch = NeighbourWatch(await read_uplinks(netlink, ["full0"]), table)
    droplets = {bytes([172, 19, 0, 100 + number]): Peer() for number in range(MANY)}
    reporter = FaultReporter(lambda _kind, _lines: None)
    watch.report = reporter.report
    with structlog.testing.capture_logs() as logged:
        await watch.start()
        try:
            watch.set_peers(droplets, {(watch._uplinks[0].ifindex, 4): 0})
            known = await reached(watch, table, 1)
            assert known <= FEW
            assert {one.reason for one in watch.unresolved()} == {Reason.TABLE_FULL.value}
            assert len(watch.unresolved()) == MANY - known
            assert [(one.kind, one.subject) for one in reporter.standing()] == [("neighbours_refused", "ENOBUFS")]
            allow(1024)
            watch.rescan()
            assert await reached(watch, table, MANY) == MANY
            assert watch.unresolved() == []
        finally:
            await watch.close()
    events = [one["event"] for one in logged]
    assert not {"neighbour_watch_failed", "neighbour_events_lost", "no_managed_neighbours"}.intersection(events)
