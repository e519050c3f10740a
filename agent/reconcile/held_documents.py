"""Holds documents with new programs of functions until the kernel judged these; all others go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import structlog

from agent.core.config.delivery import Delivery
from agent.core.model.features import Verdict

PATIENCE = 2.0
"""Seconds that a batch waits for its programs: most are compiled by then, and it is applied as a whole."""
AGAIN = 5.0
"""Seconds after which documents that could not be applied are tried again."""

Verdicts: TypeAlias = Mapping[str, Verdict]
Judge: TypeAlias = Callable[[Sequence[Delivery]], Awaitable[Verdicts]]
Apply: TypeAlias = Callable[[Sequence[Delivery], Verdicts, Callable[[], bool]], Awaitable[None]]
"""The last parameter says whether the deliveries are still the newest ones."""

log = structlog.get_logger()


class HeldDocuments:
    """Has the programs of one document after another judged, and then the document applied."""

    def __init__(self, judge: Judge, apply: Apply) -> None:
        self._judge = judge
        self._apply = apply
        self._held: dict[str, list[Delivery]] = {}
        """The newest deliveries of each document, in the order in which the documents came."""
        self._task: asyncio.Task[None] | None = None

    def forget(self, documents: Collection[str]) -> None:
        """Hold documents no longer: newer revisions of them came, or all will be delivered again."""
        for name in documents:
            self._held.pop(name, None)

    def forget_all(self) -> None:
        """Hold no documents."""
        self._held.clear()

    async def judge_now(self, deliveries: Sequence[Delivery]) -> Verdicts | None:
        """Return the verdicts of documents' programs; None if that takes long, or others are held already."""
        if self._held:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._judge(deliveries)
        except TimeoutError:
            return None

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Hold documents until their programs are judged."""
        for delivery in deliveries:
            self._held.setdefault(delivery.document, []).append(delivery)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="held documents")

    async def stop(self) -> None:
        """Stop judging; what is held is delivered again to the next agent."""
        self._held.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._held:
            name = next(iter(self._held))
            try:
                await self._judge_and_apply(name, self._held[name])
            except Exception:
                log.exception("held_document_not_applied", document=name)
                if name in self._held:
                    self._held[name] = self._held.pop(name)  # others first
                await asyncio.sleep(AGAIN)

    async def _judge_and_apply(self, name: str, deliveries: Sequence[Delivery]) -> None:
        def newest() -> bool:
            return self._held.get(name) is deliveries

        verdicts = await self._judge(deliveries)
        if newest():
            await self._apply(deliveries, verdicts, newest)
        if newest():
            del self._held[name]
