"""When paths have their turns, and when probes time out. Pure: times in seconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from agent.core.probe.path_state import PathState
from agent.core.probe.paths import Counts, Path

BURST_SECONDS = 0.1
"""Seconds of the rate limit that a late caller may use at once."""


class Schedule:
    """Paths by the time of their next turn, with a limit of turns per second.

    Paths delayed by the rate limit are returned in order of time.
    """

    def __init__(self, per_second: float) -> None:
        """Allow at most `per_second` turns."""
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._allowance = self._most
        self._counted_at = float("-inf")
        self._times: dict[Path, float] = {}
        self._heap: list[tuple[float, Path]] = []

    def put(self, path: Path, at: float) -> None:
        """Set a path's next turn, replacing an earlier one."""
        self._times[path] = at
        heapq.heappush(self._heap, (at, path))

    def drop(self, path: Path) -> None:
        """Remove a path's turn."""
        self._times.pop(path, None)

    def take(self, now: float) -> list[Path]:
        """Return the paths that are due; the caller has to set their next turns."""
        self._allowance = min(self._most, self._allowance + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        taken = []
        while self._allowance >= 1 and (first := self._first()) is not None and first[0] <= now:
            heapq.heappop(self._heap)
            del self._times[first[1]]
            taken.append(first[1])
            self._allowance -= 1
        return taken

    def next_at(self) -> float | None:
        """Return the time of the next turn."""
        first = self._first()
        if first is None:
            return None
        return max(first[0], self._counted_at + (1 - self._allowance) / self._per_second)

    def _first(self) -> tuple[float, Path] | None:
        """Return the earliest turn that is still valid."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


class SentProbe(NamedTuple):
    """A probe that waits for its answer."""

    state: PathState
    size: int
    at: float


class OpenProbes:
    """The probes that wait for an answer, by nonce, and their deadlines."""

    def __init__(self, new_nonce: Callable[[], bytes], counts: Counts) -> None:
        """Start without probes; `new_nonce` returns 8 unguessable bytes."""
        self.counts = counts
        self._new_nonce = new_nonce
        self._sent: dict[bytes, SentProbe] = {}
        self._deadlines: list[tuple[float, bytes]] = []

    @property
    def nonces(self) -> Collection[bytes]:
        """The nonces of all open probes."""
        return self._sent.keys()

    def add(self, state: PathState, size: int, now: float, timeout: float) -> bytes:
        """Open a probe that is sent now, and return its nonce."""
        nonce = self._new_nonce()
        self._sent[nonce] = SentProbe(state, size, now)
        heapq.heappush(self._deadlines, (now + timeout, nonce))
        self.counts.sent += 1
        return nonce

    def get(self, nonce: bytes) -> SentProbe | None:
        """Return an open probe."""
        return self._sent.get(nonce)

    def close(self, nonce: bytes) -> SentProbe | None:
        """Stop waiting for an answer to a probe; return it if it was open."""
        return self._sent.pop(nonce, None)

    def expired(self, now: float) -> Iterator[bytes]:
        """Yield the open probes whose deadline has passed; the caller has to close them."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, nonce = heapq.heappop(self._deadlines)
            if nonce in self._sent:
                yield nonce

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of an open probe."""
        while self._deadlines and self._deadlines[0][1] not in self._sent:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None
