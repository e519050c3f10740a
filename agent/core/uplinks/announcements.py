"""Decides which of a host's addresses are announced to its neighbours, and when. Pure: times in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.model.resolved_state import ResolvedState
from protocol.addresses import parse_address

TIMES = 3
"""How often an address is announced: MAX_NEIGHBOR_ADVERTISEMENT (RFC 4861, section 10)."""
PAUSE = 1.0
"""Seconds between two announcements of one address, also when it changes again: RetransTimer (RFC 4861)."""
PER_TURN = 50
"""Announcements sent at once, at the most."""


class AnnouncedAddress(NamedTuple):
    """A droplet's packed address and where its neighbours find it: the interface by name and ifindex, and its MAC."""

    address: bytes
    interface: str
    ifindex: int
    mac: bytes


def announced_addresses(resolved: ResolvedState) -> frozenset[AnnouncedAddress]:
    """Return where this host's droplets are: those whose uplink is there and has Ethernet addresses."""
    found = ((droplet, resolved.uplink_of(droplet)) for droplet in resolved.own_droplets())
    return frozenset(
        AnnouncedAddress(parse_address(droplet.address), uplink.name, uplink.ifindex, uplink.mac)
        for droplet, uplink in found
        if uplink is not None and len(uplink.mac) == 6
    )


class AnnouncementSchedule:
    """What is still to be announced. After a change of its place an address is announced `TIMES` times anew."""

    def __init__(self) -> None:
        self._known: frozenset[AnnouncedAddress] = frozenset()
        self._left: dict[AnnouncedAddress, int] = {}
        self._next: dict[tuple[bytes, int], float] = {}
        """The earliest time of the next announcement, by address and ifindex."""

    def follow(self, now_there: Iterable[AnnouncedAddress]) -> bool:
        """Take in where the droplets are now; say whether there is something to announce."""
        there = frozenset(now_there)
        for place in self._left.keys() - there:
            del self._left[place]
        self._left.update(dict.fromkeys(there - self._known, TIMES))
        self._known = there
        return bool(self._left)

    def due(self, now: float) -> list[AnnouncedAddress]:
        """Return what is announced now. Each must be sent, or told by `postponed`."""
        ready = sorted(place for place in self._left if self._at(place) <= now)[:PER_TURN]
        for place in ready:
            self._next[place.address, place.ifindex] = now + PAUSE
            self._left[place] -= 1
            if not self._left[place]:
                del self._left[place]
        return ready

    def postponed(self, place: AnnouncedAddress) -> None:
        """Take in that an address could not be announced yet: it is tried again after the usual pause."""
        if place in self._known:
            self._left[place] = min(TIMES, self._left.get(place, 0) + 1)

    def wake_at(self) -> float | None:
        """Return when something is to be announced, None when nothing is."""
        return min(map(self._at, self._left), default=None)

    def _at(self, place: AnnouncedAddress) -> float:
        return self._next.get((place.address, place.ifindex), float("-inf"))
