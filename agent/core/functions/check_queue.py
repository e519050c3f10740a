"""Which programs of functions wait for a verdict, and for which documents. Pure.

A document's newest revision decides: programs that only older ones list are not checked any more. No document has more
than one program checked at a time, so that one with many or slow programs does not hold up those of others. VPCs take
turns, so that neither does a VPC with many documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.functions.programs import UncheckedProgram


class _Waiting(NamedTuple):
    document: str
    one: UncheckedProgram


class CheckQueue:
    """The programs that wait or are being checked, by the key of their verdict."""

    def __init__(self) -> None:
        self._used: dict[str, dict[int, frozenset[str]]] = {}
        """The keys of the verdicts that documents need, by document and revision."""
        self._newest: dict[str, int] = {}
        """The newest revision of each of these documents, which a recreated stream counts from 1."""
        self._waiting: dict[str, _Waiting] = {}
        self._running: dict[str, _Waiting] = {}
        self._again: dict[str, set[str]] = {}
        """The documents in force that lack a program which was checked before, by the key of its verdict."""
        self._turns: dict[str, int] = {}
        """When a program of a VPC was last begun, counted over all programs."""

    @property
    def keys(self) -> frozenset[str]:
        """Return the keys of the verdicts that are not known yet."""
        return frozenset(self._waiting.keys() | self._running.keys())

    def lists(self, document: str) -> bool:
        """Return whether any revision of a document that may come into force needs a verdict."""
        return document in self._used

    def put(self, document: str, revision: int, keys: Iterable[str], unchecked: Iterable[UncheckedProgram]) -> None:
        """Take the newest revision of a document: the verdicts that it needs, and those that are to be found.

        A program that is being checked is checked again only if its file may have changed meanwhile.
        """
        listed, before = frozenset(keys), self._now(document)
        if not listed and document not in self._used:
            return
        self._used.setdefault(document, {})[revision] = listed
        self._newest[document] = revision
        for one in unchecked:
            if one.key not in self._waiting and (one.key not in self._running or one.program.file):
                self._waiting[one.key] = _Waiting(document, one)
        self._drop_unneeded(before - listed)

    def put_again(self, document: str, one: UncheckedProgram) -> None:
        """Take a program of a document in force that was checked before, and is lost."""
        self._again.setdefault(one.key, set()).add(document)
        if one.key not in self._running:
            self._waiting.setdefault(one.key, _Waiting(document, one))

    def remove(self, document: str) -> None:
        """Forget a document, and what was to be checked for it alone."""
        before = self._now(document)
        self._used.pop(document, None)
        self._newest.pop(document, None)
        self._drop_unneeded(before)

    def begin_next(self) -> UncheckedProgram | None:
        """Return the program to check next, None if there is none that may be checked now.

        It is of a VPC of which none is being checked, if there is one, and of that which has waited for longest.
        """
        documents = {running.document for running in self._running.values()}
        programs = [running.one.program for running in self._running.values()]
        vpcs = [running.one.vpc for running in self._running.values()]
        free = [
            waiting
            for waiting in self._waiting.values()
            if waiting.document not in documents and waiting.one.program not in programs
        ]
        if not free:
            return None
        chosen = min(free, key=lambda waiting: (vpcs.count(waiting.one.vpc), self._turns.get(waiting.one.vpc, 0)))
        self._running[chosen.one.key] = self._waiting.pop(chosen.one.key)
        self._turns = {vpc: turn for vpc, turn in self._turns.items() if any(one.one.vpc == vpc for one in free)}
        self._turns[chosen.one.vpc] = 1 + max(self._turns.values(), default=0)
        return chosen.one

    def end(self, key: str) -> set[str]:
        """Record that a program was checked, or could not be; return the documents that waited for it.

        Those are the documents whose newest revision lists it, and those in force that lack it.
        """
        self._running.pop(key, None)
        return self._again.pop(key, set()) | {name for name in self._newest if key in self._now(name)}

    def forget(self, document: str, kept: Iterable[int]) -> frozenset[str]:
        """Forget a document's revisions but the newest and the kept ones; return the keys that none needs any more."""
        by_revision = self._used.get(document)
        if not by_revision:
            return frozenset()
        left = {*kept, self._newest[document]}
        gone = frozenset[str]().union(*(keys for revision, keys in by_revision.items() if revision not in left))
        self._used[document] = by_revision = {one: keys for one, keys in by_revision.items() if one in left}
        if not any(by_revision.values()):
            del self._used[document], self._newest[document]
        return gone - self._listed() if gone else gone

    def _now(self, document: str) -> frozenset[str]:
        """Return the keys that the newest revision of a document needs."""
        return self._used[document][self._newest[document]] if document in self._used else frozenset()

    def _drop_unneeded(self, keys: frozenset[str]) -> None:
        """Do not check those programs of `keys` that no newest revision lists any more."""
        if not self._waiting.keys().isdisjoint(keys):
            needed = frozenset(self._again).union(*map(self._now, self._newest))
            self._waiting = {key: one for key, one in self._waiting.items() if key in needed}

    def _listed(self) -> frozenset[str]:
        return frozenset[str]().union(*(keys for revisions in self._used.values() for keys in revisions.values()))
