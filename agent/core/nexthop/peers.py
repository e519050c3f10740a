"""Which droplets the neighbour watch follows, what it is to know of them, and in whose name packets go there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.model.local_droplets import IngressAddress
from agent.core.model.map_layout import mapped
from agent.core.model.resolved_state import ResolvedState
from agent.core.nexthop.next_hops import Peer, Senders
from protocol.addresses import parse_address


class Droplets(NamedTuple):
    """The state in force, and the droplets of other hosts that follow from it, by packed address (4 or 16 bytes)."""

    resolved: ResolvedState
    peers: Mapping[bytes, Peer]


class PeersToReach(NamedTuple):
    """What next hops are kept for: peers with what probes found of them, and the own droplets that packets leave by."""

    peers: Mapping[bytes, Peer]
    senders: Senders


def peers(resolved: ResolvedState) -> dict[bytes, Peer]:
    """Return the droplets of other hosts by their packed addresses (4 or 16 bytes).

    Tunnels over IPv6 go without a UDP checksum when the document of the peer's droplet says so, or that of the own one
    that they leave by (RFC 6936): of the own ones the map `local_droplets` knows.
    """
    return {
        parse_address(droplet.address): Peer(zero_checksum=droplet.udp_checksum == "zero")
        for droplet in resolved.droplets.values()
        if not resolved.is_here(droplet.id)
    }


def senders(resolved: ResolvedState) -> Senders:
    """Return the droplet of this host that packets leave each uplink by: of several of one family, the first."""
    found: dict[tuple[int, int], int] = {}
    for uplink in resolved.host_state.uplinks:
        for address in uplink.addresses:
            place = resolved.local_indexes.get(IngressAddress(mapped(address), uplink.ingress[0]))
            known = found.get((uplink.ifindex, len(address)))
            if place is not None and (known is None or place < known):
                found[uplink.ifindex, len(address)] = place
    return found
