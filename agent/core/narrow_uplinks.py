"""Interfaces in the substrate that leave less than an endpoint's family asks for.

A document that comes new with such an endpoint is rejected. An interface that becomes so narrow under endpoints that
are here takes nothing along, for no document asked for that: they keep their interfaces with the least MTU of their
family, what fits passes, and their documents say what is wrong (ADR 24).
"""

from __future__ import annotations

import errno
from dataclasses import replace

from agent.core.features import family_of
from agent.core.room import SMALLEST, endpoint_mtu, least_mtu, overhead
from agent.core.world import Here, World
from protocol.acknowledgements import KernelFailure
from protocol.addresses import parse_address
from protocol.documents import Document, Endpoint


def with_standing(found: Here, world: World) -> Here:
    """Return the host as it was found, with the endpoints whose interfaces stand where some uplink is narrow."""
    narrow = any(endpoint_mtu(uplink.mtu, "ipv6") < max(SMALLEST.values()) for uplink in found.uplinks)
    return replace(found, standing=frozenset(world.slots)) if narrow else found


def cramped(endpoint: Endpoint, world: World) -> str | None:
    """Return what is wrong with the MTU of the interface under an endpoint of this host; None for nothing."""
    address = parse_address(world.droplets[endpoint.droplet].address)
    uplink, substrate, least = world.here.uplink(address), family_of(address), least_mtu(endpoint.addresses)
    if uplink is None or (left := endpoint_mtu(uplink.mtu, substrate)) >= least:
        return None
    return (
        f"interface {uplink.name} has MTU {uplink.mtu}, which leaves {left} for endpoint {endpoint.id!r}; its "
        f"addresses need {least}: give the interface {least + overhead(substrate)} or more"
    )


def standing_cramped(document: Document, world: World) -> tuple[KernelFailure, ...]:
    """Return what is to be told of a document in force whose endpoints stand on too narrow an interface."""
    standing = (one for one in document.endpoints if one.id in world.here.standing and world.is_here(one.droplet))
    return tuple(
        KernelFailure(errno.EMSGSIZE, "EMSGSIZE", f"endpoint {one.id}", f"{message}; what fits passes until then")
        for one in standing
        if (message := cramped(one, world)) is not None
    )
