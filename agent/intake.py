"""The handler of the bus: passes documents and queries on to the parts that process them."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.config.delivery import Delivery
from agent.core.faults.tracker import ReportFaults
from agent.reconcile.reconciler import Reconciler
from agent.report.queries import Queries
from agent.report.status_messages import documents_missing, objects_unexplained
from agent.report.status_reporter import StatusReporter
from agent.store.signed_documents import Publishers


class Intake:
    """Passes everything from the bus on to the parts, in the required order."""

    def __init__(
        self,
        host: str,
        publishers: Publishers,
        reconciler: Reconciler,
        status: StatusReporter,
        queries: Queries,
        report: ReportFaults,
    ) -> None:
        self._host = host
        self._publishers = publishers
        self._reconciler = reconciler
        self._status = status
        self._queries = queries
        self._report = report

    async def begin_snapshot(self) -> None:
        """Prepare for a new delivery of every document."""
        self._publishers.begin_snapshot()
        await self._reconciler.begin_snapshot()

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Process a batch of documents."""
        self._publishers.take(batch)
        await self._reconciler.deliver(batch)
        self._report_absent()

    async def snapshot_complete(self) -> None:
        """Record that all documents have been delivered, and send the status at once."""
        self._publishers.snapshot_complete()
        await self._reconciler.snapshot_complete()
        self._report_absent()
        await self._status.send_status()

    async def ask(self, verb: str, body: bytes) -> bytes:
        """Answer a query."""
        try:
            return await self._queries.ask(verb, body)
        finally:  # a sweep may remove documents and still end with an error
            self._report_absent()

    def _report_absent(self) -> None:
        """Report documents in force, and objects in the kernel, that no message of the stream explains."""
        missing = documents_missing(self._host, self._reconciler.desired.documents.absent)
        unexplained = objects_unexplained(self._host, self._reconciler.removals.unexplained)
        self._report("documents", [*missing, *unexplained])
