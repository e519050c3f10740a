"""Has the kernel judge functions' programs before their documents are validated: verdicts belong to the host state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import structlog

from agent.core.config.delivery import Delivery
from agent.core.config.desired_state import Desired
from agent.core.functions.programs import UnjudgedProgram, unjudged, verdict_key
from agent.core.kinds.functions import FUNCTIONS
from agent.core.model.features import Verdict
from agent.core.model.resolved_state import ResolvedState
from agent.reconcile.kernel_port import KernelPort
from agent.store.store import StoredDocument
from protocol.codec import decode_document, decode_known
from protocol.documents import Function
from protocol.errors import DocumentError

log = structlog.get_logger()

_FIELD = FUNCTIONS.name.encode()
"""Stands in the body of each document that lists functions: others are not decoded here."""


class ProgramVerdicts:
    """Keeps the verdicts of the programs that the newest revisions of documents list."""

    def __init__(self, kernel: KernelPort) -> None:
        self._kernel = kernel
        self._used: dict[str, frozenset[str]] = {}
        """The keys of the verdicts that each document needs."""

    def new_in(self, batch: Sequence[Delivery], desired: Desired) -> frozenset[str]:
        """Return the documents of a batch with programs that the kernel has to judge first."""
        return frozenset(one.document for one in batch if self._unjudged(one, desired))

    async def judge(self, batch: Sequence[Delivery], desired: Desired) -> Mapping[str, Verdict]:
        """Have the kernel judge the new programs of documents, which are not applied yet.

        Programs that this host does not accept are neither compiled nor loaded: their documents are rejected anyway.
        """
        wanted: dict[str, UnjudgedProgram] = {}
        for delivery in batch:
            wanted |= {one.key: one for one in self._unjudged(delivery, desired)}
        found = await self._kernel.judge(list(wanted.values())) if wanted else {}
        for key, verdict in found.items():
            log.info("program_judged", program=key, refusal=verdict.refusal)
        return found

    def take(self, batch: Sequence[Delivery], desired: Desired, found: Mapping[str, Verdict]) -> Mapping[str, Verdict]:
        """Return all verdicts after a batch, which is applied next; `found` are those of its new programs."""
        before, known = self._used.copy(), desired.verdicts
        for delivery in batch:
            functions = _accepted(delivery, desired.resolved)
            self._used[delivery.document] = keys = frozenset(verdict_key(one.program, one.point) for one in functions)
            if not keys:
                del self._used[delivery.document]
        gone = frozenset().union(*before.values()).difference(*self._used.values())
        if not found and gone.isdisjoint(known):
            return known
        return {key: one for key, one in {**known, **_with_older(found, known)}.items() if key not in gone}

    def _unjudged(self, delivery: Delivery, desired: Desired) -> list[UnjudgedProgram]:
        if _is_known(delivery, desired):
            return []
        return unjudged(_accepted(delivery, desired.resolved), desired.verdicts)


async def verdicts_of_files(kernel: KernelPort, kept: Iterable[StoredDocument]) -> Mapping[str, Verdict]:
    """Return the verdicts of the files that saved documents name: only they tell what the files contain.

    Other programs of saved documents are not judged again: the kernel took them before.
    """
    functions = [one for _, _, body in kept if _FIELD in body for one in decode_known(body).functions]
    files = unjudged((one for one in functions if one.program.file), {})
    return await kernel.judge(files) if files else {}


def _accepted(delivery: Delivery, resolved: ResolvedState) -> list[Function]:
    """Return the functions of a document whose programs this host accepts; none if it is no valid document."""
    if delivery.refusal is not None or delivery.body is None or _FIELD not in delivery.body:
        return []
    try:
        functions = decode_document(delivery.body).functions
    except DocumentError:
        return []
    return [one for one in functions if not any(FUNCTIONS.not_permitted([one], delivery.document, resolved))]


def _is_known(delivery: Delivery, desired: Desired) -> bool:
    """Return whether a delivery only repeats what is known, as in a replay."""
    entry = desired.documents.entries.get(delivery.document)
    kept = entry.kept() if entry is not None else []
    return any((held.revision, held.body) == (delivery.revision, delivery.body) for held in kept)


def _with_older(found: Mapping[str, Verdict], known: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Return new verdicts; a file that is refused now keeps the content of its version that is not."""
    return {
        key: Verdict(known[key].content, verdict.refusal) if verdict.refusal and key in known else verdict
        for key, verdict in found.items()
    }
