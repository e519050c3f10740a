"""Observables: a value with its subscribers. The publisher does not know the subscribers.

A subscriber that raises or is slow harms neither the publisher nor the other subscribers, and always gets the newest
value in the end; intermediate values may be skipped. Use it only in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from agent.telemetry.loop_errors import LoopErrors

RETRY_SECONDS = 1.0
"""Seconds from a subscriber's failure to the next delivery of the newest value."""

T = TypeVar("T")


class Observable(Generic[T]):
    """A value that changes, and its subscriptions."""

    def __init__(self) -> None:
        self.version = 0
        """The number of values published so far; 0: there is no value yet."""
        self._newest: T | None = None
        self._subscriptions: list[Subscription[T]] = []

    @property
    def value(self) -> T | None:
        """Return the newest value, None before the first one."""
        return self._newest

    def publish(self, value: T) -> None:
        """Publish a value to all subscribers. Exceptions of subscribers do not reach the caller."""
        self._newest = value
        self.version += 1
        for subscription in tuple(self._subscriptions):
            subscription.deliver()

    def subscribe(self, name: str, take: Callable[[T], None], errors: LoopErrors) -> Subscription[T]:
        """Call `take` with the current value at once and then with each new one. `take` must return quickly.

        An exception is reported to `errors` under the subscriber's name, and the newest value is delivered again.
        """
        subscription = Subscription(self, name, take, errors)
        self._subscriptions.append(subscription)
        subscription.deliver()
        return subscription

    def unsubscribe(self, subscription: Subscription[T]) -> None:
        """Stop delivering to a subscription."""
        with contextlib.suppress(ValueError):
            self._subscriptions.remove(subscription)

    async def follow(self, name: str, act: Callable[[T], Awaitable[None]], errors: LoopErrors) -> None:
        """Act on the newest value, one at a time, until cancelled: for subscribers that take long.

        A value that is published meanwhile waits, and replaces one that is waiting. After an exception, `act` is called
        again with the newest value.
        """
        published = asyncio.Event()
        subscription = self.subscribe(name, lambda _: published.set(), errors)
        try:
            while True:
                await published.wait()
                published.clear()
                try:
                    await act(self._newest)  # type: ignore[arg-type]  # set since `published` is
                except Exception as error:
                    errors.failed(name, error)
                    await asyncio.sleep(RETRY_SECONDS)
                    published.set()
                else:
                    errors.passed(name)
        finally:
            self.unsubscribe(subscription)


class Subscription(Generic[T]):
    """One subscriber, and whether it has the newest value."""

    def __init__(self, source: Observable[T], name: str, take: Callable[[T], None], errors: LoopErrors) -> None:
        self._source = source
        self._name = name
        self._take = take
        self._errors = errors
        self._taken = 0
        self._retry: asyncio.TimerHandle | None = None

    def deliver(self) -> None:
        """Deliver the newest value unless the subscriber has it; after an exception, try again later."""
        version, value = self._source.version, self._source.value
        if version <= self._taken:
            return
        try:
            self._take(value)  # type: ignore[arg-type]  # set since the first version
        except Exception as error:
            self._errors.failed(self._name, error)
            if self._retry is None:
                self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._deliver_again)
        else:
            self._taken = max(version, self._taken)
            self._errors.passed(self._name)

    def _deliver_again(self) -> None:
        self._retry = None
        self.deliver()
