"""Interfaces in the substrate that leave less than an endpoint's family asks for.

A revision that comes new with such an endpoint is rejected. An interface that becomes so narrow under what is in force
takes nothing along, for no document asked for that: endpoints keep their interfaces with the least MTU of their family,
what fits passes, and their documents say what is wrong (ADR 24).
"""

from __future__ import annotations

import errno

from agent.core.model.features import family_of
from agent.core.model.overhead import SMALLEST, endpoint_mtu, least_mtu, uplink_mtu
from agent.core.model.resolved_state import World
from protocol.acknowledgements import KernelFailure
from protocol.addresses import parse_address
from protocol.documents import Document, Endpoint


def is_narrow(world: World) -> bool:
    """Say whether some endpoint's family could ask for more than one of the interfaces under own droplets leaves."""
    own = ((world.uplink_of(droplet), parse_address(droplet.address)) for droplet in world.own_droplets())
    most = max(SMALLEST.values())
    return any(uplink is not None and endpoint_mtu(uplink.mtu, family_of(address)) < most for uplink, address in own)


def cramped(endpoint: Endpoint, world: World) -> str | None:
    """Return what is wrong with the MTU of the interface under an endpoint of this host; None for nothing."""
    address = parse_address(world.droplets[endpoint.droplet].address)
    uplink, substrate, least = world.here.uplink(address), family_of(address), least_mtu(endpoint.addresses)
    if uplink is None or (left := endpoint_mtu(uplink.mtu, substrate)) >= least:
        return None
    return (
        f"interface {uplink.name} has MTU {uplink.mtu}, which leaves {left} for endpoint {endpoint.id!r}; its "
        f"addresses need {least}: give the interface {uplink_mtu(least, substrate)} or more"
    )


def cramped_endpoints(document: Document, world: World) -> tuple[KernelFailure, ...]:
    """Return what is to be told of a document in force: its endpoints that stand on too narrow an interface."""
    here = (endpoint for endpoint in document.endpoints if world.is_here(endpoint.droplet))
    return tuple(
        KernelFailure(errno.EMSGSIZE, "EMSGSIZE", f"endpoint {one.id}", f"{message}; what fits passes until then")
        for one in here
        if (message := cramped(one, world)) is not None
    )
