"""Saves the versions of signed documents, and reports refused documents as faults."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.config.delivery import Delivery
from agent.core.config.refused_messages import RefusedMessages
from agent.core.faults.tracker import ReportFaults
from agent.store.store import Store, StoreError
from protocol import subjects
from protocol.signed_versions import UNSIGNED, SignedVersion
from protocol.status import Fault

SOURCE = "publishers"
"""The component under whose name faults are reported."""


class Publishers:
    """Records versions and refusals of each batch before its documents are applied."""

    def __init__(self, host: str, store: Store, report: ReportFaults) -> None:
        self._subject = subjects.config_of(host)
        self._store = store
        self._report = report
        self._refused = RefusedMessages()
        self._unsaved: dict[str, tuple[SignedVersion, bool]] = {}
        self._store_fault: tuple[Fault, ...] = ()
        self._in_snapshot = False

    def begin_snapshot(self) -> None:
        """Forget all refusals: every document will be delivered again. Reported faults stand until all have been."""
        self._in_snapshot = True
        self._refused.clear()

    def take(self, batch: Sequence[Delivery]) -> None:
        """Record a batch. Versions are saved before documents are applied, so a crash cannot reopen a replay."""
        for delivery in batch:
            self._refused.take(delivery.document, delivery.refusal)
            if delivery.version != UNSIGNED:
                self._unsaved[delivery.document] = (delivery.version, delivery.body is None)
        self._save()
        if not self._in_snapshot:
            self._report_all()

    def snapshot_complete(self) -> None:
        """Record that all documents have been delivered, and report the standing faults."""
        self._in_snapshot = False
        self._report_all()

    def _report_all(self) -> None:
        self._report(SOURCE, (*self._refused.faults(self._subject), *self._store_fault))

    def _save(self) -> None:
        if not self._unsaved:
            return
        try:
            self._store.save_versions((name, *kept) for name, kept in self._unsaved.items())
        except StoreError as error:
            detail = f"the versions of {len(self._unsaved)} signed documents are not on disk: {error}"
            remedy = "free space or repair the disk; until then a restarted agent may accept replayed older documents"
            self._store_fault = (Fault("versions_not_kept", str(self._store.file), detail, remedy),)
        else:
            self._unsaved.clear()
            self._store_fault = ()
