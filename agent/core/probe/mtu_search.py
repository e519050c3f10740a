"""Path MTU search (RFC 8899): finds the longest packet that a path carries, size by size. Pure: no clock, no I/O.

All sizes are bytes of the outer IP packet. Sizes reported by routers or known from before are tried first, because they
are mostly right; then the floor; then a binary search. If only a missing answer speaks against the next longer size,
that one is tried once more at the end. The number of probes is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

FLOOR_IPV4 = 576
"""The smallest path MTU over IPv4: every host must accept such packets (RFC 791, 3.2)."""
FLOOR_IPV6 = 1280
"""The smallest path MTU over IPv6: the minimum of every link (RFC 8200, 5)."""
TRIES = 3
MOST_PROBES = 64


def floor_of(address: bytes) -> int:
    """Return the smallest path size that is believed for a packed address of 4 or 16 bytes."""
    return FLOOR_IPV4 if len(address) == 4 else FLOOR_IPV6


class Search:
    """One search between `floor` and `size`. Probe with `next_size` and report the result, until `done`."""

    def __init__(self, floor: int, size: int, first: Iterable[int] = ()) -> None:
        """Search up to `size`; `first` are sizes to try before it."""
        self._size = size
        self._low = floor
        self._high = size + 1
        self._answered = False
        self._floor_tried = False
        self._hints = deque((*first, size))
        self._tries_next_size = True
        self._is_ptb = False
        """A reliable source reported that `_high` does not fit."""
        self._retried = False
        self._current: int | None = None
        self._losses = 0
        self._probes = 0
        self._choose()

    @property
    def done(self) -> bool:
        """Whether the search is complete."""
        return self._current is None

    @property
    def next_size(self) -> int:
        """The size to try now; only while the search is not done."""
        assert self._current is not None, "the search is done"
        return self._current

    @property
    def result(self) -> int | None:
        """The longest size that was answered, or the floor; None when nothing was answered at all."""
        return self._low if self._answered else None

    def hint(self, size: int) -> None:
        """Try a size before the others, because it may be the path MTU, as a PTB reported it or as it was before."""
        if size not in self._hints:
            self._hints.append(size)

    def carried(self) -> None:
        """Record that the current size was answered."""
        size = self.next_size
        self._answered = True
        self._low = max(self._low, size)
        if size >= self._high:  # it was lost before but fits after all: longer ones may fit too
            self._high = self._size + 1
            self._hints.append(self._size)
        if self._tries_next_size and self._low + 1 < self._high:
            self._hints.appendleft(self._low + 1)  # if the hint is right, one more size ends the search
        self._count()
        self._choose()

    def lost(self) -> None:
        """Record that the current size was not answered in time."""
        self._losses += 1
        self._count()
        if self._losses >= TRIES:
            self._give_up_size(is_ptb=False)
        elif self._probes >= MOST_PROBES:
            self._current = None

    def refused(self, mtu: int | None) -> None:
        """Record a reliable report that the current size does not fit; `mtu` is the size that fits according to it."""
        self._count()
        if mtu is not None:
            self._hints.appendleft(mtu)
        self._give_up_size(is_ptb=True)

    def _count(self) -> None:
        self._probes += 1

    def _give_up_size(self, *, is_ptb: bool) -> None:
        if self._low < self.next_size <= self._high:
            self._high, self._is_ptb = self.next_size, is_ptb
        self._choose()

    def _choose(self) -> None:
        """Set the size to try next, or None."""
        self._losses = 0
        self._current = None if self._probes >= MOST_PROBES else self._candidate()

    def _candidate(self) -> int | None:
        while self._hints:
            hint = self._hints.popleft()
            if self._low < hint < self._high or (hint == self._low and not self._answered):
                self._tries_next_size = hint != self._low + 1 or not self._answered
                self._floor_tried |= hint == self._low
                return hint
        self._tries_next_size = False
        if not self._answered:
            if self._floor_tried:
                return None
            self._floor_tried = True
            return self._low
        return (self._low + self._high) // 2 if self._low + 1 < self._high else self._retry_unanswered()

    def _retry_unanswered(self) -> int | None:
        """Return the size above the result once more if it was only unanswered: the loss may have been temporary."""
        if self._retried or self._is_ptb or self._high > self._size:
            return None
        self._retried = True
        return self._high
