"""The state of the paths through the underlay, from this host's droplets to those of other hosts. Plain data.

Times are seconds, sizes bytes of the outer IP packet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from agent.core.model.resolved_state import ResolvedState
from agent.core.nexthop.next_hops import NextHopKey, PathFindings, Peer
from protocol.addresses import parse_address

MOST_SIZE = 65535
"""The longest IP packet."""


class Path(NamedTuple):
    """Packed addresses of 4 or 16 bytes, both of one family."""

    source: bytes
    peer: bytes


class Liveness(StrEnum):
    """Whether a peer answers probes."""

    UNKNOWN = "unknown"
    """It never answered: it may be down, or not support probes."""
    UP = "up"
    DOWN = "down"
    """It no longer answers, or is unreachable."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings of probes: times in seconds, rates in probes per second."""

    interval: float = 1.0
    misses: int = 3
    per_second: float = 200.0
    unanswered: int = 10
    """Misses in a row after which it is reported that no peer has ever answered."""
    deadline: float = 1.0
    """The longest time that an answer may take."""
    check_every: float = 600.0
    """The longest time between two checks of a path that carries its full size; less if there are few paths."""
    narrow_every: float = 60.0
    """The time between two checks of a path that carries less."""


class Probe(NamedTuple):
    """One probe to be sent: `size` is that of the outer IP packet."""

    path: Path
    size: int
    nonce: bytes


class PathEventKind(StrEnum):
    """Kinds of path events, with the names of the events on the bus."""

    DOWN = "droplet_down"
    UP = "droplet_up"
    NARROW = "narrow_path"
    RESTORED = "path_restored"


class PathEvent(NamedTuple):
    """A change of a path. `carries` is set with NARROW, `unreachable` with DOWN and UP (`Probing.unreachable`).

    `not_sent` with DOWN: why this host cannot send to the peer; empty if the peer does not answer.
    """

    kind: PathEventKind
    path: Path
    size: int
    carries: int | None = None
    unreachable: bool = False
    not_sent: str = ""


class PathRecord(NamedTuple):
    """The stored state of a path whose peer has answered a probe, for the agent that starts next."""

    down: bool = False
    carries: int | None = None


PathRecords: TypeAlias = Mapping[Path, PathRecord]
NO_PATH_RECORDS: PathRecords = MappingProxyType({})


class View(NamedTuple):
    """The state of one path. `usable` is the path MTU in use; `carries` the size that probes found, if smaller."""

    path: Path
    liveness: Liveness
    since: float
    round_trip: float | None
    size: int
    carries: int | None
    usable: int


@dataclass(slots=True)
class Counts:
    """Counts of probes since the start. `lost`: not answered in time; `refused`: too long for a link of the path."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    refused: int = 0
    icmp_errors: int = 0
    """ICMP errors that quote our packets."""


def paths_of(resolved: ResolvedState, peers: Iterable[bytes]) -> dict[Path, int]:
    """Return the paths from this host's droplets to peers of the same family, with the uplinks' MTUs."""
    own = [(parse_address(droplet.address), resolved.uplink_of(droplet)) for droplet in resolved.own_droplets()]
    return {
        Path(source, peer): min(uplink.mtu, MOST_SIZE)
        for source, uplink in own
        if uplink is not None
        for peer in peers
        if len(peer) == len(source)
    }


def with_path_state(
    peers: Mapping[bytes, Peer], views: Iterable[View], ifindexes: Mapping[bytes, int]
) -> dict[bytes, Peer]:
    """Return the peers with the state of their paths by uplink; `ifindexes` are by the path's source address.

    A peer is down by an uplink if none of its paths there is up and at least one is down. The smallest path MTU counts
    for all paths by that uplink.
    """
    by_peer: dict[NextHopKey, list[Liveness]] = {}
    sizes: dict[NextHopKey, int] = {}
    for view in views:
        if view.path.source not in ifindexes:
            continue
        hop_key = NextHopKey(view.path.peer, ifindexes[view.path.source])
        by_peer.setdefault(hop_key, []).append(view.liveness)
        if view.usable < view.size:
            sizes[hop_key] = min(view.usable, sizes.get(hop_key, view.usable))
    found: dict[bytes, dict[int, PathFindings]] = {}
    for hop_key, known in by_peer.items():
        if _is_down(known) or hop_key in sizes:
            found.setdefault(hop_key.droplet, {})[hop_key.ifindex] = PathFindings(_is_down(known), sizes.get(hop_key))
    return {address: replace(peer, by=found[address]) if address in found else peer for address, peer in peers.items()}


def down_peers(paths: Iterable[tuple[Path, Liveness]]) -> frozenset[bytes]:
    """Return the peers to which no path is up and at least one is down."""
    by_peer: dict[bytes, list[Liveness]] = {}
    for path, liveness in paths:
        by_peer.setdefault(path.peer, []).append(liveness)
    return frozenset(peer for peer, known in by_peer.items() if _is_down(known))


def liveness_of(known: PathRecord | None) -> Liveness:
    """Return a peer's initial liveness, from the record of an earlier agent."""
    if known is None:
        return Liveness.UNKNOWN
    return Liveness.DOWN if known.down else Liveness.UP


def down_at_start(resolved: ResolvedState, known: PathRecords) -> frozenset[str]:
    """Return the ids of other hosts' droplets that were down when the earlier agent stopped."""
    ids = {parse_address(one.address): one.id for one in resolved.droplets.values() if not resolved.is_here(one.id)}
    down = down_peers((path, liveness_of(known.get(path))) for path in paths_of(resolved, ids))
    return frozenset(ids[peer] for peer in down)


def _is_down(found: Collection[Liveness]) -> bool:
    return Liveness.DOWN in found and Liveness.UP not in found
