"""Uplinks whose MTU is too small for the address families of their endpoints.

A new revision with such an endpoint is rejected. If the MTU of an uplink in use becomes too small, nothing is removed,
because no document asked for that: endpoints keep their interfaces with the smallest MTU of their family, packets that
fit pass, and the acknowledgements of their documents report it (ADR 24).
"""

from __future__ import annotations

import errno

from agent.core.model.features import family_of
from agent.core.model.overhead import MIN_MTU, endpoint_mtu, min_mtu, uplink_mtu
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import KernelFailure
from protocol.addresses import parse_address
from protocol.documents import LARGEST_LABEL, Document, Endpoint


def is_narrow(resolved: ResolvedState) -> bool:
    """Return whether an uplink of own droplets has too small an MTU for some address family."""
    own = (
        (resolved.uplink_of(droplet), family_of(parse_address(droplet.address))) for droplet in resolved.own_droplets()
    )
    most = max(MIN_MTU.values())
    return any(uplink is not None and endpoint_mtu(uplink.mtu, family, LARGEST_LABEL) < most for uplink, family in own)


def mtu_shortfall(endpoint: Endpoint, resolved: ResolvedState) -> str | None:
    """Return what is wrong with the MTU of the uplink of an endpoint of this host; None if nothing."""
    address = parse_address(resolved.droplets[endpoint.droplet].address)
    uplink, underlay, least = resolved.host_state.uplink(address), family_of(address), min_mtu(endpoint.addresses)
    if uplink is None or (left := endpoint_mtu(uplink.mtu, underlay, endpoint.label)) >= least:
        return None
    return (
        f"interface {uplink.name} has MTU {uplink.mtu}, which leaves {left} for endpoint {endpoint.id!r}; its "
        f"addresses need {least}: give the interface {uplink_mtu(least, underlay, endpoint.label)} or more"
    )


def endpoints_short_of_mtu(document: Document, resolved: ResolvedState) -> tuple[KernelFailure, ...]:
    """Return the failures to report for a document in force: its endpoints on uplinks with too small an MTU."""
    local = (endpoint for endpoint in document.endpoints if resolved.is_here(endpoint.droplet))
    return tuple(
        KernelFailure(errno.EMSGSIZE, "EMSGSIZE", f"endpoint {one.id}", f"{message}; what fits passes until then")
        for one in local
        if (message := mtu_shortfall(one, resolved)) is not None
    )
