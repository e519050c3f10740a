"""Reads the complete kernel state: the uplinks, the endpoints' pairs, the configured maps, functions.

Changes nothing. What could not be read is an ObservationError, never a smaller answer; but of one tenant's namespace,
which no other tenant's observation may hang on, it is a peer that is not known.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import structlog
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from agent.core.faults.log_once import LogOnce
from agent.core.kinds import catalogue
from agent.core.model.desired_entries import FunctionPlace
from agent.core.model.endpoint_slots import host_ifname
from agent.core.model.map_layout import MapName
from agent.core.plan.diff import Suspects
from agent.core.plan.observed import ObservationError, Observed, ObservedFunction, ObservedPeer, ObservedVeth
from agent.core.plan.remedies import Step
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.bpf.maps import Map
from agent.datapath.function_port import FunctionPort
from agent.datapath.net.interface_query import InterfaceQuery
from agent.datapath.net.namespaces import open_netlink_socket
from agent.datapath.net.netlink import DUMP_ATTEMPTS, DUMP_PAUSE, Message, Netlink, attribute
from agent.datapath.net.threads import in_thread
from agent.datapath.veth.endpoint_reader import PeerReader
from agent.datapath.veth.pairs import is_unfinished, marked_endpoint
from agent.errors import kernel_step

_NOT_THERE = frozenset(
    (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.ESRCH, errno.ENOTDIR, errno.EACCES, errno.EPERM)
)
"""The errnos that mean that a namespace does not exist. Any other error leaves the peer unknown."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Subject:
    """What to observe: the uplinks' names, the instance, its open maps, and how its programs are recognised."""

    interfaces: tuple[str, ...]
    instance: str
    maps: Mapping[MapName, Map]
    is_attached: Callable[[int], bool]
    """Whether our current program is on a carrier, by ifindex."""
    is_right: Callable[[Message], bool]
    """Whether our current program is on an endpoint's interface as it should be, by the interface's message."""
    functions: FunctionPort | None = None
    """Users' functions, None where they are off."""
    unknown: LogOnce = field(default_factory=LogOnce)
    """The endpoints' peers that could not be read at the last observation, by endpoint."""
    unfinished: LogOnce = field(default_factory=LogOnce)
    """The unfinished pairs that were left alone, by interface."""


async def observe(netlink: Netlink, subject: Subject, namespaces: Mapping[str, str]) -> Observed:
    """Observe everything once.

    `namespaces` tells where each endpoint's peer belongs: it is looked for there and nowhere else, so that a pair
    whose peer is elsewhere shows `peer=None`. An unfinished pair is ours when it has the name of an endpoint among
    them; others are left out, as they may be another instance's. Raises ObservationError.
    """
    with _reading():
        uplinks = await read_uplinks(netlink, subject.interfaces, subject.is_attached)
        veths = await _veths(subject, namespaces)
        maps = await in_thread(_dump_maps, subject.maps)
        return Observed(uplinks=uplinks, veths=veths, maps=maps, functions=await _functions(subject))


async def observe_some(
    netlink: Netlink, subject: Subject, namespaces: Mapping[str, str], suspects: Suspects
) -> Observed:
    """Observe only the uplinks, some entries and some endpoints' pairs; otherwise as `observe`."""
    with _reading():
        uplinks = await read_uplinks(netlink, subject.interfaces, subject.is_attached)
        veths = await _veths(subject, namespaces, suspects.endpoints) if suspects.endpoints else {}
        maps = await in_thread(_find, subject.maps, suspects.keys)
        functions = await _functions(subject, suspects.functions) if suspects.functions else {}
        return Observed(uplinks=uplinks, veths=veths, maps=maps, functions=functions)


async def _functions(
    subject: Subject, only: Collection[FunctionPlace] | None = None
) -> Mapping[FunctionPlace, ObservedFunction]:
    return await subject.functions.observe(only) if subject.functions is not None else {}


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        with kernel_step(Step.READ, "interfaces, addresses and maps"):
            yield
    except OSError as error:
        raise ObservationError(f"the kernel could not be read: {error.strerror}") from error


def _dump_maps(maps: Mapping[MapName, Map]) -> dict[MapName, dict[bytes, bytes]]:
    return {name: maps[name].dump() for name in catalogue.KINDS.maps if name in maps}


def _find(maps: Mapping[MapName, Map], keys: Mapping[MapName, Collection[bytes]]) -> dict[MapName, dict[bytes, bytes]]:
    return {name: maps[name].find(keys[name]) for name in catalogue.KINDS.maps if name in keys and name in maps}


async def _veths(
    subject: Subject, namespaces: Mapping[str, str], only: Collection[str] | None = None
) -> dict[str, ObservedVeth]:
    veths: dict[str, ObservedVeth] = {}
    pairs: dict[str, list[Message]] = {}
    host = InterfaceQuery(open_netlink_socket())
    try:
        for endpoint, link, complete in _ours(await host.links(DUMP_ATTEMPTS, DUMP_PAUSE), subject, namespaces):
            if only is None or endpoint in only:
                veths[endpoint] = _veth(link, endpoint, complete, subject)
                if endpoint in namespaces:
                    pairs.setdefault(namespaces[endpoint], []).append({**link, "endpoint": endpoint})
        async for namespace, link, found in PeerReader(host).read(pairs):
            seen = veths[link["endpoint"]]
            veths[seen.endpoint] = _with_peer(seen, namespace, found, subject.unknown)
    finally:
        host.close()
    return veths


def _ours(
    links: Iterable[Message], subject: Subject, namespaces: Mapping[str, str]
) -> Iterator[tuple[str, Message, bool]]:
    """Yield the endpoint, the host side, and whether its creation was completed, of every pair of ours."""
    by_name = {host_ifname(subject.instance, endpoint): endpoint for endpoint in namespaces}
    for link in links:
        endpoint = marked_endpoint(link, subject.instance)
        if endpoint is not None:
            yield endpoint, link, True
        elif is_unfinished(link):
            name = str(attribute(link, "IFLA_IFNAME"))
            if name in by_name:
                yield by_name[name], link, False
            elif subject.unfinished.is_new(name, name):
                log.info("unfinished_veth_ignored", interface=name)


def _veth(link: Message, endpoint: str, complete: bool, subject: Subject) -> ObservedVeth:
    return ObservedVeth(
        endpoint=endpoint,
        ifname=str(attribute(link, "IFLA_IFNAME")),
        ifindex=int(link["index"]),
        complete=complete,
        up=bool(link["flags"] & IFF_UP),
        mtu=int(attribute(link, "IFLA_MTU")),
        transit_agent=subject.is_right(link),
        peer=None,
    )


def _with_peer(
    seen: ObservedVeth, namespace: str, found: ObservedPeer | Exception | None, unknown: LogOnce
) -> ObservedVeth:
    """Add the other side of a pair, read where it belongs: None when it or the namespace is not there."""
    if not isinstance(found, Exception):
        unknown.clear(seen.endpoint)
        return replace(seen, peer=found)
    if isinstance(found, OSError) and found.errno in _NOT_THERE:
        return seen
    reason = str(found) if isinstance(found, OSError) else f"{type(found).__name__}: {found}"
    if unknown.is_new(seen.endpoint, reason):
        log.warning("peer_unreadable", endpoint=seen.endpoint, namespace=namespace, reason=reason)
    return replace(seen, peer_known=False)
