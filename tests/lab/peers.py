"""What a host of a lab knows of the other droplets from its probes."""

from __future__ import annotations

from controller_sim.control.bus import BusError
from lab.fixtures import SystemLab
from protocol import codec
from protocol.rpc import PeerPath, PeersReply, PeersRequest


def peers(lab: SystemLab, host: str) -> tuple[PeerPath, ...]:
    """Return what a host's agent knows of each of its paths."""
    return codec.decode(lab.ask(host, "peers", codec.encode(PeersRequest())), PeersReply).peers


def knows(lab: SystemLab, host: str) -> bool:
    """Return whether every droplet answers a host's probes.

    Wait for it before a peer is cut off. The silence of one that has never answered means nothing, and the kernel
    doubts a neighbour that it has resolved only after up to a minute. A lab is up without it: a host may send its
    first probe before the other one's program is attached, and the next one a second later.
    """
    try:
        found = peers(lab, host)
    except BusError:  # its own way to the bus is not back yet
        return False
    return bool(found) and all(peer.state == "up" for peer in found)
