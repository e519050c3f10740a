"""Decides the map `next_hops`: from routes and neighbours to the Ethernet address that leads to each droplet.

Pure: `agent/datapath/neighbours.py` reads the kernel and writes the map. Neighbour states are those of
linux/neighbour.h.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

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


class Reason(Enum):
    """Why a droplet cannot be reached now."""

    NO_ROUTE = "the kernel has no route to it"
    OTHER_INTERFACE = "its route leaves by another interface than the droplet's"
    UNRESOLVED = "its next hop does not answer ARP or neighbour discovery"


@dataclass(frozen=True, slots=True)
class Peer:
    """A droplet of another host: what it wants, and what was found out about the way to it.

    `mtu` is that of the path (outer IP header and all behind it), None where it is not known to be less than the
    interface's.
    """

    zero_checksum: bool = False
    down: bool = False
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's route to a droplet: out of which interface, and to which neighbour (packed, 4 or 16 bytes)."""

    ifindex: int
    next_hop: bytes


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One neighbour on the droplet's interface: its state, and its Ethernet address or `NO_MAC`."""

    state: int
    mac: bytes

    @property
    def usable(self) -> bool:
        """Whether packets may be sent to this Ethernet address."""
        return bool(self.state & NUD_VALID) and len(self.mac) == 6 and self.mac != NO_MAC

    @property
    def failed(self) -> bool:
        """Whether the kernel asked and got no answer."""
        return bool(self.state & NUD_FAILED)

    @property
    def configured(self) -> bool:
        """Whether an operator set it, so that nobody else should touch it."""
        return bool(self.state & (NUD_PERMANENT | NUD_NOARP))


class Failures:
    """Believes a FAILED only when it is still there at the next look.

    Whoever flushes or deletes a neighbour makes the kernel tell FAILED first and the removal right after it
    (net/core/neighbour.c: neigh_delete, neigh_flush_dev): between the two it looks as if nobody had answered.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def heard(self, hop: bytes, neighbour: Neighbour | None) -> None:
        """Take in that a neighbour changed, None when it was removed."""
        if neighbour is None or not neighbour.failed:
            self._seen.discard(hop)

    def look(self, neighbours: Mapping[bytes, Neighbour]) -> tuple[dict[bytes, Neighbour], bool]:
        """Return the neighbours without the failures that are new, and whether there were any: look again then."""
        failed = {hop for hop, neighbour in neighbours.items() if neighbour.failed}
        new, self._seen = failed - self._seen, failed
        return {hop: neighbour for hop, neighbour in neighbours.items() if hop not in new}, bool(new)


@dataclass(frozen=True, slots=True)
class Changes:
    """What turns the map as it is into the map as it should be."""

    put: Mapping[bytes, bytes]
    delete: tuple[bytes, ...]


def desired_next_hops(
    droplets: Collection[bytes],
    ifindex: int,
    routes: Mapping[bytes, Route],
    neighbours: Mapping[bytes, Neighbour],
    current: Mapping[bytes, bytes],
) -> tuple[dict[bytes, bytes], dict[bytes, Reason]]:
    """Return droplet -> Ethernet address, and droplet -> why it has none.

    `droplets` and the keys of `routes` and `current` are droplets' packed addresses, those of `neighbours` next hops'.
    A next hop that is being asked again (no entry, or INCOMPLETE) keeps the address that it had: only the kernel's
    FAILED takes it away, so that a flushed neighbour table loses no packet.
    """
    desired: dict[bytes, bytes] = {}
    unresolved: dict[bytes, Reason] = {}
    for droplet in droplets:
        route = routes.get(droplet)
        if route is None:
            unresolved[droplet] = Reason.NO_ROUTE
        elif route.ifindex != ifindex:
            unresolved[droplet] = Reason.OTHER_INTERFACE
        else:
            mac = _mac_of(neighbours.get(route.next_hop), current.get(droplet))
            if mac is None:
                unresolved[droplet] = Reason.UNRESOLVED
            else:
                desired[droplet] = mac
    return desired, unresolved


def _mac_of(neighbour: Neighbour | None, current: bytes | None) -> bytes | None:
    if neighbour is None:
        return current
    if neighbour.usable:
        return neighbour.mac
    return None if neighbour.failed else current


def changes(current: Mapping[bytes, bytes], desired: Mapping[bytes, bytes]) -> Changes:
    """Return the difference between two maps of the same form."""
    return Changes(
        put={key: value for key, value in desired.items() if current.get(key) != value},
        delete=tuple(sorted(key for key in current if key not in desired)),
    )


def next_hops_to_resolve(
    droplets: Collection[bytes],
    ifindex: int,
    routes: Mapping[bytes, Route],
    neighbours: Mapping[bytes, Neighbour],
) -> set[bytes]:
    """Return the next hops that the kernel shall keep resolved: all in use but those that an operator configured."""
    found = {route.next_hop for droplet, route in routes.items() if droplet in droplets and route.ifindex == ifindex}
    return {hop for hop in found if not (hop in neighbours and neighbours[hop].configured)}
