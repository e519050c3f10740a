"""Says whose turn it is: one time per path, and no more turns a second than allowed. Pure: times in seconds."""

from __future__ import annotations

import heapq

from agent.core.probe.paths import Path

BURST_SECONDS = 0.1
"""How much of its allowance a schedule makes up for at once when it was asked late."""


class Schedule:
    """Paths by the time of their next turn. Who is late because of the others' number comes in order of time."""

    def __init__(self, per_second: float) -> None:
        """Give out `per_second` turns at the most."""
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._allowance = self._most
        self._counted_at = float("-inf")
        self._times: dict[Path, float] = {}
        self._heap: list[tuple[float, Path]] = []

    def put(self, path: Path, at: float) -> None:
        """Set a path's next turn, instead of what was set."""
        self._times[path] = at
        heapq.heappush(self._heap, (at, path))

    def drop(self, path: Path) -> None:
        """Take a path's turn away."""
        self._times.pop(path, None)

    def take(self, now: float) -> list[Path]:
        """Return whose turn has come; it is up to the caller to set the next one."""
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
        """Return when the next turn can be given out."""
        first = self._first()
        if first is None:
            return None
        return max(first[0], self._counted_at + (1 - self._allowance) / self._per_second)

    def _first(self) -> tuple[float, Path] | None:
        """Return the earliest turn that still stands."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None
