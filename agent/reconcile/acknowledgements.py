"""Acknowledges each revision once the kernel holds it, or reports why it does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog

from agent.core.config.ack_tracker import AckTracker
from agent.core.config.desired_state import Desired
from agent.core.config.registry import DocumentStatus, Registry
from agent.core.config.truncation import first
from agent.core.faults.log_once import LogOnce
from agent.reconcile.retry import Retries
from protocol.acknowledgements import Acknowledgement, KernelFailure, Reference, State
from protocol.codec import limited

log = structlog.get_logger()


class Acknowledgements:
    """Sends the verdicts of one host's documents to the bus when they change."""

    def __init__(self, send: Callable[[Acknowledgement], None], retries: Retries) -> None:
        self.tracker = AckTracker()
        """The last acknowledgement sent for each document."""
        self._send = send
        self._retries = retries
        self._rejected = LogOnce()

    def forget(self) -> None:
        """Acknowledge every document again: the acknowledgements' stream may be a new one."""
        self.tracker.resend_all()

    def send(self, desired: Desired, names: Iterable[str], postponed: Collection[str] = ()) -> None:
        """Acknowledge the named documents whose verdict changed, the oldest revision first.

        `postponed` documents are not acknowledged yet.
        """
        documents, now = desired.documents, time.time()
        known = documents.entries.keys() & set(names)
        self._schedule(desired, known)
        for name in sorted(known.difference(postponed), key=documents.newest):
            verdict = desired.status(name)
            if self.tracker.record(verdict, now):
                self._acknowledge(verdict, now)
            documents.forget(name)

    def _schedule(self, desired: Desired, names: set[str]) -> None:
        """Schedule a retry of the named documents of which the kernel refused a part; log those that succeeded."""
        documents = desired.documents
        failing = {name for name in names if documents.entries[name].failures}
        for name in failing:
            self._retries.failed(name, _tried_revision(documents, name))
        for name, tried in sorted(self._retries.succeeded(names - failing).items()):
            same = _tried_revision(documents, name) == tried.revision
            if same and desired.status(name).state is State.REALIZED:
                log.info("document_recovered", document=name, attempts=tried.attempts)

    def _acknowledge(self, verdict: DocumentStatus, now: float) -> None:
        remaining = self._retries.remaining(verdict.name)
        answer = acknowledgement(verdict, now, None if remaining is None else now + remaining)
        self._send(answer)
        if answer.state is not State.REJECTED:
            self._rejected.clear(verdict.name)
        elif self._rejected.is_new(verdict.name, str(answer.errors)):
            for error in answer.errors:
                log.warning("document_rejected", document=verdict.name, path=error.path, reason=error.message)


def acknowledgement(verdict: DocumentStatus, at: float, retry_at: float | None) -> Acknowledgement:
    """Return the acknowledgement of a verdict that holds since `at`; `retry_at` is sent if the kernel refused a part.

    Long lists are truncated and end with the number of omitted items, because messages on the bus have a limited size.
    """
    return Acknowledgement(
        document=verdict.name,
        revision=verdict.revision,
        state=verdict.state,
        at=at,
        in_force=verdict.in_force,
        removed=verdict.removed,
        missing=first(verdict.missing, lambda left: Reference("and", f"{left} more")),
        errors=tuple(limited(verdict.errors)),
        failures=_first_failures(verdict.failures + verdict.lacking),
        retry_at=retry_at if _is_retried(verdict) else None,
        absent=verdict.absent,
    )


def _tried_revision(documents: Registry, name: str) -> int:
    """Return the revision of a document that is tried, 0 if the newest one is its removal."""
    latest = documents.entries[name].latest
    return latest.revision if latest else 0


def _is_retried(verdict: DocumentStatus) -> bool:
    """Return whether a document is retried: not if only the host's interfaces lack something."""
    return verdict.state is State.FAILED and bool(verdict.failures or not verdict.lacking)


def _first_failures(failures: Sequence[KernelFailure]) -> tuple[KernelFailure, ...]:
    def more(left: int) -> KernelFailure:
        one = failures[-left]
        return KernelFailure(one.errno, one.name, f"{left} more", "the first ones are named")

    return first(failures, more)
