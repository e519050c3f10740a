"""Ends asyncio tasks, and keeps one from being interrupted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
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


async def uninterrupted(call: Coroutine[Any, Any, None], done_late: Callable[[], None] | None = None) -> None:
    """Await the end of a handler call, even if the connection is lost meanwhile: nothing is half applied.

    `done_late` is called if the call succeeded after its cancellation was requested.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # the caller may cancel again
                await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None and done_late is not None:
            done_late()
        raise
