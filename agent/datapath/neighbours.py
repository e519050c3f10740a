"""Keeps the map `next_hops` true: the Ethernet address that leads to each droplet, as the kernel resolves it.

The kernel does the resolving: each next hop becomes a *managed* neighbour (NTF_EXT_MANAGED, Linux 5.16), which it
resolves at once and keeps fresh by itself; an older kernel is asked again at every look (NTF_USE). Netlink events
carry every change into the map. When events are lost (ENOBUFS), or now and then in any case, everything is read anew.
Nothing is written or removed before the droplets have been told for the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import structlog
from pyroute2 import AsyncIPRoute

from agent.core.layout import NEXT_HOP, mapped, unmapped
from agent.core.next_hops import (
    NO_MAC,
    Failures,
    Neighbour,
    Reason,
    Route,
    changes,
    desired_next_hops,
    next_hops_to_resolve,
)
from agent.datapath.namespaces import open_netlink_socket
from agent.datapath.netlink import Message, Netlink, attribute

NTF_USE = 1
NTF_EXT_MANAGED = 1
NUD_NONE = 0
PROTOCOL = 0xD7
"""NDA_PROTOCOL of the neighbours that we ask for: our mark on them, free in rtnetlink.h's RTPROT numbers."""
RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x1, 0x4, 0x40, 0x400
EVENT_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
FULL_LOOK_SECONDS = 30.0
UNMANAGED_LOOK_SECONDS = 5.0
BURST_SECONDS = 0.02
RETRY_SECONDS = 1.0
_UNROUTABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EINVAL, errno.EACCES)

log = structlog.get_logger()


class Table(Protocol):
    """The map `next_hops`: keys of 16 bytes, values as `layout.NEXT_HOP` packs them."""

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


def _neighbour(message: Message) -> tuple[bytes, Neighbour] | None:
    address = attribute(message, "NDA_DST")
    if address is None:
        return None
    mac = attribute(message, "NDA_LLADDR")
    packed = ipaddress.ip_address(address).packed
    return packed, Neighbour(int(message["state"]), bytes.fromhex(mac.replace(":", "")) if mac else NO_MAC)


def _managed_by_us(message: Message) -> bytes | None:
    """Return the address of a neighbour that carries our mark and that the kernel keeps resolved for us."""
    managed = (attribute(message, "NDA_FLAGS_EXT") or 0) & NTF_EXT_MANAGED
    address = attribute(message, "NDA_DST")
    if not managed or attribute(message, "NDA_PROTOCOL") != PROTOCOL or address is None:
        return None
    return ipaddress.ip_address(address).packed


async def release_all(netlink: Netlink, ifindex: int) -> None:
    """Remove the neighbours that carry our mark: for taking the agent off a host."""
    for message in await netlink.dump("neigh", "dump", ifindex=ifindex):
        address = _managed_by_us(message)
        if address is not None:
            with contextlib.suppress(FileNotFoundError):
                await netlink.request("neigh", "del", dst=_text(address), ifindex=ifindex)


class NeighbourWatch:
    """Follows the neighbours of one interface and writes the map; one background task, supervised."""

    def __init__(self, ifindex: int, table: Table) -> None:
        self._ifindex = ifindex
        self._table = table
        self._droplets: frozenset[bytes] | None = None
        self._current: dict[bytes, bytes] = {}
        self._routes: dict[bytes, Route] = {}
        self._looked_up: set[bytes] = set()
        self._neighbours: dict[bytes, Neighbour] = {}
        self._failures = Failures()
        self._kept: set[bytes] = set()
        self._unresolved: dict[bytes, Reason] = {}
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

    def set_droplets(self, addresses: Iterable[bytes]) -> None:
        """Tell all droplets that packets are sent to: packed addresses of 4 or 16 bytes."""
        droplets = frozenset(unmapped(address) for address in addresses)
        if droplets != self._droplets:
            self._droplets = droplets
            self._wake()

    def look_again(self) -> None:
        """Have everything read anew soon: somebody else may have changed the map, which no event tells."""
        self._stale = True
        self._wake()

    def unresolved(self) -> list[Unresolved]:
        """Return the droplets that packets cannot be sent to, by address."""
        return [Unresolved(_text(address), why.value) for address, why in sorted(self._unresolved.items())]

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
                    log.info("neighbour_events_lost", interface=self._ifindex)
                    continue
                log.warning("neighbour_watch_failed", interface=self._ifindex, error=str(error))
            except Exception:
                log.exception("neighbour_watch_failed", interface=self._ifindex)
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
            found = _neighbour(message) if message["ifindex"] == self._ifindex else None
            if found is None:
                return
            self._failures.heard(found[0], found[1] if event == "RTM_NEWNEIGH" else None)
            if event == "RTM_NEWNEIGH":
                self._neighbours[found[0]] = found[1]
            else:
                self._neighbours.pop(found[0], None)
                self._kept.discard(found[0])
        elif event in ("RTM_NEWROUTE", "RTM_DELROUTE"):
            self._looked_up.clear()
        elif event in ("RTM_NEWLINK", "RTM_DELLINK") and message["index"] == self._ifindex:
            self._looked_up.clear()
            self._kept.clear()
        else:
            return
        self._wake()

    async def _look_anew(self, requests: Netlink) -> None:
        self._stale = False
        messages = await requests.dump("neigh", "dump", ifindex=self._ifindex)
        found = (_neighbour(message) for message in messages)
        self._neighbours = dict(one for one in found if one is not None)
        self._looked_up.clear()
        self._kept = {hop for hop in map(_managed_by_us, messages) if hop is not None}
        entries = self._table.dump()
        self._current = {unmapped(key): NEXT_HOP.unpack(value)[0] for key, value in entries.items()}

    async def _write(self, requests: Netlink) -> None:
        """Bring routes, managed neighbours and the map up to date with what is known."""
        droplets = self._droplets
        if droplets is None:
            return
        await self._look_up_routes(requests, droplets)
        await self._keep_resolved(requests, droplets)
        neighbours, doubtful = self._failures.look(self._neighbours)
        if doubtful:
            self._wake()
        desired, self._unresolved = desired_next_hops(droplets, self._ifindex, self._routes, neighbours, self._current)
        change = changes(self._current, desired)
        if change.put or change.delete:
            put = {mapped(key): NEXT_HOP.pack(mac) for key, mac in change.put.items()}
            self._table.write(put, [mapped(key) for key in change.delete])
            self._current = desired
            log.debug("next_hops_changed", put=len(change.put), deleted=len(change.delete))

    async def _look_up_routes(self, requests: Netlink, droplets: frozenset[bytes]) -> None:
        for gone in self._routes.keys() - droplets:
            del self._routes[gone]
        self._looked_up &= droplets
        for droplet in sorted(droplets - self._looked_up):
            self._looked_up.add(droplet)
            route = await _route_to(requests, droplet)
            if route is None:
                self._routes.pop(droplet, None)
            else:
                self._routes[droplet] = route

    async def _keep_resolved(self, requests: Netlink, droplets: frozenset[bytes]) -> None:
        wanted = next_hops_to_resolve(droplets, self._ifindex, self._routes, self._neighbours)
        for hop in sorted(wanted - self._kept):
            await self._ask(requests, hop)
            self._kept.add(hop)
        for hop in sorted(self._kept - wanted):
            self._kept.discard(hop)
            await self._release(requests, hop)

    async def _ask(self, requests: Netlink, hop: bytes) -> None:
        options = self._neighbour_options(hop)
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

    async def _release(self, requests: Netlink, hop: bytes) -> None:
        if not self._managed or (hop in self._neighbours and self._neighbours[hop].configured):
            return
        try:
            await requests.request("neigh", "change", **self._neighbour_options(hop))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _neighbour_options(self, hop: bytes) -> dict[str, object]:
        options = {"dst": _text(hop), "ifindex": self._ifindex, "state": NUD_NONE, "flags": NTF_USE}
        return options | {"protocol": PROTOCOL}


async def _route_to(requests: Netlink, droplet: bytes) -> Route | None:
    try:
        answers = await requests.request("route", "get", dst=_text(droplet))
    except OSError as error:
        if error.errno in _UNROUTABLE:
            return None
        raise
    route = next((answer for answer in answers if attribute(answer, "RTA_OIF")), None)
    if route is None:
        return None
    gateway = attribute(route, "RTA_GATEWAY")
    next_hop = ipaddress.ip_address(gateway).packed if gateway else droplet
    return Route(int(attribute(route, "RTA_OIF")), next_hop)
