"""The bus's handler: hands documents to the parts that take them, and questions to the one that answers."""

from __future__ import annotations

from collections.abc import Sequence

from agent.bus.documents import Delivery
from agent.core.faults.tracker import ReportFaults
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.signed_documents import Publishers
from agent.report.queries import Queries
from agent.report.status_messages import documents_missing, objects_unexplained
from agent.report.status_reporter import StatusReporter


class Intake:
    """What comes from the bus, in the order in which the parts have to see it."""

    def __init__(
        self,
        host: str,
        publishers: Publishers,
        reconciler: Reconciler,
        status: StatusReporter,
        answers: Queries,
        report: ReportFaults,
    ) -> None:
        self._host = host
        self._publishers = publishers
        self._reconciler = reconciler
        self._status = status
        self._queries = answers
        self._report = report

    async def begin_snapshot(self) -> None:
        """Take note that every document comes again."""
        self._publishers.begin_snapshot()
        await self._reconciler.begin_snapshot()

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Take documents in."""
        self._publishers.take(batch)
        await self._reconciler.deliver(batch)
        self._report_absent()

    async def snapshot_complete(self) -> None:
        """Take note that all documents are here, and send the status at once."""
        self._publishers.snapshot_complete()
        await self._reconciler.snapshot_complete()
        self._report_absent()
        await self._status.send_status()

    async def ask(self, verb: str, body: bytes) -> bytes:
        """Answer a question."""
        answer = await self._queries.ask(verb, body)
        self._report_absent()
        return answer

    def _report_absent(self) -> None:
        """Report what is in force here, or in the kernel, and in no message of the stream."""
        missing = documents_missing(self._host, self._reconciler.desired.documents.absent)
        unexplained = objects_unexplained(self._host, self._reconciler.removals.unexplained)
        self._report("documents", [*missing, *unexplained])
