"""Has the kernel check functions' programs before their documents come into force: verdicts belong to the host state.

Documents do not wait for one another: those with a program that is not checked yet are pending, all others are applied.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from agent.core.config.delivery import Delivery
from agent.core.config.desired_state import Desired
from agent.core.functions.check_queue import CheckQueue
from agent.core.functions.programs import UncheckedProgram, content_of, unchecked, verdict_key
from agent.core.functions.stages import Point
from agent.core.kinds.functions import FUNCTIONS
from agent.core.model.features import Verdict
from agent.core.model.resolved_state import ResolvedState
from agent.core.plan.actions import EnsureFunction, Failure
from agent.reconcile.kernel_port import KernelPort
from agent.store.store import StoredDocument
from protocol.codec import decode_document, decode_known
from protocol.documents import Function
from protocol.errors import DocumentError

log = structlog.get_logger()

AT_ONCE = 2
"""Programs that are checked at a time, each of another document."""
_FIELD = FUNCTIONS.name.encode()
"""Stands in the body of each document that lists functions: others are not decoded here, unless they did before."""


class ProgramVerdicts:
    """Keeps the verdicts of the programs that documents list, and the queue of those that have none yet."""

    def __init__(self, kernel: KernelPort) -> None:
        self.waiting = asyncio.Event()
        """Set when a program may be checked; a loop that calls `Reconciler.check_program` clears it."""
        self._kernel = kernel
        self._queue = CheckQueue()

    def take(self, batch: Sequence[Delivery], desired: Desired) -> None:
        """Queue the programs without a verdict of a batch of documents, just before these are applied.

        Programs that this host does not accept are neither compiled nor loaded: their documents are rejected anyway.
        """
        for delivery in batch:
            if delivery.revision <= desired.documents.newest(delivery.document):
                continue
            if not self._queue.lists(delivery.document) and _FIELD not in (delivery.body or b""):
                continue
            functions = _accepted(delivery, desired.resolved)
            if functions is None:
                continue  # the revision before remains the newest one that may come into force
            new = [] if _is_known(delivery, desired) else unchecked(functions, desired.verdicts)
            keys = [verdict_key(one.program, one.point) for one in functions]
            self._queue.put(delivery.document, delivery.revision, keys, new)
        self._publish(desired)

    def take_lost(self, failures: Iterable[Failure], desired: Desired) -> None:
        """Queue the programs of documents in force that have to be checked again before they can be installed."""
        for failure in failures:
            if isinstance(failure.action, EnsureFunction) and failure.errno == errno.EINPROGRESS:
                function = failure.action.function
                owner, point = desired.documents.owner(FUNCTIONS, function.id), Point(function.point)
                key = verdict_key(function.program, point.label)
                if owner is not None:
                    one = UncheckedProgram(key, point, function.program, function.configuration)
                    self._queue.put_again(owner, one)
        self._publish(desired)

    def forget(self, names: Iterable[str], desired: Desired) -> None:
        """Forget the verdicts that only former revisions of these documents needed."""
        gone = frozenset[str]()
        for name in names:
            entry = desired.documents.entries.get(name)
            gone |= self._queue.forget(name, [held.revision for held in entry.kept()] if entry is not None else [])
        gone -= {verdict_key(one.program, one.point) for one in desired.resolved.functions.values()}
        if not gone.isdisjoint(desired.verdicts):
            desired.set_verdicts({key: one for key, one in desired.verdicts.items() if key not in gone})

    def remove(self, names: Iterable[str], desired: Desired) -> None:
        """Forget documents that were removed without a message."""
        for name in names:
            self._queue.remove(name)
        self._publish(desired)

    @property
    def are_known(self) -> bool:
        """Return whether no program waits for its verdict."""
        return not self._queue.keys

    def begin_next(self) -> UncheckedProgram | None:
        """Return the program to check next, None if there is none."""
        return self._queue.begin_next()

    async def check(self, one: UncheckedProgram) -> Mapping[str, Verdict]:
        """Return the verdict of one program, nothing if it could not be checked."""
        try:
            return await self._kernel.check([one])
        except Exception as error:
            log.exception("program_not_checked", program=one.key, reason=str(error))
            return {}

    def end(self, one: UncheckedProgram, found: Mapping[str, Verdict], desired: Desired) -> Collection[str]:
        """Record the verdict of a program; return the documents that waited for it. Without one, they are not held."""
        names = self._queue.end(one.key)
        known = desired.verdicts
        for key, verdict in found.items() if names else ():
            log.info("program_checked", program=key, refusal=verdict.refusal)
            desired.set_verdicts({**known, key: _with_older(verdict, known.get(key))})
        self._publish(desired)
        return names

    def _publish(self, desired: Desired) -> None:
        desired.set_unchecked(self._queue.keys)
        if self._queue.keys:
            self.waiting.set()


async def verdicts_of_files(kernel: KernelPort, kept: Iterable[StoredDocument]) -> Mapping[str, Verdict]:
    """Return the verdicts of the files that saved documents name: only they tell what the files contain.

    Other programs of saved documents are not checked again: the kernel took them before.
    """
    functions = [one for _, _, body in kept if _FIELD in body for one in decode_known(body).functions]
    files = unchecked((one for one in functions if one.program.file), {})
    return await kernel.check(files) if files else {}


def map_bytes_of(
    kernel: KernelPort, kept: Iterable[StoredDocument], verdicts: Mapping[str, Verdict]
) -> Mapping[str, int]:
    """Return what the maps of the programs of saved documents take, by content."""
    functions = [one for _, _, body in kept if _FIELD in body for one in decode_known(body).functions]
    return kernel.map_bytes({content_of(one.program, verdicts, one.point) for one in functions} - {""})


def _accepted(delivery: Delivery, resolved: ResolvedState) -> list[Function] | None:
    """Return the functions of a document whose programs this host accepts, None if it is no valid document."""
    if delivery.refusal is not None:
        return None
    if delivery.body is None:
        return []
    try:
        functions = decode_document(delivery.body).functions
    except DocumentError:
        return None
    return [one for one in functions if not any(FUNCTIONS.not_permitted([one], delivery.document, resolved))]


def _is_known(delivery: Delivery, desired: Desired) -> bool:
    """Return whether a delivery only repeats what is known, as in a replay."""
    entry = desired.documents.entries.get(delivery.document)
    kept = entry.kept() if entry is not None else []
    return any((held.revision, held.body) == (delivery.revision, delivery.body) for held in kept)


def _with_older(verdict: Verdict, known: Verdict | None) -> Verdict:
    """Return a new verdict; a file that is refused now keeps the content and the maps of its version that is not."""
    return replace(known, refusal=verdict.refusal) if verdict.refusal and known is not None else verdict
