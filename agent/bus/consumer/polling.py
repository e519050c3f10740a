"""Decides when to ask the server for the state of a silent consumer. No I/O; times are in seconds."""

from __future__ import annotations

FIRST_POLL, LONGEST_POLL = 3.0, 10.0
"""Seconds of silence after which the server is asked for the consumer while messages are missing or a fault lasts,
doubling from the first to the longest."""
IDLE_POLL = 30.0
"""The same while all is well: nothing else reveals that the consumer's filter was changed, or a pause if the server
does not permit the host to subscribe to advisories."""
LEAST_APART = 1.0
"""The least seconds between requests, however many advisories arrive: other clients can cause messages there."""


class PollTimer:
    """When to ask the server for the consumer."""

    def __init__(self, now: float) -> None:
        self._pause = FIRST_POLL
        self._at = now + FIRST_POLL
        self._pending = 0
        self._last = now - LEAST_APART

    def soon(self, now: float) -> None:
        """Ask as soon as permitted: the server reported an event about the consumer."""
        self._at = min(self._at, max(now, self._last + LEAST_APART))

    def due(self, now: float) -> bool:
        """Return whether to ask the server now."""
        return now >= self._at

    def wake_in(self, now: float) -> float:
        """Return the seconds until `due` should be called again."""
        return max(0.05, self._at - now)

    def later(self, now: float, *, calm: bool) -> None:
        """Postpone the next request: a message arrived."""
        self._pending, self._pause = 0, FIRST_POLL
        self._at = now + (IDLE_POLL if calm else FIRST_POLL)

    def again(self, now: float, *, calm: bool) -> None:
        """Schedule the next request: one was sent now."""
        self._last = now
        self._at = now + (IDLE_POLL if calm else self._pause)
        self._pause = min(self._pause * 2, LONGEST_POLL)

    def stuck(self, pending: int) -> int:
        """Return how many messages were pending at the last look and still are. One look alone proves nothing."""
        before, self._pending = self._pending, pending
        return min(before, pending)
