"""Schedules paths: one due time per path, with a limit of turns per second. Pure: times in seconds."""

from __future__ import annotations

import heapq

from agent.core.probe.paths import Path

BURST_SECONDS = 0.1
"""Seconds of the rate limit that a late caller may use at once."""


class Schedule:
    """Paths by the time of their next turn. Paths delayed by the rate limit are returned in order of time."""

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
