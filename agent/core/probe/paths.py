"""What is known of the paths through the substrate, from one of this host's droplets to another host's. Plain data.

Times are seconds, sizes bytes of the outer IP packet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from agent.core.model.resolved_state import World
from agent.core.nexthop.next_hops import Found, Peer, Way
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
    """It does not answer any more, or nothing leads there."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds, and probes per second."""

    interval: float = 1.0
    misses: int = 3
    per_second: float = 200.0
    unanswered: int = 10
    """Misses in a row after which it is told that nobody has ever answered."""
    deadline: float = 1.0
    """How long an answer may take."""
    check_every: float = 600.0
    """Between two checks of a path that carries what it should, at the most: few paths are checked more often."""
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
    """Something that people want to know; `carries` with NARROW, `cut_off` with DOWN and UP: see `Probing.cut_off`.

    `unsent` with DOWN: why this host does not send to the peer, empty where the peer does not answer.
    """

    kind: Happened
    path: Path
    size: int
    carries: int | None = None
    cut_off: bool = False
    unsent: str = ""


class Known(NamedTuple):
    """What an agent leaves to the one that starts next, of a path whose other end has answered a probe."""

    down: bool = False
    carries: int | None = None


KnownPaths: TypeAlias = Mapping[Path, Known]
NOTHING_KNOWN: KnownPaths = MappingProxyType({})


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


def judged(peers: Mapping[bytes, Peer], views: Iterable[View], ifindexes: Mapping[bytes, int]) -> dict[bytes, Peer]:
    """Return the peers with what is known of the paths to them by each uplink; `ifindexes` by their own end's address.

    A peer is down by an uplink when none of its paths there is up and one of them is down. The least that a path
    carries counts for all of that uplink.
    """
    lives: dict[Way, list[Life]] = {}
    sizes: dict[Way, int] = {}
    for view in views:
        if view.path.source not in ifindexes:
            continue
        way = Way(view.path.peer, ifindexes[view.path.source])
        lives.setdefault(way, []).append(view.life)
        if view.usable < view.size:
            sizes[way] = min(view.usable, sizes.get(way, view.usable))
    found: dict[bytes, dict[int, Found]] = {}
    for way, known in lives.items():
        if _is_down(known) or way in sizes:
            found.setdefault(way.droplet, {})[way.ifindex] = Found(_is_down(known), sizes.get(way))
    return {address: replace(peer, by=found[address]) if address in found else peer for address, peer in peers.items()}


def down_peers(paths: Iterable[tuple[Path, Life]]) -> frozenset[bytes]:
    """Return the peers to which no path is up and at least one is down."""
    lives: dict[bytes, list[Life]] = {}
    for path, life in paths:
        lives.setdefault(path.peer, []).append(life)
    return frozenset(peer for peer, known in lives.items() if _is_down(known))


def life_of(known: Known | None) -> Life:
    """Return what an agent that starts takes a path's other end for."""
    if known is None:
        return Life.UNKNOWN
    return Life.DOWN if known.down else Life.UP


def down_at_start(world: World, known: KnownPaths) -> frozenset[str]:
    """Return the ids of other hosts' droplets that were down when the agent before this one stopped."""
    ids = {parse_address(one.address): one.id for one in world.droplets.values() if not world.is_here(one.id)}
    down = down_peers((path, life_of(known.get(path))) for path in paths_of(world, ids))
    return frozenset(ids[peer] for peer in down)


def _is_down(lives: Collection[Life]) -> bool:
    return Life.DOWN in lives and Life.UP not in lives
