"""Addresses of this host's droplets that its interfaces lack temporarily: their configuration stays until they return.

An expired DHCP lease, a restart of the network manager or a link that goes down (which flushes IPv6 addresses) removes
addresses for a while. No document asked for that, so nothing is removed; the acknowledgements of the droplets'
documents report it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from agent.core.model.map_layout import LOCAL_DROPLET, unmapped
from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.model.uplinks import Uplink
from protocol.acknowledgements import KernelFailure
from protocol.addresses import format_address, parse_address


class Served(NamedTuple):
    """An address on which tunnels terminate, and the name of the interface that had it."""

    interface: str
    address: bytes


def served_now(resolved: ResolvedState) -> list[Served]:
    """Return the addresses of this host's droplets in force."""
    own = [(parse_address(droplet.address), resolved.uplink_of(droplet)) for droplet in resolved.own_droplets()]
    return [Served(uplink.name, address) for address, uplink in own if uplink is not None]


def served_before(local_droplets: Mapping[bytes, bytes], uplinks: Iterable[Uplink]) -> list[Served]:
    """Return the addresses in the entries of `local_droplets`: those of an earlier agent."""
    names = {uplink.ifindex: uplink.name for uplink in uplinks}
    entries = (LOCAL_DROPLET.unpack(value) for value in local_droplets.values())
    return [Served(names[interface], unmapped(address)) for address, interface, *_ in entries if interface in names]


def with_served(found: HostState, served: Iterable[Served]) -> HostState:
    """Return the host state with the served addresses added that no interface has now."""
    present = {address for uplink in found.uplinks for address in uplink.addresses}
    lost: dict[str, dict[bytes, None]] = {}
    for interface, address in served:
        if address not in present:
            lost.setdefault(interface, {})[address] = None
    kept = (replace(one, addresses=(*one.addresses, *lost.get(one.name, ()))) for one in found.uplinks)
    return replace(found, uplinks=tuple(kept)) if lost else found


def lost(found: HostState, resolved: ResolvedState) -> dict[str, KernelFailure]:
    """Return this host's droplets in force whose address no interface has now, by id, each with a failure to report."""
    present = {address for uplink in found.uplinks for address in uplink.addresses}
    return {
        droplet.id: _failure(droplet.id, address, resolved)
        for droplet in resolved.own_droplets()
        if (address := parse_address(droplet.address)) not in present
    }


def _failure(droplet: str, address: bytes, resolved: ResolvedState) -> KernelFailure:
    uplink = resolved.host_state.uplink(address)
    where = f"interface {uplink.name}" if uplink else "this host"
    message = (
        f"{format_address(address)} is gone from {where}: give it back; all that uses it stays in place until then"
    )
    return KernelFailure(errno.EADDRNOTAVAIL, "EADDRNOTAVAIL", f"droplet {droplet}", message)
