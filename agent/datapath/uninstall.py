"""Removes one instance from a host: afterwards the kernel holds nothing of it but empty clsact qdiscs on uplinks.

Those may be another owner's, who adds filters to them later.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import structlog

from agent.datapath.attach.tc import TcIngress
from agent.datapath.attach.tunnel_gro import remove_devices
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.attach.xdp import ProgramOwnership, attached_program, detach
from agent.datapath.attached_programs import is_ours
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.pins import Pins
from agent.datapath.foreign_programs import foreign_programs
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.datapath.nexthop.managed_neighbours import release_all
from agent.datapath.processes.pair import own_pairs, remove_pair
from agent.datapath.veth.pairs import is_unfinished, marked_endpoint

log = structlog.get_logger()


class Removed(NamedTuple):
    """What was removed: endpoints' interfaces, whether transit XDP was attached, pins, and devices for GRO."""

    interfaces: int
    transit: bool
    pins: int
    gro_devices: int = 0


async def remove(config: KernelConfig, tell: Callable[[str], None]) -> Removed:
    """Remove everything of this instance from the host: its programs, interfaces, neighbours and pins.

    Needs neither compiler nor agent; what is not there is no error, what is another's stays. So does a pair whose
    making was cut short before it was marked: it may be another instance's. `tell` gets a line for each program of
    another owner on an uplink, which stays, and on an interface of an endpoint, before it is removed.
    """
    pins = config.pins
    async with Netlink() as netlink:
        links = await netlink.links()
        interfaces = await _delete_endpoints(netlink, links, config, tell)
        for near in own_pairs(links, config.instance):
            await remove_pair(netlink, near)
        gro_devices = await remove_devices(netlink, links, config.instance)
        carriers = {index for name in config.interfaces for index in await _leave(netlink, name, pins, tell)}
        transit = False
        for link in links:
            if marked_endpoint(link, config.instance) is None:
                owned = partial(is_ours, pins=pins, unmarked=link["index"] in carriers)
                transit |= await _detach(netlink, link, owned)
    count = sum(1 for path in pins.root.rglob("*") if path.is_file()) if pins.root.exists() else 0
    pins.remove()
    return Removed(interfaces, transit, count, gro_devices)


async def _delete_endpoints(
    netlink: Netlink, links: Iterable[Message], config: KernelConfig, tell: Callable[[str], None]
) -> int:
    """Delete the interfaces of endpoints, which detaches all programs on them; return how many there were."""
    count = 0
    for link in links:
        if marked_endpoint(link, config.instance) is not None:
            for found in await foreign_programs(netlink, link, config.pins):
                tell(f"{found}: it is detached now, because the interface is removed")
            count += await _delete(netlink, int(link["index"]))
        elif is_unfinished(link):
            log.warning("unfinished_veth_ignored", interface=attribute(link, "IFLA_IFNAME"))
    return count


async def _delete(netlink: Netlink, index: int) -> bool:
    """Delete a link; return whether it was still there: it goes with its namespace, too."""
    try:
        await netlink.request("link", "del", index=index)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


async def _detach(netlink: Netlink, link: Message, owned: Callable[[int], bool]) -> bool:
    """Detach our program from a link, also from one that was an uplink earlier; return whether there was one."""
    found, index = attached_program(link), int(link["index"])
    own = ProgramOwnership(owned, bpf.program_by_id)
    try:
        with contextlib.closing(LinkQuery()) as query:
            at_tc = await TcIngress(netlink, query, own).detach(index)
        if found is None or not owned(found.program_id):
            return at_tc
        return await detach(netlink, index, own) or at_tc
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENODEV):  # another program took its place, or the link is gone
            raise
        return False


async def _leave(netlink: Netlink, name: str, pins: Pins, tell: Callable[[str], None]) -> list[int]:
    """Remove our neighbours from an uplink, and name other owners' programs there, which stay.

    Return the ifindex of its carrier, if the uplink is still there.
    """
    if await netlink.link(ifname=name) is None:
        return []
    (uplink,) = await read_uplinks(netlink, [name])
    carrier = await netlink.link(index=uplink.carrier)
    for found in await foreign_programs(netlink, carrier, pins) if carrier is not None else ():
        tell(f"{found}: it is left alone")
    await release_all(netlink, uplink.ifindex)
    return [uplink.carrier]
