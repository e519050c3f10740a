"""Remembers what was said of each thing, so that a loop that finds the same again says it once. Pure."""

from __future__ import annotations

from collections.abc import Hashable


class LogOnce:
    """What stands, by the thing that it concerns."""

    def __init__(self) -> None:
        self._standing: dict[Hashable, str] = {}

    def is_new(self, thing: Hashable, text: str) -> bool:
        """Take in that something is the case; say whether that is new, or another thing than before."""
        if self._standing.get(thing) == text:
            return False
        self._standing[thing] = text
        return True

    def clear(self, thing: Hashable) -> bool:
        """Take in that nothing is the case any more; say whether something was."""
        return self._standing.pop(thing, None) is not None
