"""Truncates long lists for messages and texts: the first items, and the number of the others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from protocol.codec import MAX_ERRORS

T = TypeVar("T")

MOST_NAMES = 10
"""The most names that one text lists."""


def first(items: Sequence[T], more: Callable[[int], T]) -> tuple[T, ...]:
    """Return as many items as a message holds, followed by `more(n)` if `n` items were left out."""
    left = len(items) - MAX_ERRORS
    return (*items[:MAX_ERRORS], more(left)) if left > 0 else tuple(items)


def first_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return as many lines as an event holds, followed by the number of lines left out."""
    return first(lines, lambda left: f"and {left} more")


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Return the first names in one text, followed by the number of names left out."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")
