"""Maintains the map `next_hops`: the next hop to each droplet by each uplink, as the kernel resolves it.

The kernel does the resolving: each next hop becomes a *managed* neighbour (NTF_EXT_MANAGED, Linux 5.16), which it
resolves at once and keeps fresh by itself; an older kernel is asked again at every look (NTF_USE). Netlink events
carry every change into the map. When events are lost (ENOBUFS), and periodically in any case, everything is read again.
Nothing is written or removed before `set_peers` was first called. A neighbour or map entry that the kernel refuses
does not hold up others: the refusal is reported, and retried when everything is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog
from pyroute2 import AsyncIPRoute

from agent.core.faults.tracker import ReportFaults
from agent.core.model.map_layout import unmapped
from agent.core.model.uplinks import Uplink
from agent.core.nexthop import next_hop_faults
from agent.core.nexthop.next_hops import (
    NO_MAC,
    FailedNeighbours,
    Hop,
    Neighbour,
    Peer,
    Reason,
    Senders,
    after,
    changes,
    desired_next_hops,
    next_hops_to_resolve,
    still_silent,
    still_unreachable,
    unpack_key,
)
from agent.core.nexthop.route_cache import RouteCache
from agent.core.probe.next_hop_checks import solicitations
from agent.core.probe.paths import Path
from agent.datapath.attach.uplinks import differs
from agent.datapath.bpf.maps import Refused
from agent.datapath.net.namespaces import open_netlink_socket
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.datapath.nexthop.managed_neighbours import ManagedNeighbours
from agent.datapath.nexthop.routes import prefix_of, route_by
from agent.datapath.nexthop.solicitation import NeighbourSolicitor
from protocol.addresses import format_address

RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x4, 0x10, 0x40
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x100, 0x400
RTMGRP_IPV4_RULE, RTMGRP_IPV6_RULE = 0x80, 0x40000
EVENT_GROUPS = (
    (RTMGRP_LINK | RTMGRP_NEIGH)
    | (RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV4_IFADDR)
    | (RTMGRP_IPV6_ROUTE | RTMGRP_IPV6_RULE | RTMGRP_IPV6_IFADDR)
)
FULL_LOOK_SECONDS = 30.0
UNMANAGED_LOOK_SECONDS = 5.0
BURST_SECONDS = 0.02
RETRY_SECONDS = 1.0
_MAP_FULL = (errno.E2BIG, errno.ENOMEM)

log = structlog.get_logger()


class Table(Protocol):
    """The map `next_hops`: keys as `layout.NEXT_HOP_KEY` packs them, values as `layout.NEXT_HOP`."""

    def dump(self) -> dict[bytes, bytes]:
        """Return all entries."""
        ...

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> list[Refused]:
        """Put entries; return the keys that the kernel refused."""
        ...

    def delete(self, keys: Sequence[bytes]) -> list[Refused]:
        """Delete entries; return the keys that the kernel refused."""
        ...


class _EventsLostError(Exception):
    """The event socket overflowed."""


class Unresolved(NamedTuple):
    """A droplet that packets cannot be sent to now: its address as text, and why."""

    address: str
    reason: str


def _neighbour(message: Message) -> tuple[Hop, Neighbour] | None:
    address = attribute(message, "NDA_DST")
    if address is None:
        return None
    mac = attribute(message, "NDA_LLADDR")
    hop = Hop(ipaddress.ip_address(address).packed, int(message["ifindex"]))
    return hop, Neighbour(int(message["state"]), bytes.fromhex(mac.replace(":", "")) if mac else NO_MAC)


class NeighbourWatch:
    """Follows the neighbours of this host's uplinks and writes the map; one background task, supervised."""

    def __init__(self, uplinks: Sequence[Uplink], table: Table) -> None:
        self.uplinks_changed = asyncio.Event()
        """Set when the kernel reported a change of an uplink; the waiter clears it."""
        self.report: ReportFaults = lambda _source, _faults: None
        """Called with the current faults, whenever they may have changed."""
        self._failed = ""
        self._uplinks = tuple(uplinks)
        self._table = table
        self._peers: dict[bytes, Peer] | None = None
        self._senders: Senders = {}
        self._current: dict[bytes, bytes] = {}
        self._routes = RouteCache()
        self._neighbours: dict[Hop, Neighbour] = {}
        self._failures = FailedNeighbours()
        self._managed = ManagedNeighbours()
        self._solicitor = NeighbourSolicitor()
        self._suspect_paths: set[Path] = set()
        self._not_in_map: set[bytes] = set()
        self._unresolved: dict[bytes, Reason] = {}
        self._unreachable: frozenset[bytes] = frozenset()
        self._stale = False
        self._dirty = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name="neighbour-watch")

    async def close(self) -> None:
        """End the task. The map and the kernel's neighbours stay as they are, so that traffic flows on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._solicitor.close()

    def revalidate(self, paths: Collection[Path]) -> None:
        """Resolve the next hops of paths again soon: the kernel's entries may be wrong."""
        self._suspect_paths.update(paths)
        self._wake()

    def set_peers(self, peers: Mapping[bytes, Peer], senders: Senders) -> None:
        """Set all peers, by packed address of 4 or 16 bytes, and the local droplets that send to them.

        One that nothing leads to yet is unresolved from this moment on.
        """
        wanted = {unmapped(address): peer for address, peer in peers.items()}
        if wanted == self._peers and senders == self._senders:
            return
        self._peers, self._senders = wanted, senders
        reached = {unpack_key(key).droplet for key in self._current}
        known = self._unresolved
        self._unresolved = {one: known.get(one, Reason.RESOLVING) for one in wanted if one not in reached}
        self._wake()

    def set_uplinks(self, uplinks: Sequence[Uplink]) -> None:
        """Set the current uplinks, after a change of interfaces, addresses or MTUs."""
        if tuple(uplinks) != self._uplinks:
            self._uplinks = tuple(uplinks)
            self.rescan()

    def rescan(self) -> None:
        """Read everything again soon: another process may have changed the map, which causes no event."""
        self._stale = True
        self._wake()

    def unresolved(self) -> list[Unresolved]:
        """Return the droplets that packets cannot be sent to, by address."""
        return [Unresolved(format_address(address), why.value) for address, why in sorted(self._unresolved.items())]

    def unreachable(self) -> frozenset[bytes]:
        """Return the wanted droplets (packed, 4 or 16 bytes) that are unreachable."""
        return self._unreachable

    async def caught_up(self) -> None:
        """Wait until all calls and events so far are reflected in the map."""
        await self._caught_up.wait()

    def _wake(self) -> None:
        self._caught_up.clear()
        self._dirty.set()

    async def _supervise(self) -> None:
        while True:
            try:
                await self._follow()
            except _EventsLostError:
                log.info("neighbour_events_lost")
                self.uplinks_changed.set()  # perhaps: a lost event may have reported it
                await asyncio.sleep(BURST_SECONDS)
                continue
            except OSError as error:
                self._failed = str(error)
            except Exception as error:
                failed = f"{type(error).__name__}: {error}"
                if failed != self._failed:
                    log.exception("neighbour_watch_failed")
                self._failed = failed
            self._report()
            await asyncio.sleep(RETRY_SECONDS)

    def _report(self) -> None:
        """Report the faults of next hops."""
        faults = [
            *next_hop_faults.map_full(len(self._not_in_map)),
            *next_hop_faults.refused(self._managed.refused),
            *next_hop_faults.not_released(self._managed.not_released),
            *next_hop_faults.not_followed(self._failed),
        ]
        self.report("next_hops", faults)

    async def _follow(self) -> None:
        """Follow events with one pair of sockets, until one of them fails."""
        events = AsyncIPRoute(use_socket=open_netlink_socket())
        reader: asyncio.Task[None] | None = None
        try:
            async with Netlink() as requests:
                await events.bind(groups=EVENT_GROUPS)
                reader = asyncio.create_task(self._read_events(events), name="neighbour-events")
                while True:
                    await self._rescan(requests)
                    await self._follow_until_next_look(requests, reader)
        finally:
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            events.close()

    async def _follow_until_next_look(self, requests: Netlink, reader: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + (FULL_LOOK_SECONDS if self._managed.managed else UNMANAGED_LOOK_SECONDS)
        while True:
            self._dirty.clear()
            await self._write(requests)
            self._failed = ""
            self._report()
            if not self._dirty.is_set():
                self._caught_up.set()
            waiting = asyncio.create_task(self._dirty.wait())
            try:
                await asyncio.wait((waiting, reader), timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if reader.done():
                reader.result()
                raise OSError(errno.ECONNRESET, "the kernel closed the event socket")
            if self._stale or loop.time() >= until:
                return
            await asyncio.sleep(BURST_SECONDS)

    async def _read_events(self, events: AsyncIPRoute) -> None:
        try:
            while True:
                async for message in events.get():
                    self._take(message)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise _EventsLostError from error
            raise

    def _take(self, message: Message) -> None:
        event = message.get("event")
        if event in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
            self._take_neighbour(message, new=event == "RTM_NEWNEIGH")
        elif event in ("RTM_NEWROUTE", "RTM_DELROUTE"):
            self._take_route(message)
        elif event in ("RTM_NEWRULE", "RTM_DELRULE"):
            self._routes.invalidate_all()
            self._wake()
        elif event in ("RTM_NEWLINK", "RTM_DELLINK"):
            self._take_link(message)
        elif event == "RTM_DELADDR" and self._routes.invalidate_interface(int(message["index"])):
            self._wake()  # the kernel reports few of the routes that are removed with an interface's last address
        if differs(self._uplinks, message):
            self.uplinks_changed.set()

    def _take_neighbour(self, message: Message, *, new: bool) -> None:
        found = _neighbour(message) if self._is_ours(message["ifindex"]) else None
        if found is None:
            return
        hop, neighbour = found
        self._failures.update(hop, neighbour if new else None)
        if new:
            self._neighbours[hop] = neighbour
        else:
            self._neighbours.pop(hop, None)
            self._managed.removed(hop)
        self._wake()

    def _take_route(self, message: Message) -> None:
        prefix = prefix_of(message)
        if prefix is not None and self._routes.invalidate_prefix(*prefix):
            self._wake()

    def _take_link(self, message: Message) -> None:
        """Handle a change of a link. The kernel removes IPv4 routes with their link and reports none of them."""
        index = int(message["index"])
        if self._is_ours(index):
            self._routes.invalidate_all()
            self._managed.forget(index)
            self._wake()
        elif self._routes.invalidate_interface(index):
            self._wake()

    def _is_ours(self, ifindex: int) -> bool:
        return any(uplink.ifindex == ifindex for uplink in self._uplinks)

    async def _rescan(self, requests: Netlink) -> None:
        self._stale = False
        messages = [one for one in await requests.dump("neigh", "dump") if self._is_ours(one["ifindex"])]
        found = (_neighbour(message) for message in messages)
        self._neighbours = dict(one for one in found if one is not None)
        self._routes.invalidate_all()
        self._managed.read(messages)
        self._not_in_map.clear()
        self._current = self._table.dump()

    async def _write(self, requests: Netlink) -> None:
        """Bring routes, managed neighbours and the map up to date with what is known."""
        peers, senders, uplinks = self._peers, self._senders, self._uplinks
        if peers is None:
            return
        await self._query_routes(requests, peers, uplinks)
        routes, configured = self._routes.routes, {hop for hop, one in self._neighbours.items() if one.configured}
        await self._managed.update(requests, next_hops_to_resolve(routes, self._neighbours), configured)
        if peers is not self._peers or uplinks is not self._uplinks:
            return  # set again meanwhile, which also wakes this task
        neighbours, doubtful = self._failures.confirmed(self._neighbours)
        if doubtful:
            self._wake()
        current, refused = self._current, self._managed.refused
        desired, unresolved = desired_next_hops(peers, uplinks, senders, routes, neighbours, current, refused)
        self._put(desired)
        unresolved |= {unpack_key(key).droplet: Reason.MAP_FULL for key in self._not_in_map}
        self._unresolved = still_silent(self._unresolved, unresolved)
        self._unreachable = still_unreachable(self._unreachable, unresolved)
        paths, self._suspect_paths = self._suspect_paths, set()
        await self._solicitor.send(requests, solicitations(paths, uplinks, routes, self._neighbours))

    def _put(self, desired: Mapping[bytes, bytes]) -> None:
        """Write the desired entries to the map, as far as they fit; OSError if the kernel refuses otherwise."""
        self._not_in_map &= desired.keys()
        change = changes(self._current, desired).without(self._not_in_map)
        if not change.put and not change.delete:
            return
        refused = self._table.delete(change.delete) + self._table.put(list(change.put.items()))
        self._current = after(self._current, change.without({key for one in refused for key in one.keys}))
        log.debug("next_hops_changed", put=len(change.put), deleted=len(change.delete))
        for one in refused:
            if one.errno not in _MAP_FULL:
                raise OSError(
                    one.errno, f"{os.strerror(one.errno)} for {len(one.keys)} entries of the map of next hops"
                )
            self._not_in_map.update(one.keys)

    async def _query_routes(self, requests: Netlink, peers: Collection[bytes], uplinks: tuple[Uplink, ...]) -> None:
        self._routes.set_wanted(peers, uplinks)
        for hop_key, uplink, only in self._routes.missing():
            self._routes.mark_requested(hop_key)
            self._routes.store(hop_key, await route_by(requests, hop_key.droplet, uplink, only=only))
