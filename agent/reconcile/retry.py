"""Schedules retries of documents that the kernel refused, with a separate backoff for each document."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

LONGEST = 6
"""The longest time between two attempts at a document, in multiples of the first one."""
TOGETHER = 0.1
"""Documents due within this fraction of the first backoff are retried together."""


class Tried(NamedTuple):
    """A revision that the kernel refused, and how often it was tried, including the time that it succeeded."""

    revision: int
    attempts: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`tries`: retries since the backoff began; `attempts`: all attempts; `trying`: the last one has no result yet."""

    revision: int
    tries: int
    at: float
    attempts: int = 1
    trying: bool = False


class RetryQueue:
    """The documents that wait for a retry. Pure: times are in seconds, of any one clock."""

    def __init__(self, first: float) -> None:
        """Retry first after `first` seconds, and double the time after each failure, up to `LONGEST` times `first`."""
        self._first = first
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        """Return how many documents wait."""
        return len(self._waiting)

    def failed(self, name: str, revision: int, now: float) -> None:
        """Record that the kernel refused part of a revision. A document that already waits keeps its time."""
        known = self._waiting.get(name)
        if known is None or known.revision != revision:
            self._waiting[name] = _Waiting(revision, 0, now + self._first)
        elif known.trying:
            self._waiting[name] = replace(known, trying=False)

    def succeeded(self, names: Collection[str]) -> dict[str, Tried]:
        """Record that the kernel no longer refuses any part of these documents, or that they were removed.

        Return those that waited. What succeeds between two turns, as when a resync repairs it, is one attempt more.
        """
        waited = [name for name in self._waiting if name in names]
        found = {name: self._waiting.pop(name) for name in waited}
        return {name: Tried(one.revision, one.attempts + (not one.trying)) for name, one in found.items()}

    def take_due(self, now: float) -> list[str]:
        """Return the names of the documents that are due; each one that fails again waits twice as long."""
        due = sorted(name for name, one in self._waiting.items() if one.at <= now + self._first * TOGETHER)
        for name in due:
            one = self._waiting[name]
            pause = self._first * min(2 ** (one.tries + 1), LONGEST)
            tries, at, attempts = min(one.tries + 1, LONGEST), now + pause, one.attempts + 1
            self._waiting[name] = _Waiting(one.revision, tries, at, attempts, trying=True)
        return due

    def hurry(self, names: Iterable[str], now: float) -> None:
        """Make waiting documents due now, and reset their backoff."""
        for name in names:
            if name in self._waiting:
                self._waiting[name] = replace(self._waiting[name], tries=-1, at=now)

    def next_at(self) -> float | None:
        """Return when the next document is due, None if none waits."""
        return min((one.at for one in self._waiting.values()), default=None)

    def at(self, name: str) -> float | None:
        """Return when a document is due, None if it does not wait."""
        one = self._waiting.get(name)
        return None if one is None else one.at


class Retries:
    """One agent's retry queue with its clock, and the wait for the next document that is due."""

    def __init__(self, first: float, now: Callable[[], float]) -> None:
        self._queue = RetryQueue(first)
        self._now = now
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return how many documents wait for another try."""
        return len(self._queue)

    def failed(self, name: str, revision: int) -> None:
        """See `RetryQueue.failed`."""
        self._queue.failed(name, revision, self._now())
        self._changed.set()

    def succeeded(self, names: Collection[str]) -> dict[str, Tried]:
        """See `RetryQueue.succeeded`."""
        return self._queue.succeeded(names)

    def hurry(self, names: Iterable[str]) -> None:
        """See `RetryQueue.hurry`."""
        self._queue.hurry(names, self._now())
        self._changed.set()

    def remaining(self, name: str) -> float | None:
        """Return the seconds until a document is retried, None if it does not wait."""
        at = self._queue.at(name)
        return None if at is None else max(0.0, at - self._now())

    async def try_due(self, retry: Callable[[list[str]], Awaitable[None]]) -> None:
        """Retry the documents that are due, if any."""
        if due := self._queue.take_due(self._now()):
            await retry(due)

    async def wait(self) -> None:
        """Wait until a document is due."""
        while (at := self._queue.next_at()) is None or at > self._now():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else at - self._now()):
                    await self._changed.wait()
