"""Which droplets the neighbour watch follows, and what it is to know of them."""

from __future__ import annotations

from agent.core.next_hops import Peer
from agent.core.world import World
from protocol.addresses import parse_address


def peers(world: World) -> dict[bytes, Peer]:
    """Return the droplets of other hosts by their packed addresses (4 or 16 bytes).

    Tunnels over IPv6 go without a UDP checksum when the peer's droplet says so, or all of this host's own do: a peer
    takes them from a droplet that says so, or when it does so itself (RFC 6936).
    """
    own = world.unsigned()
    unsigned = bool(own) and all(own)
    return {
        parse_address(droplet.address): Peer(zero_checksum=unsigned or droplet.udp_checksum == "zero")
        for droplet in world.droplets.values()
        if not world.is_here(droplet.id)
    }
