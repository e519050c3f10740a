"""Detects requests that the server refuses: it reports that separately, and the request gets no answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any, TypeVar

import click

T = TypeVar("T")

_VIOLATION = re.compile(r"permissions violation for (publish|subscription) to \"?([^\s\"]+)", re.IGNORECASE)


class PermissionDenied(click.ClickException):
    """The server refused the request."""

    exit_code = 3


class PermissionErrors:
    """The subjects that the server refused on one connection, in lower case as the library reports them."""

    def __init__(self, inbox_prefix: str) -> None:
        self._inbox_prefix = inbox_prefix
        self._found: dict[str, str] = {}
        self._changed = asyncio.Event()

    async def take(self, error: Exception) -> None:
        """Record an error that the library reports."""
        found = _VIOLATION.search(str(error))
        if found is not None:
            self._found[found[2].lower()] = "subscribe" if found[1].lower() == "subscription" else "publish"
            self._changed.set()

    async def unless(self, work: Awaitable[T], subject: str) -> T:
        """Await work that publishes to a subject and waits for answers; raise PermissionDenied if it is refused."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                self._raise_for(subject)
                self._changed.clear()
                await _first(task, self._changed.wait())
            return task.result()
        finally:
            task.cancel()

    def _raise_for(self, subject: str) -> None:
        for refused, verb in self._found.items():
            if verb == "publish" and refused == subject.lower():
                raise PermissionDenied(_words(verb, subject))
            if verb == "subscribe" and refused.startswith(self._inbox_prefix.lower()):
                raise PermissionDenied(_words(verb, f"{self._inbox_prefix}.>"))


def _words(verb: str, subject: str) -> str:
    return (
        f"the server refused the request: these credentials may not {verb} to {subject}; give an operator's nkey with "
        f"--nkey-seed-file (an agent's nkey is valid for its own host only)"
    )


async def _first(task: asyncio.Future[Any], other: Awaitable[Any]) -> None:
    """Wait until a task or something else is done; the task goes on."""
    waiting = asyncio.ensure_future(other)
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
