"""Finds the paths whose next hop should be resolved again because an answer is overdue. Pure: times in seconds.

The kernel trusts a neighbour's Ethernet address for half a minute or longer, and tunnel packets give it no reason to
verify it. An unanswered probe does.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Hop, Neighbour, NextHopKey, Route
from agent.core.probe.paths import Path

MISSES = 3
"""Each of the first misses in a row triggers a solicitation of the next hop,"""
LATER = 10
"""and after those, every tenth one."""
HOP_PAUSE = 0.5
"""Seconds between two solicitations of one next hop."""
PER_SECOND = 50
"""The maximum of solicitations per second: they are broadcast."""


class OverdueProbes:
    """The paths with an overdue answer. Probes are identified by their nonces."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, bytes, Path]] = []
        self._found: set[Path] = set()

    def sent(self, path: Path, nonce: bytes, overdue_at: float) -> None:
        """Record that a probe was sent whose answer is overdue from `overdue_at` on."""
        heapq.heappush(self._waiting, (overdue_at, nonce, path))

    def missed(self, path: Path, misses: int) -> None:
        """Record the number of probes in a row that were not answered."""
        if misses <= MISSES or misses % LATER == 0:
            self._found.add(path)

    def expire(self, now: float, unanswered: Collection[bytes]) -> None:
        """Find overdue answers at `now`; `unanswered` are the nonces of the probes that still wait for an answer."""
        while self._waiting and self._waiting[0][0] <= now:
            _, nonce, path = heapq.heappop(self._waiting)
            if nonce in unanswered:
                self._found.add(path)

    def wake_at(self) -> float | None:
        """Return the next time at which an answer may be overdue."""
        return self._waiting[0][0] if self._waiting else None

    def take(self) -> frozenset[Path]:
        """Return the paths found since the last call."""
        taken, self._found = frozenset(self._found), set()
        return taken


class Solicitation(NamedTuple):
    """A next hop to solicit on an uplink; `source` is an own address of its family, None if none is known."""

    hop: Hop
    uplink: Uplink
    source: bytes | None


def solicitations(
    paths: Iterable[Path],
    uplinks: Iterable[Uplink],
    routes: Mapping[NextHopKey, Route],
    neighbours: Mapping[Hop, Neighbour],
) -> Iterator[Solicitation]:
    """Yield the next hops of paths, each once, without those that an operator configured; paths need a route."""
    by_address = {address: uplink for uplink in uplinks for address in uplink.addresses}
    seen: set[Hop] = set()
    for path in sorted(paths):
        uplink = by_address.get(path.source)
        route = routes.get(NextHopKey(path.peer, uplink.ifindex)) if uplink is not None else None
        if uplink is None or route is None or route.ifindex != uplink.ifindex or len(uplink.mac) != 6:
            continue
        hop = Hop(route.next_hop, uplink.ifindex)
        known = neighbours.get(hop)
        if hop in seen or (known is not None and known.configured):
            continue
        seen.add(hop)
        own = (path.source, *uplink.addresses)
        yield Solicitation(hop, uplink, next((one for one in own if len(one) == len(hop.address)), None))


class SolicitationLimit:
    """Limits the rate of solicitations, for each next hop and in total."""

    def __init__(self) -> None:
        self._asked: dict[Hop, float] = {}
        self._allowance = float(PER_SECOND)
        self._counted_at = float("-inf")

    def allows(self, hop: Hop, now: float) -> bool:
        """Return whether a next hop may be solicited now; if so, count it as solicited."""
        self._allowance = min(float(PER_SECOND), self._allowance + (now - self._counted_at) * PER_SECOND)
        self._counted_at = now
        if self._allowance < 1 or now < self._asked.get(hop, float("-inf")) + HOP_PAUSE:
            return False
        self._allowance -= 1
        self._asked = {one: at for one, at in self._asked.items() if now < at + HOP_PAUSE} | {hop: now}
        return True
