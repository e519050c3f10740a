"""The peers that the neighbour watch follows, and the own droplets from which packets are sent to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.model.local_droplets import IngressAddress
from agent.core.model.map_layout import mapped
from agent.core.model.resolved_state import ResolvedState
from agent.core.nexthop.next_hops import Peer, Senders
from protocol.addresses import parse_address


class Droplets(NamedTuple):
    """The resolved state, and its droplets of other hosts by packed address (4 or 16 bytes)."""

    resolved: ResolvedState
    peers: Mapping[bytes, Peer]


class PeersToReach(NamedTuple):
    """The peers that need next hops, with their probed state, and the own droplets from which packets are sent."""

    peers: Mapping[bytes, Peer]
    senders: Senders


def peers(resolved: ResolvedState) -> dict[bytes, Peer]:
    """Return the droplets of other hosts by their packed addresses (4 or 16 bytes).

    Tunnels over IPv6 have no UDP checksum if the document of the peer's droplet says so, or that of the own droplet
    from which they are sent (RFC 6936); the latter is in the map `local_droplets`.
    """
    return {
        parse_address(droplet.address): Peer(zero_checksum=droplet.udp_checksum == "zero")
        for droplet in resolved.droplets.values()
        if not resolved.is_here(droplet.id)
    }


def senders(resolved: ResolvedState) -> Senders:
    """Return the droplet of this host from which packets leave each uplink: the first one of a family."""
    found: dict[tuple[int, int], int] = {}
    for uplink in resolved.host_state.uplinks:
        for address in uplink.addresses:
            place = resolved.local_indexes.get(IngressAddress(mapped(address), uplink.ingress[0]))
            known = found.get((uplink.ifindex, len(address)))
            if place is not None and (known is None or place < known):
                found[uplink.ifindex, len(address)] = place
    return found
