"""The agent's loops: each waits for a time, an event or a namespace, does one job, and survives its exceptions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from agent.datapath.net.namespace_watch import NamespaceWatch
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.resync import Resync
from agent.reconcile.retry import Retries
from agent.reconcile.underlay import InterfaceReplacedError
from agent.telemetry.loop_errors import LoopErrors

Job = Callable[[], Awaitable[None]]


class Loops:
    """Runs jobs repeatedly. A failed turn becomes a fault and does not end the loop.

    InterfaceReplacedError does end it: only a restarted agent can use the interface.
    """

    def __init__(self, errors: LoopErrors) -> None:
        self._errors = errors

    async def every(self, seconds: float, job: Job) -> None:
        """Do a job at regular intervals."""
        while True:
            await asyncio.sleep(seconds)
            await self.attempt(job)

    async def on_event(self, event: asyncio.Event, job: Job, pause: float = 0.0) -> None:
        """Do a job whenever an event is set, with a pause in between; the event is cleared before the job starts."""
        while True:
            await event.wait()
            event.clear()
            await self.attempt(job)
            await asyncio.sleep(pause)

    async def on_retry(self, retries: Retries, resync: Resync) -> None:
        """Retry each document that the kernel refused when its backoff is over."""
        while True:
            await retries.wait()
            await self.attempt(partial(retries.try_due, resync.retry), "retry")

    async def on_namespaces(self, reconciler: Reconciler, resync: Resync) -> None:
        """Repair a namespace's endpoints as soon as it appears, for the first time or again."""
        waiting_changed = reconciler.results.waiting_changed
        with contextlib.closing(NamespaceWatch(reconciler.namespaces)) as watch:
            waiting = asyncio.create_task(waiting_changed.wait())
            appeared = asyncio.create_task(watch.wait())
            try:
                while True:
                    await asyncio.wait((waiting, appeared), return_when=asyncio.FIRST_COMPLETED)
                    if waiting.done():
                        waiting_changed.clear()
                        watch.set_waiting(reconciler.results.waiting_for())
                        waiting = asyncio.create_task(waiting_changed.wait())
                    if appeared.done():
                        await self.attempt(partial(resync.namespaces_appeared, appeared.result()), "namespaces")
                        appeared = asyncio.create_task(watch.wait())
            finally:
                waiting.cancel()
                appeared.cancel()

    async def attempt(self, job: Job, name: str = "") -> None:
        """Do a job once; an exception becomes a fault under its name."""
        name = name or getattr(job, "__name__", str(job)).strip("_")
        try:
            await job()
        except InterfaceReplacedError:
            raise
        except Exception as error:
            self._errors.failed(name, error)
        else:
            self._errors.passed(name)
