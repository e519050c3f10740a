"""When to ask the server for a consumer from which nothing comes. No I/O; times are in seconds."""

from __future__ import annotations

FIRST_POLL, LONGEST_POLL = 3.0, 10.0
"""Seconds of silence after which the server is asked for the consumer while messages are missing or a fault stands,
doubling from the first to the longest."""
IDLE_POLL = 30.0
"""The same while all is well: a consumer that is given another filter later shows in nothing else, nor does a pause
where the server does not let the host hear of it."""
LEAST_APART = 1.0
"""Seconds between looks at the least, however many advisories come: others can have messages sent there."""


class PollTimer:
    """When to ask the server for the consumer."""

    def __init__(self, now: float) -> None:
        self._pause = FIRST_POLL
        self._at = now + FIRST_POLL
        self._pending = 0
        self._last = now - LEAST_APART

    def soon(self, now: float) -> None:
        """Have it asked as soon as it may be: the server told that something happened to the consumer."""
        self._at = min(self._at, max(now, self._last + LEAST_APART))

    def due(self, now: float) -> bool:
        """Say whether the server is to be asked now."""
        return now >= self._at

    def wake_in(self, now: float) -> float:
        """Return the seconds after which `due` is to be asked again."""
        return max(0.05, self._at - now)

    def later(self, now: float, *, calm: bool) -> None:
        """Put it off: something came."""
        self._pending, self._pause = 0, FIRST_POLL
        self._at = now + (IDLE_POLL if calm else FIRST_POLL)

    def again(self, now: float, *, calm: bool) -> None:
        """Have it asked again: it was asked now."""
        self._last = now
        self._at = now + (IDLE_POLL if calm else self._pause)
        self._pause = min(self._pause * 2, LONGEST_POLL)

    def stuck(self, pending: int) -> int:
        """Return how many messages waited at the last look already and still do; one look says nothing."""
        before, self._pending = self._pending, pending
        return min(before, pending)
