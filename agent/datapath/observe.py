"""Reads back what the kernel holds, whole: the uplinks, the endpoints' pairs, the configured maps.

Changes nothing. What could not be read is an ObservationError, never a smaller answer; but of one tenant's namespace,
which no other tenant's observation may hang on, it is a peer that is not known.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import structlog

from agent.core.comparison import Suspects
from agent.core.layout import CONFIGURED_MAPS, MapName
from agent.core.observed import Observed, ObservedPeer, ObservedVeth
from agent.core.once import Once
from agent.core.realize import host_ifname
from agent.datapath.attach_modes import fits
from agent.datapath.endpoint_side import IFF_UP, EndpointSide
from agent.datapath.links import find_peer, is_unfinished, marked_endpoint
from agent.datapath.maps import Map
from agent.datapath.namespaces import opened_namespace
from agent.datapath.netlink import Message, Netlink, attribute
from agent.datapath.threads import in_thread
from agent.datapath.uplinks import read_uplinks
from agent.datapath.xdp import AttachMode, attached_program

_NOT_THERE = frozenset(
    (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.ESRCH, errno.ENOTDIR, errno.EACCES, errno.EPERM)
)
"""Why a namespace cannot be entered: it is not there. Any other error leaves the peer unknown."""

log = structlog.get_logger()


class ObservationError(Exception):
    """The kernel could not be read completely; nothing may be concluded from what was seen."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What to observe: the uplinks' names, the instance, its open maps and the ids of its current programs."""

    interfaces: tuple[str, ...]
    instance: str
    maps: Mapping[MapName, Map]
    transit_xdp: Callable[[], Collection[int]]
    transit_agent: int
    agent_mode: Callable[[], AttachMode] = lambda: AttachMode.AUTO
    """How the transit agent is to run."""
    unknown: Once = field(default_factory=Once)
    """The endpoints' peers that could not be read when this was looked at last, by endpoint."""
    unfinished: Once = field(default_factory=Once)
    """The unfinished pairs that were left alone, by interface."""


async def observe(netlink: Netlink, subject: Subject, namespaces: Mapping[str, str]) -> Observed:
    """Look at everything once.

    `namespaces` tells where each endpoint's peer belongs: it is looked for there and nowhere else, so that a pair
    whose peer is elsewhere shows `peer=None`. An unfinished pair is ours when it has the name of an endpoint among
    them; others are left out, as they may be another instance's. Raises ObservationError.
    """
    with _reading():
        uplinks = await read_uplinks(netlink, subject.interfaces, subject.transit_xdp())
        veths = await _veths(netlink, subject, namespaces)
        maps = await in_thread(_dump_maps, subject.maps)
        return Observed(uplinks=uplinks, veths=veths, maps=maps)


async def look_up(netlink: Netlink, subject: Subject, namespaces: Mapping[str, str], suspects: Suspects) -> Observed:
    """Look at the uplinks, some entries and some endpoints' pairs only; otherwise as `observe`."""
    with _reading():
        uplinks = await read_uplinks(netlink, subject.interfaces, subject.transit_xdp())
        veths = await _veths(netlink, subject, namespaces, suspects.endpoints) if suspects.endpoints else {}
        maps = await in_thread(_find, subject.maps, suspects.keys)
        return Observed(uplinks=uplinks, veths=veths, maps=maps)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ObservationError(f"the kernel could not be read: {error}") from error


def _dump_maps(maps: Mapping[MapName, Map]) -> dict[MapName, dict[bytes, bytes]]:
    return {name: maps[name].dump() for name in CONFIGURED_MAPS}


def _find(maps: Mapping[MapName, Map], keys: Mapping[MapName, Collection[bytes]]) -> dict[MapName, dict[bytes, bytes]]:
    return {name: maps[name].find(keys[name]) for name in CONFIGURED_MAPS if name in keys}


async def _veths(
    netlink: Netlink, subject: Subject, namespaces: Mapping[str, str], only: Collection[str] | None = None
) -> dict[str, ObservedVeth]:
    by_name = {host_ifname(subject.instance, endpoint): endpoint for endpoint in namespaces}
    veths: dict[str, ObservedVeth] = {}
    for link in await netlink.links():
        name = str(attribute(link, "IFLA_IFNAME"))
        endpoint = marked_endpoint(link, subject.instance)
        complete = endpoint is not None
        if endpoint is None and is_unfinished(link):
            endpoint = by_name.get(name)
            if endpoint is None and subject.unfinished.begins(name, name):
                log.info("unfinished_veth_left_alone", interface=name)
        if endpoint is not None and (only is None or endpoint in only):
            seen = _veth(link, endpoint, complete, subject)
            veths[endpoint] = await _with_peer(netlink, link, seen, namespaces.get(endpoint), subject.unknown)
    return veths


def _veth(link: Message, endpoint: str, complete: bool, subject: Subject) -> ObservedVeth:
    attached = attached_program(link)
    current = attached is not None and attached.program_id == subject.transit_agent
    return ObservedVeth(
        endpoint=endpoint,
        ifname=str(attribute(link, "IFLA_IFNAME")),
        ifindex=int(link["index"]),
        complete=complete,
        up=bool(link["flags"] & IFF_UP),
        mtu=int(attribute(link, "IFLA_MTU")),
        transit_agent=attached is not None and current and fits(attached.mode, subject.agent_mode()),
        peer=None,
    )


async def _with_peer(
    netlink: Netlink, host: Message, seen: ObservedVeth, namespace: str | None, unknown: Once
) -> ObservedVeth:
    """Add the other side of a pair, read where it belongs: None when it or the namespace is not there."""
    if namespace is None:
        return seen
    try:
        peer = await _peer(netlink, host, namespace)
        unknown.ends(seen.endpoint)
        return replace(seen, peer=peer)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return seen
        reason = str(error)
    except Exception as error:  # what a tenant's namespace shows is the tenant's making, whatever it does to a decoder
        reason = f"{type(error).__name__}: {error}"
    if unknown.begins(seen.endpoint, reason):
        log.warning("peer_unknown", endpoint=seen.endpoint, namespace=namespace, reason=reason)
    return replace(seen, peer_known=False)


async def _peer(netlink: Netlink, host: Message, namespace: str) -> ObservedPeer | None:
    with opened_namespace(namespace) as descriptor:
        async with EndpointSide(descriptor) as inside:
            peer = await find_peer(netlink, host, descriptor, inside)
            return None if peer is None else await inside.read(peer)
