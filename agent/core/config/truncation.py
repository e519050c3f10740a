"""What a message holds of a long list: the first ones, and how many more there are. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from protocol.codec import MAX_ERRORS

T = TypeVar("T")


def first(items: Sequence[T], more: Callable[[int], T]) -> tuple[T, ...]:
    """Return as many items as a message holds, and after them what `more` makes of the number left out, if any."""
    left = len(items) - MAX_ERRORS
    return (*items[:MAX_ERRORS], more(left)) if left > 0 else tuple(items)


def first_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return as many lines as an event holds, and how many more there are."""
    return first(lines, lambda left: f"and {left} more")
