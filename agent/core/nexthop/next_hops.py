"""Computes the map `next_hops` from routes and neighbours: the next hop to each droplet by each uplink.

Pure: `agent/datapath/nexthop/neighbours.py` reads the kernel and writes the map. Neighbour states are those of
linux/neighbour.h.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from agent.core.model.map_layout import (
    NEXT_HOP,
    NEXT_HOP_BY_OTHER,
    NEXT_HOP_DOWN,
    NEXT_HOP_KEY,
    NEXT_HOP_ZERO_CHECKSUM,
    NextHop,
    mapped,
    unmapped,
)
from agent.core.model.uplinks import Uplink

NUD_INCOMPLETE = 0x01
NUD_REACHABLE = 0x02
NUD_STALE = 0x04
NUD_DELAY = 0x08
NUD_PROBE = 0x10
NUD_FAILED = 0x20
NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
NUD_VALID = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY

NO_MAC = bytes(6)
MOST = 0xFFFF
"""The largest MTU that an entry of the map can hold."""


class Reason(Enum):
    """Why a droplet is unreachable. If interfaces have different reasons, the last one in this order counts."""

    NO_FAMILY = "no interface of this host has an address of its family"
    NO_SENDER = "no droplet of this host is on an interface of its family"
    NO_ROUTE = "the kernel has no route to it"
    OTHER_INTERFACE = "its route leaves by another interface than the droplet's"
    RESOLVING = "its next hop is not known yet"
    UNRESOLVED = "its next hop does not answer ARP or neighbour discovery"
    REFUSED = "the kernel refuses to keep its next hop as a neighbour"
    TABLE_FULL = (
        "the kernel's neighbour table is full: raise gc_thresh3 in net.ipv4.neigh.default or net.ipv6.neigh.default"
    )
    MAP_FULL = "the map of next hops is full: raise sizes.droplets"


_WEIGHT = {reason: weight for weight, reason in enumerate(Reason)}


class PathFindings(NamedTuple):
    """What probes found about the paths to a droplet by one uplink.

    `mtu` is their path MTU (outer IP header and everything after it), None if it is unknown.
    """

    down: bool = False
    mtu: int | None = None


NO_FINDINGS = PathFindings()


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of another host's droplet besides its address; `by` the ifindexes of uplinks."""

    zero_checksum: bool = False
    by: Mapping[int, PathFindings] = field(default_factory=dict)


Senders: TypeAlias = Mapping[tuple[int, int], int]
"""The source droplet by uplink: (ifindex, length of an address: 4 or 16) -> index in `local_droplets`."""


class NextHopKey(NamedTuple):
    """A droplet's packed address (4 or 16 bytes) and the ifindex of one of this host's uplinks."""

    droplet: bytes
    ifindex: int


class Hop(NamedTuple):
    """A neighbour's packed address and the interface on which it is resolved: link-local ones need both."""

    address: bytes
    ifindex: int


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's route to a droplet: the outgoing interface, and the neighbour (packed, 4 or 16 bytes)."""

    ifindex: int
    next_hop: bytes


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One neighbour on an uplink: its state, and its Ethernet address or `NO_MAC`."""

    state: int
    mac: bytes

    @property
    def usable(self) -> bool:
        """Whether packets may be sent to this Ethernet address."""
        return bool(self.state & NUD_VALID) and len(self.mac) == 6 and self.mac != NO_MAC

    @property
    def failed(self) -> bool:
        """Whether the kernel's solicitations were not answered."""
        return bool(self.state & NUD_FAILED)

    @property
    def configured(self) -> bool:
        """Whether an operator configured it; such an entry is left alone."""
        return bool(self.state & (NUD_PERMANENT | NUD_NOARP))


class FailedNeighbours:
    """Believes FAILED only if the state persists until the next evaluation.

    When a neighbour is flushed or deleted, the kernel first reports FAILED and right after that the removal
    (net/core/neighbour.c: neigh_delete, neigh_flush_dev): between the two it looks like an unanswered solicitation.
    """

    def __init__(self) -> None:
        self._seen: set[Hop] = set()

    def update(self, hop: Hop, neighbour: Neighbour | None) -> None:
        """Record that a neighbour changed, None if it was removed."""
        if neighbour is None or not neighbour.failed:
            self._seen.discard(hop)

    def confirmed(self, neighbours: Mapping[Hop, Neighbour]) -> tuple[dict[Hop, Neighbour], bool]:
        """Return the neighbours without new failures, and whether there were any: if so, evaluate again."""
        failed = {hop for hop, neighbour in neighbours.items() if neighbour.failed}
        new, self._seen = failed - self._seen, failed
        return {hop: neighbour for hop, neighbour in neighbours.items() if hop not in new}, bool(new)


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes that turn the current map into the desired one."""

    put: Mapping[bytes, bytes]
    delete: tuple[bytes, ...]

    def without(self, keys: Collection[bytes]) -> Changes:
        """Return the changes of all other keys."""
        put = {key: value for key, value in self.put.items() if key not in keys}
        return Changes(put, tuple(key for key in self.delete if key not in keys))


def pack_key(hop_key: NextHopKey) -> bytes:
    """Pack a key of the map."""
    return NEXT_HOP_KEY.pack(mapped(hop_key.droplet), hop_key.ifindex)


def unpack_key(key: bytes) -> NextHopKey:
    """Unpack a key of the map."""
    address, ifindex = NEXT_HOP_KEY.unpack(key)
    return NextHopKey(unmapped(address), ifindex)


def next_hop_keys(droplet: bytes, uplinks: Sequence[Uplink]) -> Iterator[tuple[NextHopKey, Uplink]]:
    """Yield the possible keys of a droplet: one for each uplink with an address of its family."""
    for uplink in uplinks:
        if any(len(address) == len(droplet) for address in uplink.addresses):
            yield NextHopKey(droplet, uplink.ifindex), uplink


def desired_next_hops(
    peers: Mapping[bytes, Peer],
    uplinks: Sequence[Uplink],
    senders: Senders,
    routes: Mapping[NextHopKey, Route],
    neighbours: Mapping[Hop, Neighbour],
    current: Mapping[bytes, bytes],
    refused: Mapping[Hop, int] = {},
) -> tuple[dict[bytes, bytes], dict[bytes, Reason]]:
    """Return the map's entries, and the reason for each droplet that no uplink reaches.

    `peers` are by packed address, `current` is the current map, `refused` are the next hops that the kernel does not
    keep, with its errno. A next hop that is being resolved again (no entry, or INCOMPLETE) keeps its last Ethernet
    address: only FAILED removes it, so that flushing the neighbour table loses no packets.
    """
    desired: dict[bytes, bytes] = {}
    unresolved: dict[bytes, Reason] = {}
    sending = [uplink for uplink in uplinks if any(ifindex == uplink.ifindex for ifindex, _ in senders)]
    for droplet, peer in peers.items():
        reasons, leading = [Reason.NO_FAMILY], []
        for hop_key, uplink in next_hop_keys(droplet, uplinks):
            sender = senders.get((uplink.ifindex, len(droplet)))
            found = _mac_by(uplink, routes.get(hop_key), neighbours, current.get(pack_key(hop_key)), refused)
            if sender is None:
                reasons.append(Reason.NO_SENDER)
            elif isinstance(found, Reason):
                reasons.append(found)
            else:
                leading.append(_Leading(uplink, found, sender, peer.by.get(uplink.ifindex, NO_FINDINGS)))
        if leading:
            desired.update(_entries(droplet, peer, leading, sending))
        else:
            unresolved[droplet] = max(reasons, key=_WEIGHT.__getitem__)
    return desired, unresolved


class _Leading(NamedTuple):
    """An uplink that leads to a droplet: the next hop's Ethernet address, the source droplet, and the path findings."""

    uplink: Uplink
    mac: bytes
    sender: int
    found: PathFindings


def _entries(
    droplet: bytes, peer: Peer, leading: Sequence[_Leading], uplinks: Sequence[Uplink]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield a droplet's entry for each uplink: by that uplink if it leads there, else by the first one that does."""
    up = [one for one in leading if not one.found.down]
    best = {one.uplink.ifindex: one for one in up or leading}
    for uplink in uplinks:
        chosen = best.get(uplink.ifindex, next(iter(best.values())))
        flags = (0 if up else NEXT_HOP_DOWN) | (NEXT_HOP_ZERO_CHECKSUM if peer.zero_checksum else 0)
        if chosen.uplink is not uplink:
            flags |= NEXT_HOP_BY_OTHER
        mtus = (chosen.uplink.mtu, MOST, chosen.found.mtu or MOST)
        yield pack_key(NextHopKey(droplet, uplink.ifindex)), NEXT_HOP.pack(chosen.mac, min(mtus), flags, chosen.sender)


def _mac_by(
    uplink: Uplink,
    route: Route | None,
    neighbours: Mapping[Hop, Neighbour],
    current: bytes | None,
    refused: Mapping[Hop, int],
) -> bytes | Reason:
    if route is None:
        return Reason.NO_ROUTE
    if route.ifindex != uplink.ifindex:
        return Reason.OTHER_INTERFACE
    hop = Hop(route.next_hop, uplink.ifindex)
    neighbour = neighbours.get(hop)
    if neighbour is not None and neighbour.usable:
        return neighbour.mac
    if neighbour is not None and neighbour.failed:
        return Reason.UNRESOLVED
    known = NextHop(*NEXT_HOP.unpack(current)) if current is not None else None
    if known is not None and not known.flags & NEXT_HOP_BY_OTHER:
        return known.mac
    return _why_refused(refused[hop]) if hop in refused else Reason.RESOLVING


def _why_refused(number: int) -> Reason:
    return Reason.TABLE_FULL if number == errno.ENOBUFS else Reason.REFUSED


def changes(current: Mapping[bytes, bytes], desired: Mapping[bytes, bytes]) -> Changes:
    """Return the difference between two maps of the same form."""
    return Changes(
        put={key: value for key, value in desired.items() if current.get(key) != value},
        delete=tuple(sorted(key for key in current if key not in desired)),
    )


def after(current: Mapping[bytes, bytes], change: Changes) -> dict[bytes, bytes]:
    """Return a map's contents after a change."""
    gone = set(change.delete)
    return {key: value for key, value in current.items() if key not in gone} | dict(change.put)


def still_silent(before: Mapping[bytes, Reason], unresolved: Mapping[bytes, Reason]) -> dict[bytes, Reason]:
    """Return why droplets are unreachable; a next hop that did not answer stays unresolved until it does.

    The kernel retries repeatedly, and each time it takes seconds until the result is known.
    """
    silent = {one for one, reason in before.items() if reason is Reason.UNRESOLVED}
    asked_again = (one for one, reason in unresolved.items() if reason is Reason.RESOLVING and one in silent)
    return {**unresolved, **dict.fromkeys(asked_again, Reason.UNRESOLVED)}


def still_unreachable(before: frozenset[bytes], unresolved: Mapping[bytes, Reason]) -> frozenset[bytes]:
    """Return the unreachable droplets; the same object if they did not change.

    A droplet whose next hop is solicited repeatedly stays unreachable until there is an answer, also in the pauses.
    """
    found = (one for one, reason in unresolved.items() if reason is not Reason.RESOLVING or one in before)
    now = frozenset(found)
    return before if now == before else now


def next_hops_to_resolve(routes: Mapping[NextHopKey, Route], neighbours: Mapping[Hop, Neighbour]) -> set[Hop]:
    """Return the next hops that the kernel has to keep resolved: all in use, except those that an operator configured.

    A route that leaves by another interface than its key's is not in use.
    """
    found = {
        Hop(route.next_hop, hop_key.ifindex) for hop_key, route in routes.items() if route.ifindex == hop_key.ifindex
    }
    return {hop for hop in found if not (hop in neighbours and neighbours[hop].configured)}
