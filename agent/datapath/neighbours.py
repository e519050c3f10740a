"""Keeps the map `next_hops` true: what leads to each droplet by each uplink, as the kernel resolves it.

The kernel does the resolving: each next hop becomes a *managed* neighbour (NTF_EXT_MANAGED, Linux 5.16), which it
resolves at once and keeps fresh by itself; an older kernel is asked again at every look (NTF_USE). Netlink events
carry every change into the map. When events are lost (ENOBUFS), or now and then in any case, everything is read anew.
Nothing is written or removed before the peers have been told for the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog
from pyroute2 import AsyncIPRoute

from agent.core.layout import unmapped
from agent.core.next_hops import (
    NO_MAC,
    Failures,
    Hop,
    Neighbour,
    Peer,
    Reason,
    Route,
    Senders,
    Way,
    changes,
    desired_next_hops,
    next_hops_to_resolve,
    way_of,
    ways_to,
)
from agent.core.uplinks import Uplink
from agent.datapath.namespaces import open_netlink_socket
from agent.datapath.netlink import Message, Netlink, attribute
from agent.datapath.routes import route_to

NTF_USE = 1
NTF_EXT_MANAGED = 1
NUD_NONE = 0
PROTOCOL = 0xD7
"""NDA_PROTOCOL of the neighbours that we ask for: our mark on them, free in rtnetlink.h's RTPROT numbers."""
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
_GONE = (errno.ENOENT, errno.ENODEV)

log = structlog.get_logger()


class Table(Protocol):
    """The map `next_hops`: keys as `layout.NEXT_HOP_KEY` packs them, values as `layout.NEXT_HOP`."""

    def dump(self) -> dict[bytes, bytes]:
        """Return all entries."""
        ...

    def write(self, put: Mapping[bytes, bytes], delete: Iterable[bytes]) -> None:
        """Put and delete entries; OSError when the kernel refuses one."""
        ...


class Unresolved(NamedTuple):
    """A droplet that packets cannot be sent to now: its address as text, and why."""

    address: str
    reason: str


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _neighbour(message: Message) -> tuple[Hop, Neighbour] | None:
    address = attribute(message, "NDA_DST")
    if address is None:
        return None
    mac = attribute(message, "NDA_LLADDR")
    hop = Hop(ipaddress.ip_address(address).packed, int(message["ifindex"]))
    return hop, Neighbour(int(message["state"]), bytes.fromhex(mac.replace(":", "")) if mac else NO_MAC)


def _managed_by_us(message: Message) -> Hop | None:
    """Return a neighbour that carries our mark and that the kernel keeps resolved for us."""
    managed = (attribute(message, "NDA_FLAGS_EXT") or 0) & NTF_EXT_MANAGED
    address = attribute(message, "NDA_DST")
    if not managed or attribute(message, "NDA_PROTOCOL") != PROTOCOL or address is None:
        return None
    return Hop(ipaddress.ip_address(address).packed, int(message["ifindex"]))


async def release_all(netlink: Netlink, ifindex: int) -> None:
    """Remove the neighbours that carry our mark: for taking the agent off a host."""
    for message in await netlink.dump("neigh", "dump", ifindex=ifindex):
        hop = _managed_by_us(message)
        if hop is not None:
            with contextlib.suppress(FileNotFoundError):
                await netlink.request("neigh", "del", dst=_text(hop.address), ifindex=ifindex)


class NeighbourWatch:
    """Follows the neighbours of this host's uplinks and writes the map; one background task, supervised."""

    def __init__(self, uplinks: Sequence[Uplink], table: Table) -> None:
        self.uplinks_changed = asyncio.Event()
        """Set when the kernel told that an uplink is not any more what it was said to be; whoever waits clears it."""
        self._uplinks = tuple(uplinks)
        self._table = table
        self._peers: dict[bytes, Peer] | None = None
        self._senders: Senders = {}
        self._current: dict[bytes, bytes] = {}
        self._routes: dict[Way, Route] = {}
        self._looked_up: set[Way] = set()
        self._neighbours: dict[Hop, Neighbour] = {}
        self._failures = Failures()
        self._kept: set[Hop] = set()
        self._unresolved: dict[bytes, Reason] = {}
        self._cut_off: frozenset[bytes] = frozenset()
        self._managed = True
        self._stale = False
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
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

    def set_peers(self, peers: Mapping[bytes, Peer], senders: Senders) -> None:
        """Tell all droplets that packets are sent to, by packed address of 4 or 16 bytes, and in whose name.

        One that nothing leads to yet is unresolved from this moment on.
        """
        told = {unmapped(address): peer for address, peer in peers.items()}
        if told == self._peers and senders == self._senders:
            return
        self._peers, self._senders = told, senders
        reached = {way_of(key).droplet for key in self._current}
        known = self._unresolved
        self._unresolved = {one: known.get(one, Reason.ASKED) for one in told if one not in reached}
        self._wake()

    def set_uplinks(self, uplinks: Sequence[Uplink]) -> None:
        """Tell what the uplinks are now: other interfaces, addresses or MTUs."""
        if tuple(uplinks) != self._uplinks:
            self._uplinks = tuple(uplinks)
            self.look_again()

    def look_again(self) -> None:
        """Have everything read anew soon: somebody else may have changed the map, which no event tells."""
        self._stale = True
        self._wake()

    def unresolved(self) -> list[Unresolved]:
        """Return the droplets that packets cannot be sent to, by address."""
        return [Unresolved(_text(address), why.value) for address, why in sorted(self._unresolved.items())]

    def cut_off(self) -> frozenset[bytes]:
        """Return the droplets (packed, 4 or 16 bytes) that were asked for and to which nothing leads."""
        return self._cut_off

    async def settled(self) -> None:
        """Wait until everything told and heard so far is in the map."""
        await self._settled.wait()

    def _wake(self) -> None:
        self._settled.clear()
        self._dirty.set()

    async def _supervise(self) -> None:
        while True:
            try:
                await self._follow()
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    log.info("neighbour_events_lost")
                    continue
                log.warning("neighbour_watch_failed", error=str(error))
            except Exception:
                log.exception("neighbour_watch_failed")
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        """Follow events with one pair of sockets, until one of them fails."""
        events = AsyncIPRoute(use_socket=open_netlink_socket())
        reader: asyncio.Task[None] | None = None
        try:
            async with Netlink() as requests:
                await events.bind(groups=EVENT_GROUPS)
                reader = asyncio.create_task(self._read_events(events), name="neighbour-events")
                while True:
                    await self._look_anew(requests)
                    await self._follow_until_next_look(requests, reader)
        finally:
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            events.close()

    async def _follow_until_next_look(self, requests: Netlink, reader: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + (FULL_LOOK_SECONDS if self._managed else UNMANAGED_LOOK_SECONDS)
        while True:
            self._dirty.clear()
            await self._write(requests)
            if not self._dirty.is_set():
                self._settled.set()
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
        while True:
            async for message in events.get():
                self._take(message)

    def _take(self, message: Message) -> None:
        event = message.get("event")
        if event in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
            self._take_neighbour(message, new=event == "RTM_NEWNEIGH")
        elif event in ("RTM_NEWROUTE", "RTM_DELROUTE", "RTM_NEWRULE", "RTM_DELRULE"):
            self._looked_up.clear()
            self._wake()
        elif event in ("RTM_NEWLINK", "RTM_DELLINK"):
            self._take_link(message, new=event == "RTM_NEWLINK")
        elif event == "RTM_NEWADDR" and self._is_new_address(message):
            self.uplinks_changed.set()

    def _take_neighbour(self, message: Message, *, new: bool) -> None:
        found = _neighbour(message) if self._is_ours(message["ifindex"]) else None
        if found is None:
            return
        hop, neighbour = found
        self._failures.heard(hop, neighbour if new else None)
        if new:
            self._neighbours[hop] = neighbour
        else:
            self._neighbours.pop(hop, None)
            self._kept.discard(hop)
        self._wake()

    def _take_link(self, message: Message, *, new: bool) -> None:
        name, index = attribute(message, "IFLA_IFNAME"), int(message["index"])
        if self._is_ours(index):
            self._looked_up.clear()
            self._kept = {hop for hop in self._kept if hop.ifindex != index}
            self._wake()
        for uplink in self._uplinks:
            if name == uplink.name and new and not _is_same(uplink, message):
                self.uplinks_changed.set()

    def _is_ours(self, ifindex: int) -> bool:
        return any(uplink.ifindex == ifindex for uplink in self._uplinks)

    def _is_new_address(self, message: Message) -> bool:
        text = attribute(message, "IFA_LOCAL") or attribute(message, "IFA_ADDRESS")
        address = ipaddress.ip_address(text)
        ours = [uplink for uplink in self._uplinks if uplink.ifindex == message["index"]]
        return not address.is_link_local and any(address.packed not in uplink.addresses for uplink in ours)

    async def _look_anew(self, requests: Netlink) -> None:
        self._stale = False
        messages = [one for one in await requests.dump("neigh", "dump") if self._is_ours(one["ifindex"])]
        found = (_neighbour(message) for message in messages)
        self._neighbours = dict(one for one in found if one is not None)
        self._looked_up.clear()
        self._kept = {hop for hop in map(_managed_by_us, messages) if hop is not None}
        self._current = self._table.dump()

    async def _write(self, requests: Netlink) -> None:
        """Bring routes, managed neighbours and the map up to date with what is known."""
        peers, senders, uplinks = self._peers, self._senders, self._uplinks
        if peers is None:
            return
        await self._look_up_routes(requests, peers, uplinks)
        await self._keep_resolved(requests)
        if peers is not self._peers or uplinks is not self._uplinks:
            return  # told anew meanwhile, and woken for it
        neighbours, doubtful = self._failures.look(self._neighbours)
        if doubtful:
            self._wake()
        desired, unresolved = desired_next_hops(peers, uplinks, senders, self._routes, neighbours, self._current)
        change = changes(self._current, desired)
        if change.put or change.delete:
            self._table.write(change.put, change.delete)
            self._current = desired
            log.debug("next_hops_changed", put=len(change.put), deleted=len(change.delete))
        self._unresolved = unresolved
        cut_off = frozenset(droplet for droplet, reason in unresolved.items() if reason is not Reason.ASKED)
        if cut_off != self._cut_off:
            self._cut_off = cut_off

    async def _look_up_routes(
        self, requests: Netlink, peers: Mapping[bytes, Peer], uplinks: tuple[Uplink, ...]
    ) -> None:
        candidates = {droplet: list(ways_to(droplet, uplinks)) for droplet in peers}
        wanted = {way for ways in candidates.values() for way, _ in ways}
        for gone in self._routes.keys() - wanted:
            del self._routes[gone]
        self._looked_up &= wanted
        for droplet in sorted(candidates):
            ways = candidates[droplet]
            for way, uplink in ways:
                if way not in self._looked_up:
                    self._looked_up.add(way)
                    self._keep_route(way, await route_to(requests, droplet, uplink if len(ways) > 1 else None))

    def _keep_route(self, way: Way, route: Route | None) -> None:
        if route is None:
            self._routes.pop(way, None)
        else:
            self._routes[way] = route

    async def _keep_resolved(self, requests: Netlink) -> None:
        wanted = next_hops_to_resolve(self._routes, self._neighbours)
        for hop in sorted(wanted - self._kept):
            await self._ask(requests, hop)
            self._kept.add(hop)
        for hop in sorted(self._kept - wanted):
            self._kept.discard(hop)
            await self._release(requests, hop)

    async def _ask(self, requests: Netlink, hop: Hop) -> None:
        options = _neighbour_options(hop)
        if self._managed:
            try:
                await requests.request("neigh", "replace", flags_ext=NTF_EXT_MANAGED, **options)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                log.warning("no_managed_neighbours", detail="this kernel is asked again every few seconds")
                self._managed = False
            else:
                return
        await requests.request("neigh", "replace", **options)

    async def _release(self, requests: Netlink, hop: Hop) -> None:
        if not self._managed or (hop in self._neighbours and self._neighbours[hop].configured):
            return
        try:
            await requests.request("neigh", "change", **_neighbour_options(hop))
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _neighbour_options(hop: Hop) -> dict[str, object]:
    options = {"dst": _text(hop.address), "ifindex": hop.ifindex, "state": NUD_NONE, "flags": NTF_USE}
    return options | {"protocol": PROTOCOL}


def _is_same(uplink: Uplink, message: Message) -> bool:
    mac = bytes.fromhex(str(attribute(message, "IFLA_ADDRESS") or "").replace(":", ""))
    return (uplink.ifindex, uplink.mac, uplink.mtu) == (message["index"], mac, attribute(message, "IFLA_MTU"))
