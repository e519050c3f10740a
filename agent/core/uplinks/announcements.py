"""Decides which of a host's addresses are announced to its neighbours, and when. Pure: times in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.model.resolved_state import ResolvedState
from protocol.addresses import parse_address

TIMES = 3
"""How often an address is announced: MAX_NEIGHBOR_ADVERTISEMENT (RFC 4861, section 10)."""
PAUSE = 1.0
"""Seconds between two announcements of one address, even if it moves again: RetransTimer (RFC 4861)."""
PER_TURN = 50
"""The maximum number of announcements sent at once."""


class AnnouncedAddress(NamedTuple):
    """A droplet's packed address and its place: the interface's name and ifindex, and its Ethernet address."""

    address: bytes
    interface: str
    ifindex: int
    mac: bytes


def announced_addresses(resolved: ResolvedState) -> frozenset[AnnouncedAddress]:
    """Return the places of this host's droplets whose uplink exists and has an Ethernet address."""
    found = ((droplet, resolved.uplink_of(droplet)) for droplet in resolved.own_droplets())
    return frozenset(
        AnnouncedAddress(parse_address(droplet.address), uplink.name, uplink.ifindex, uplink.mac)
        for droplet, uplink in found
        if uplink is not None and len(uplink.mac) == 6
    )


class AnnouncementSchedule:
    """The announcements still to be sent. After it moved, an address is announced `TIMES` times."""

    def __init__(self) -> None:
        self._known: frozenset[AnnouncedAddress] = frozenset()
        self._left: dict[AnnouncedAddress, int] = {}
        self._next: dict[tuple[bytes, int], float] = {}
        """The earliest time of the next announcement, by address and ifindex."""

    def follow(self, now_there: Iterable[AnnouncedAddress]) -> bool:
        """Set where the droplets are now; return whether there is something to announce."""
        there = frozenset(now_there)
        for place in self._left.keys() - there:
            del self._left[place]
        self._left.update(dict.fromkeys(there - self._known, TIMES))
        self._known = there
        return bool(self._left)

    def due(self, now: float) -> list[AnnouncedAddress]:
        """Return the announcements that are due. Each must be sent, or reported to `postponed`."""
        ready = sorted(place for place in self._left if self._at(place) <= now)[:PER_TURN]
        for place in ready:
            self._next[place.address, place.ifindex] = now + PAUSE
            self._left[place] -= 1
            if not self._left[place]:
                del self._left[place]
        return ready

    def postponed(self, place: AnnouncedAddress) -> None:
        """Record that an address could not be announced yet: it is retried after the usual pause."""
        if place in self._known:
            self._left[place] = min(TIMES, self._left.get(place, 0) + 1)

    def wake_at(self) -> float | None:
        """Return when the next announcement is due, None if there is none."""
        return min(map(self._at, self._left), default=None)

    def _at(self, place: AnnouncedAddress) -> float:
        return self._next.get((place.address, place.ifindex), float("-inf"))
