"""When each document that the kernel refused is tried again: every document has a backoff of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

LONGEST = 6
"""The longest time between two tries of a document, in multiples of the first one."""
TOGETHER = 0.1
"""Documents are tried together whose turns are less than this part of the first time apart."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    revision: int
    tries: int
    at: float


class RetryQueue:
    """The documents that wait for another try. Pure: times are seconds of any one clock."""

    def __init__(self, first: float) -> None:
        """Wait `first` seconds for the first try, and twice as long for each further one, `LONGEST` times at most."""
        self._first = first
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        """Return how many documents wait."""
        return len(self._waiting)

    def failed(self, name: str, revision: int, now: float) -> None:
        """Take in that the kernel refuses part of a revision. One that waits goes on waiting for its turn."""
        known = self._waiting.get(name)
        if known is None or known.revision != revision:
            self._waiting[name] = _Waiting(revision, 0, now + self._first)

    def succeeded(self, names: Collection[str]) -> None:
        """Take in that the kernel refuses nothing of some documents any more, or that they are gone."""
        for name in [name for name in self._waiting if name in names]:
            del self._waiting[name]

    def take_due(self, now: float) -> list[str]:
        """Return the documents whose turn it is, by name; each that fails again waits twice as long from now on."""
        due = sorted(name for name, one in self._waiting.items() if one.at <= now + self._first * TOGETHER)
        for name in due:
            one = self._waiting[name]
            pause = self._first * min(2 ** (one.tries + 1), LONGEST)
            self._waiting[name] = _Waiting(one.revision, min(one.tries + 1, LONGEST), now + pause)
        return due

    def hurry(self, names: Iterable[str], now: float) -> None:
        """Make it the turn of some documents that wait, as if they had not been tried before."""
        for name in names:
            if name in self._waiting:
                self._waiting[name] = _Waiting(self._waiting[name].revision, -1, now)

    def next_at(self) -> float | None:
        """Return the time of the next turn, None when no document waits."""
        return min((one.at for one in self._waiting.values()), default=None)

    def at(self, name: str) -> float | None:
        """Return the time of a document's turn, None when it does not wait."""
        one = self._waiting.get(name)
        return None if one is None else one.at


class Retries:
    """The retry queue of one agent by its clock, and the loop that waits for the turns."""

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

    def succeeded(self, names: Collection[str]) -> None:
        """See `RetryQueue.succeeded`."""
        self._queue.succeeded(names)

    def hurry(self, names: Iterable[str]) -> None:
        """See `RetryQueue.hurry`."""
        self._queue.hurry(names, self._now())
        self._changed.set()

    def remaining(self, name: str) -> float | None:
        """Return the seconds until a document is tried again, None when it does not wait."""
        at = self._queue.at(name)
        return None if at is None else max(0.0, at - self._now())

    async def try_due(self, retry: Callable[[list[str]], Awaitable[None]]) -> None:
        """Have the documents tried whose turn it is, if there are any."""
        if due := self._queue.take_due(self._now()):
            await retry(due)

    async def wait(self) -> None:
        """Wait until it is some document's turn."""
        while (at := self._queue.next_at()) is None or at > self._now():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else at - self._now()):
                    await self._changed.wait()
