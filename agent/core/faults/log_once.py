"""Remembers what was logged about each object, so that a loop logs a persistent condition only once. Pure."""

from __future__ import annotations

from collections.abc import Hashable


class LogOnce:
    """The current condition of each object."""

    def __init__(self) -> None:
        self._standing: dict[Hashable, str] = {}

    def is_new(self, thing: Hashable, text: str) -> bool:
        """Record an object's condition; return whether it is new or has changed."""
        if self._standing.get(thing) == text:
            return False
        self._standing[thing] = text
        return True

    def clear(self, thing: Hashable) -> bool:
        """Record that an object's condition ended; return whether there was one."""
        return self._standing.pop(thing, None) is not None
