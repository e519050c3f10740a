"""Interfaces in the substrate that leave less than an endpoint's family asks for.

A revision that comes new with such an endpoint is rejected. An interface that becomes so narrow under what is in force
takes nothing along, for no document asked for that: endpoints keep their interfaces with the least MTU of their family,
what fits passes, and their documents say what is wrong (ADR 24).
"""

from __future__ import annotations

import errno

from agent.core.model.features import family_of
from agent.core.model.overhead import MIN_MTU, endpoint_mtu, min_mtu, uplink_mtu
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import KernelFailure
from protocol.addresses import parse_address
from protocol.documents import Document, Endpoint


def is_narrow(resolved: ResolvedState) -> bool:
    """Say whether some endpoint's family could ask for more than one of the interfaces under own droplets leaves."""
    own = ((resolved.uplink_of(droplet), parse_address(droplet.address)) for droplet in resolved.own_droplets())
    most = max(MIN_MTU.values())
    return any(uplink is not None and endpoint_mtu(uplink.mtu, family_of(address)) < most for uplink, address in own)


def mtu_shortfall(endpoint: Endpoint, resolved: ResolvedState) -> str | None:
    """Return what is wrong with the MTU of the interface under an endpoint of this host; None for nothing."""
    address = parse_address(resolved.droplets[endpoint.droplet].address)
    uplink, substrate, least = resolved.host_state.uplink(address), family_of(address), min_mtu(endpoint.addresses)
    if uplink is None or (left := endpoint_mtu(uplink.mtu, substrate)) >= least:
        return None
    return (
        f"interface {uplink.name} has MTU {uplink.mtu}, which leaves {left} for endpoint {endpoint.id!r}; its "
        f"addresses need {least}: give the interface {uplink_mtu(least, substrate)} or more"
    )


def endpoints_short_of_mtu(document: Document, resolved: ResolvedState) -> tuple[KernelFailure, ...]:
    """Return what is to be told of a document in force: its endpoints that stand on too narrow an interface."""
    here = (endpoint for endpoint in document.endpoints if resolved.is_here(endpoint.droplet))
    return tuple(
        KernelFailure(errno.EMSGSIZE, "EMSGSIZE", f"endpoint {one.id}", f"{message}; what fits passes until then")
        for one in here
        if (message := mtu_shortfall(one, resolved)) is not None
    )
