"""Remembers the kernel's routes to droplets, and which of them have to be asked for again after a change.

Pure: `agent/datapath/nexthop/neighbours.py` asks the kernel and hears of changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Route, Way, ways_to


class Lookups:
    """The routes to all droplets by all uplinks that could lead there."""

    def __init__(self) -> None:
        self.routes: dict[Way, Route] = {}
        self._asked: set[Way] = set()
        self._leaving: dict[int, set[Way]] = {}
        self._droplets: Collection[bytes] = ()
        self._uplinks: Sequence[Uplink] = ()
        self._ordered: list[tuple[int, bytes]] = []
        self._wanted: list[tuple[Way, Uplink, bool]] = []

    def tell(self, droplets: Collection[bytes], uplinks: Sequence[Uplink]) -> None:
        """Take in to whom routes are needed, and by what; another object where anything changed."""
        if droplets is self._droplets and uplinks is self._uplinks:
            return
        self._droplets, self._uplinks = droplets, uplinks
        # By length, so that the droplets in a prefix stand side by side.
        self._ordered = sorted((len(droplet), droplet) for droplet in droplets)
        self._wanted = []
        for _, droplet in self._ordered:
            ways = list(ways_to(droplet, uplinks))
            self._wanted += [(way, uplink, len(ways) == 1) for way, uplink in ways]
        wanted = {way for way, _, _ in self._wanted}
        for way in self.routes.keys() - wanted:
            self.keep(way, None)
        self._asked &= wanted

    def missing(self) -> list[tuple[Way, Uplink, bool]]:
        """Return the ways to ask for, each with its uplink and whether that is the only one of the droplet's family."""
        return [one for one in self._wanted if one[0] not in self._asked]

    def begin(self, way: Way) -> None:
        """Know that a way is being asked for: a change that comes from now on makes the answer doubtful."""
        self._asked.add(way)

    def keep(self, way: Way, route: Route | None) -> None:
        """Keep an answer, None when the kernel has no route."""
        old = self.routes.pop(way, None)
        if old is not None:
            self._leaving[old.ifindex].discard(way)
        if route is not None:
            self.routes[way] = route
            self._leaving.setdefault(route.ifindex, set()).add(way)

    def forget(self) -> None:
        """Have everything asked for again."""
        self._asked.clear()

    def forget_within(self, prefix: bytes, bits: int) -> bool:
        """Have the ways to the droplets in a prefix (4 or 16 bytes) asked for again; say whether there are any."""
        host = (1 << len(prefix) * 8 - bits) - 1
        first = int.from_bytes(prefix) & ~host
        low, high = ((len(prefix), end.to_bytes(len(prefix))) for end in (first, first | host))
        droplets = self._ordered[bisect_left(self._ordered, low) : bisect_right(self._ordered, high)]
        return self._forget(Way(droplet, uplink.ifindex) for _, droplet in droplets for uplink in self._uplinks)

    def forget_by(self, ifindex: int) -> bool:
        """Have the ways asked for again whose routes leave by an interface; say whether there are any."""
        return self._forget(self._leaving.get(ifindex, ()))

    def _forget(self, ways: Iterable[Way]) -> bool:
        doubtful = self._asked.intersection(ways)
        self._asked -= doubtful
        return bool(doubtful)
