"""Saves the documents that the kernel accepted completely: a restarted agent starts with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.core.config.registry import Entry
from agent.core.faults.tracker import ReportFaults
from agent.store.process_bindings import BoundProcesses
from agent.store.store import Store, StoredDocument, StoreError, not_saved


class LastGood:
    """The good revisions that are not on disk yet, and the store."""

    def __init__(self, store: Store, processes: BoundProcesses, report: ReportFaults) -> None:
        self._store = store
        self._processes = processes
        self._report = report
        self._unsaved: set[str] = set()

    def changed(self, names: Iterable[str]) -> None:
        """Record that the good revision of these documents changed, or that they no longer have one."""
        self._unsaved.update(names)

    def save(self, entries: Mapping[str, Entry]) -> None:
        """Write the changes. A store that cannot be written is a fault; work continues, and the write is retried.

        Bindings are saved first: a document without them would be bound to no process after a restart.
        """
        if not self._processes.save() or not self._unsaved:
            return
        good = {name: entries[name].good for name in self._unsaved if name in entries}
        kept = [StoredDocument(name, held.revision, held.body) for name, held in good.items() if held is not None]
        try:
            self._store.save(kept, self._unsaved - {one.name for one in kept})
        except StoreError as error:
            self._report("store", [not_saved("documents_not_saved", str(error))])
        else:
            self._report("store", [])
            self._unsaved.clear()
