"""Removes one instance from a host: afterwards the kernel holds nothing that it created."""

from __future__ import annotations

import contextlib
import errno
from typing import NamedTuple

import structlog

from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.attach.xdp import ProgramOwnership, attached_program, detach
from agent.datapath.attached_programs import is_ours
from agent.datapath.bpf import syscall as bpf
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink, attribute
from agent.datapath.nexthop.managed_neighbours import release_all
from agent.datapath.veth.pairs import is_unfinished, marked_endpoint

log = structlog.get_logger()


class Removed(NamedTuple):
    """What was removed: endpoints' interfaces, whether transit XDP was attached, and pins."""

    interfaces: int
    transit: bool
    pins: int


async def remove(config: KernelConfig) -> Removed:
    """Remove everything of this instance from the host: its programs, interfaces, neighbours and pins.

    Needs neither compiler nor agent; what is not there is no error, what is another's stays. So does a pair whose
    making was cut short before it was marked: it may be another instance's.
    """
    own = ProgramOwnership(lambda number: is_ours(number, config.pins), bpf.program_by_id)
    interfaces, transit = 0, False
    async with Netlink() as netlink:
        for link in await netlink.links():
            if marked_endpoint(link, config.instance) is not None:
                with contextlib.suppress(FileNotFoundError):
                    await netlink.request("link", "del", index=link["index"])
                    interfaces += 1
            elif is_unfinished(link):
                log.warning("unfinished_veth_ignored", interface=attribute(link, "IFLA_IFNAME"))
        for name in config.interfaces:
            transit |= await _leave(netlink, name, own)
    pins = sum(1 for path in config.pins.root.rglob("*") if path.is_file()) if config.pins.root.exists() else 0
    config.pins.remove()
    return Removed(interfaces, transit, pins)


async def _leave(netlink: Netlink, name: str, own: ProgramOwnership) -> bool:
    """Detach our program from an uplink and remove our neighbours; return whether there was a program."""
    link = await netlink.link(ifname=name)
    if link is None:
        return False
    (uplink,) = await read_uplinks(netlink, [name])
    carrier = await netlink.link(index=uplink.carrier)
    found = attached_program(carrier) if carrier is not None else None
    ours = found is not None and own.owned(found.program_id)
    try:
        await detach(netlink, uplink.carrier, own)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        log.warning("foreign_program_kept", interface=name)
    await release_all(netlink, uplink.ifindex)
    return ours
