"""Keeps on disk which processes stand for endpoints' namespaces, from one agent to the next (`agent/core/model`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from structlog.typing import FilteringBoundLogger

from agent.core.model.process_bindings import Bindings, is_of_process
from agent.reconcile.store import Store, StoredDocument, StoreError
from protocol.codec import decode_known


class BoundProcesses:
    """The bindings of one kernel, and the store that they are written to."""

    def __init__(self, bindings: Bindings, store: Store, log: FilteringBoundLogger) -> None:
        self._bindings = bindings
        self._store = store
        self._log = log

    def restore(self, kept: Iterable[StoredDocument]) -> None:
        """Take in what was written, for the documents that were kept with it."""
        self._bindings.restore(self._store.load_bindings(), _attachments(kept))

    def save(self) -> bool:
        """Write what changed. False: it could not be written, and is tried again at the next call."""
        changed = self._bindings.take_changed()
        if changed:
            try:
                self._store.save_bindings(changed)
            except StoreError as error:
                self._bindings.put_back(changed)
                self._log.error("bindings_not_saved", reason=str(error))
                return False
        return True

    def forget_unless(self, wanted: Callable[[str], bool]) -> None:
        """Forget the processes of endpoints that are not wanted any more."""
        self._bindings.forget_unless(wanted)
        self.save()


def _attachments(kept: Iterable[StoredDocument]) -> dict[str, int]:
    """Return the revision of each endpoint whose namespace some kept documents name by a process id."""
    return {
        endpoint.id: revision
        for _, revision, body in kept
        if b"attachment" in body  # only endpoints of this host have one: most documents need not be decoded
        for endpoint in decode_known(body).endpoints
        if endpoint.attachment is not None and is_of_process(endpoint.attachment.namespace)
    }
