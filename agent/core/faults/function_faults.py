"""Finds functions that fail: their counter of faults grows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from protocol.status import Fault

QUIET_SECONDS = 60.0
"""A fault ends when the function did not fail for so many seconds."""
_REMEDY = (
    "correct its program so that every path returns a verdict that its stage point allows, and the packet stays whole; "
    "then publish its document again (dropletctl counters HOST counts the faults)"
)


class FailingFunction(NamedTuple):
    """A function at one stage point, and what becomes of packets with which it fails."""

    id: str
    point: str
    closed: bool


class FunctionWatch:
    """Remembers which functions failed recently."""

    def __init__(self) -> None:
        self._counts: dict[FailingFunction, int] | None = None
        self._grew: dict[FailingFunction, float] = {}
        """When a function's faults last grew."""

    def look(self, counts: Mapping[FailingFunction, int], now: float) -> None:
        """Record the faults of all functions at `now`, in seconds. Those before the first call are ignored."""
        before, self._counts = self._counts, dict(counts)
        for function, number in counts.items():
            if before is not None and number > before.get(function, 0):
                self._grew[function] = now
        self._grew = {one: grew for one, grew in self._grew.items() if one in counts and now < grew + QUIET_SECONDS}

    def faults(self) -> list[Fault]:
        """Return a fault for each function that failed recently."""
        return [_fault(function) for function in sorted(self._grew)]


def _fault(function: FailingFunction) -> Fault:
    fate = "are dropped (on_fault is closed)" if function.closed else "go on (on_fault is open)"
    detail = f"its verdict for packets is invalid, or it leaves them unusable; such packets {fate}"
    return Fault("function_failing", f"{function.id} ({function.point})", detail, _REMEDY)
