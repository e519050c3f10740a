"""Reads back what the kernel holds, whole: the droplet's interface, the endpoints' pairs, the configured maps.

Changes nothing. What could not be read is an ObservationError, never a smaller answer.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.layout import CONFIGURED_MAPS, MapName
from agent.core.observed import Observed, ObservedInterface, ObservedPeer, ObservedVeth
from agent.core.realize import host_ifname
from agent.datapath.endpoint_side import IFF_UP, EndpointSide
from agent.datapath.links import find_peer, is_unfinished, marked_endpoint
from agent.datapath.maps import Map
from agent.datapath.namespaces import opened_namespace
from agent.datapath.netlink import Message, Netlink, attribute
from agent.datapath.xdp import attached_program


class ObservationError(Exception):
    """The kernel could not be read completely; nothing may be concluded from what was seen."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What to observe: the interface's name, the instance, its open maps and the ids of its current programs."""

    interface: str
    instance: str
    maps: Mapping[MapName, Map]
    transit_xdp: int
    transit_agent: int


async def observe(netlink: Netlink, subject: Subject, namespaces: Mapping[str, str]) -> Observed:
    """Look at everything once.

    `namespaces` tells where each endpoint's peer belongs: it is looked for there and nowhere else, so that a pair
    whose peer is elsewhere shows `peer=None`. Unfinished pairs stand under their endpoint's id when it is among them,
    else under their own name. Raises ObservationError.
    """
    try:
        interface = await _interface(netlink, subject)
        veths = await _veths(netlink, subject, namespaces)
        maps = await asyncio.to_thread(_dump_maps, subject.maps)
    except OSError as error:
        raise ObservationError(f"the kernel could not be read: {error}") from error
    return Observed(interface=interface, veths=veths, maps=maps)


def _dump_maps(maps: Mapping[MapName, Map]) -> dict[MapName, dict[bytes, bytes]]:
    return {name: maps[name].dump() for name in CONFIGURED_MAPS}


async def _interface(netlink: Netlink, subject: Subject) -> ObservedInterface:
    link = await netlink.link(ifname=subject.interface)
    if link is None:
        raise OSError(errno.ENODEV, "no such interface", subject.interface)
    return await read_interface(netlink, link, subject.transit_xdp)


async def read_interface(netlink: Netlink, link: Message, transit_xdp: int) -> ObservedInterface:
    """Return what a link's message and its addresses say of the droplet's interface."""
    index = int(link["index"])
    attached = attached_program(link)
    addresses = await netlink.dump("get_addr", index=index)
    texts = [attribute(one, "IFA_LOCAL") or attribute(one, "IFA_ADDRESS") for one in addresses]
    parsed = [ipaddress.ip_address(text) for text in texts]
    return ObservedInterface(
        name=str(attribute(link, "IFLA_IFNAME")),
        ifindex=index,
        mac=bytes.fromhex(str(attribute(link, "IFLA_ADDRESS")).replace(":", "")),
        mtu=int(attribute(link, "IFLA_MTU")),
        addresses=tuple(address.packed for address in parsed if not address.is_link_local),
        transit=attached is not None and attached.program_id == transit_xdp,
    )


async def _veths(netlink: Netlink, subject: Subject, namespaces: Mapping[str, str]) -> dict[str, ObservedVeth]:
    by_name = {host_ifname(subject.instance, endpoint): endpoint for endpoint in namespaces}
    veths: dict[str, ObservedVeth] = {}
    for link in await netlink.links():
        name = str(attribute(link, "IFLA_IFNAME"))
        endpoint = marked_endpoint(link, subject.instance)
        complete = endpoint is not None
        if endpoint is None:
            if not is_unfinished(link):
                continue
            endpoint = by_name.get(name, name)
        peer = await _peer(netlink, link, namespaces.get(endpoint))
        veths[endpoint] = _veth(link, endpoint, complete, subject.transit_agent, peer)
    return veths


def _veth(link: Message, endpoint: str, complete: bool, transit_agent: int, peer: ObservedPeer | None) -> ObservedVeth:
    attached = attached_program(link)
    return ObservedVeth(
        endpoint=endpoint,
        ifname=str(attribute(link, "IFLA_IFNAME")),
        ifindex=int(link["index"]),
        complete=complete,
        up=bool(link["flags"] & IFF_UP),
        mtu=int(attribute(link, "IFLA_MTU")),
        transit_agent=attached is not None and attached.program_id == transit_agent,
        peer=peer,
    )


async def _peer(netlink: Netlink, host: Message, namespace: str | None) -> ObservedPeer | None:
    """Read the other side of a pair where it belongs, None when it or the namespace is not there."""
    if namespace is None:
        return None
    try:
        with opened_namespace(namespace) as descriptor:
            async with EndpointSide(descriptor) as inside:
                peer = await find_peer(netlink, host, descriptor, inside)
                return None if peer is None else await inside.read(peer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.ESRCH, errno.ENOTDIR, errno.EACCES):
            return None
        raise
