"""Waiting for what must come, and no longer than it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120.0
"""Seconds after which what is waited for counts as never coming. A sound run waits far less, but four labs may start at
once beside what else keeps the machine busy, and each of their agents takes seconds of CPU time to load programs."""

TURNS = 100
"""Turns of the event loop, far more than anything takes that waits for nothing but its turn."""

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "it", seconds: float = PATIENCE) -> T:
    """Wait until a function returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.02)
    return found


async def many_turns() -> None:
    """Let the event loop handle all that is ready, and what follows from that: what did not happen then does not."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
