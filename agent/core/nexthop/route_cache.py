"""Caches the kernel's routes to droplets, and tracks which have to be queried again after a change.

Pure: `agent/datapath/nexthop/neighbours.py` queries the kernel and is notified of changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import NextHopKey, Route, next_hop_keys


class RouteCache:
    """The routes to all droplets by all possible uplinks."""

    def __init__(self) -> None:
        self.routes: dict[NextHopKey, Route] = {}
        self._requested: set[NextHopKey] = set()
        self._leaving: dict[int, set[NextHopKey]] = {}
        self._droplets: Collection[bytes] = ()
        self._uplinks: Sequence[Uplink] = ()
        self._ordered: list[tuple[int, bytes]] = []
        self._wanted: list[tuple[NextHopKey, Uplink, bool]] = []

    def set_wanted(self, droplets: Collection[bytes], uplinks: Sequence[Uplink]) -> None:
        """Set the droplets and the uplinks for which routes are needed; pass a new object if anything changed."""
        if droplets is self._droplets and uplinks is self._uplinks:
            return
        self._droplets, self._uplinks = droplets, uplinks
        # Sorted by length first, so that the droplets in a prefix are adjacent.
        self._ordered = sorted((len(droplet), droplet) for droplet in droplets)
        self._wanted = []
        for _, droplet in self._ordered:
            hop_keys = list(next_hop_keys(droplet, uplinks))
            self._wanted += [(hop_key, uplink, len(hop_keys) == 1) for hop_key, uplink in hop_keys]
        wanted = {hop_key for hop_key, _, _ in self._wanted}
        for hop_key in self.routes.keys() - wanted:
            self.store(hop_key, None)
        self._requested &= wanted

    def missing(self) -> list[tuple[NextHopKey, Uplink, bool]]:
        """Return the keys to query, each with its uplink and whether that is the only one of the droplet's family."""
        return [one for one in self._wanted if one[0] not in self._requested]

    def mark_requested(self, hop_key: NextHopKey) -> None:
        """Record that a key is being queried: a change from now on makes the answer unreliable."""
        self._requested.add(hop_key)

    def store(self, hop_key: NextHopKey, route: Route | None) -> None:
        """Store an answer, None if the kernel has no route."""
        old = self.routes.pop(hop_key, None)
        if old is not None:
            self._leaving[old.ifindex].discard(hop_key)
        if route is not None:
            self.routes[hop_key] = route
            self._leaving.setdefault(route.ifindex, set()).add(hop_key)

    def invalidate_all(self) -> None:
        """Mark all routes to be queried again."""
        self._requested.clear()

    def invalidate_prefix(self, prefix: bytes, bits: int) -> bool:
        """Mark the routes to droplets in a prefix (4 or 16 bytes) to be queried again; return whether there are any."""
        host = (1 << len(prefix) * 8 - bits) - 1
        first = int.from_bytes(prefix) & ~host
        low, high = ((len(prefix), end.to_bytes(len(prefix))) for end in (first, first | host))
        droplets = self._ordered[bisect_left(self._ordered, low) : bisect_right(self._ordered, high)]
        return self._invalidate(
            NextHopKey(droplet, uplink.ifindex) for _, droplet in droplets for uplink in self._uplinks
        )

    def invalidate_interface(self, ifindex: int) -> bool:
        """Mark the routes that leave by an interface to be queried again; return whether there are any."""
        return self._invalidate(self._leaving.get(ifindex, ()))

    def _invalidate(self, hop_keys: Iterable[NextHopKey]) -> bool:
        stale = self._requested.intersection(hop_keys)
        self._requested -= stale
        return bool(stale)
