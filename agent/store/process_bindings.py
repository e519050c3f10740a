"""Saves the bindings of endpoints to processes, for the next start (`agent/core/model/process_bindings.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from agent.core.model.process_bindings import Bindings, is_of_process
from agent.store.store import Store, StoredDocument, StoreError
from protocol.codec import decode_known

log = structlog.get_logger()


class BoundProcesses:
    """The bindings of one kernel, and the store to which they are written."""

    def __init__(self, bindings: Bindings, store: Store) -> None:
        self._bindings = bindings
        self._store = store

    def restore(self, kept: Iterable[StoredDocument]) -> None:
        """Load the stored bindings, for the documents that were stored with them."""
        self._bindings.restore(self._store.load_bindings(), _attachments(kept))

    def save(self) -> bool:
        """Write the changes; return False if that failed: the next call tries again."""
        changed = self._bindings.take_changed()
        if changed:
            try:
                self._store.save_bindings(changed)
            except StoreError as error:
                self._bindings.put_back(changed)
                log.error("bindings_not_saved", reason=str(error))
                return False
        return True

    def forget_unless(self, wanted: Callable[[str], bool]) -> None:
        """Forget the processes of endpoints that are no longer wanted."""
        self._bindings.forget_unless(wanted)
        self.save()


def _attachments(kept: Iterable[StoredDocument]) -> dict[str, int]:
    """Return the document's revision of each endpoint whose namespace is named by a process id."""
    return {
        endpoint.id: revision
        for _, revision, body in kept
        if b"attachment" in body  # only endpoints of this host have one: most documents need not be decoded
        for endpoint in decode_known(body).endpoints
        if endpoint.attachment is not None and is_of_process(endpoint.attachment.namespace)
    }
