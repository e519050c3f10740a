"""Ends asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    One cancellation may be lost: before Python 3.12, wait_for() ignores one that comes as the awaited future completes,
    and nats-py uses it for requests. Returns when all have ended and raises nothing of theirs: their results stay with
    the tasks.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1)
    await asyncio.gather(*tasks, return_exceptions=True)
