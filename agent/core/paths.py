"""What is known of the paths through the substrate, from one of this host's droplets to another host's. Plain data.

Times are seconds, sizes bytes of the outer IP packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from agent.core.next_hops import Peer
from agent.core.world import World
from protocol.addresses import parse_address

MOST_SIZE = 65535
"""The longest IP packet."""


class Path(NamedTuple):
    """Packed addresses of 4 or 16 bytes, both of one family."""

    source: bytes
    peer: bytes


class Life(StrEnum):
    """What is known of a peer."""

    UNKNOWN = "unknown"
    """It never answered: it may be down, or speak no probes."""
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds, and probes per second."""

    interval: float = 1.0
    misses: int = 3
    per_second: float = 200.0
    deadline: float = 1.0
    """How long an answer may take."""
    check_every: float = 600.0
    """Between two checks of a path that carries what it should."""
    narrow_every: float = 60.0
    """Between two checks of one that does not."""


class Probe(NamedTuple):
    """One probe to be sent: `size` is that of the outer IP packet."""

    path: Path
    size: int
    nonce: bytes


class Happened(StrEnum):
    """Named as the events on the bus are."""

    DOWN = "droplet_down"
    UP = "droplet_up"
    NARROW = "narrow_path"
    RESTORED = "path_restored"


class Happening(NamedTuple):
    """Something that people want to know; `carries` with NARROW."""

    kind: Happened
    path: Path
    size: int
    carries: int | None = None


class View(NamedTuple):
    """What is known of one path. `usable` is what packets are held to now, `carries` what probes found, when less."""

    path: Path
    life: Life
    since: float
    round_trip: float | None
    size: int
    carries: int | None
    usable: int


@dataclass(slots=True)
class Counts:
    """Probes since the start. `lost` were not answered in time, `refused` do not fit somewhere on the way."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    refused: int = 0
    claims: int = 0
    """ICMP errors that quote our packets."""


def paths_of(world: World, peers: Iterable[bytes]) -> dict[Path, int]:
    """Return the paths from this host's droplets to peers' packed addresses of their family, with the uplinks' MTUs."""
    own = [(parse_address(droplet.address), world.uplink_of(droplet)) for droplet in world.own_droplets()]
    return {
        Path(source, peer): min(uplink.mtu, MOST_SIZE)
        for source, uplink in own
        if uplink is not None
        for peer in peers
        if len(peer) == len(source)
    }


def judged(peers: Mapping[bytes, Peer], views: Iterable[View]) -> dict[bytes, Peer]:
    """Return the peers with what is known of the paths to them.

    A peer is down when none of its paths is up and one of them is down. The least that a path carries counts for all.
    """
    down: dict[bytes, bool] = {}
    sizes: dict[bytes, int] = {}
    for view in views:
        peer = view.path.peer
        if view.life is not Life.UNKNOWN:
            down[peer] = down.get(peer, True) and view.life is Life.DOWN
        if view.usable < view.size:
            sizes[peer] = min(view.usable, sizes.get(peer, view.usable))
    return {
        address: replace(peer, down=down.get(address, False), mtu=sizes.get(address)) for address, peer in peers.items()
    }
