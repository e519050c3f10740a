"""The documents of one host: their newest, good and chosen revisions, with indexes of ownership and references.

Decides nothing about what is in force: `resolver.py` does.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agent.core.config.ownership import Claim, OwnershipIndex
from agent.core.config.references import provides_and_counts, references
from agent.core.config.validation import VALID, Validation
from agent.core.kinds import catalogue
from agent.core.kinds.catalogue import Listed
from agent.core.kinds.kind import Kind
from protocol.acknowledgements import KernelFailure, Reference, State
from protocol.codec import decode_document, decode_known
from protocol.documents import Document
from protocol.errors import DocumentError, ErrorCode, FieldError

MOST_BLOCKED = 32
"""At most so many documents that wait for an interface name are retried with every change. If there are more, all of
them wait for the periodic retry, or until the name is seen to be free."""


_ONE_STREAM = 1 << 64
"""More than any revision: added to the claims of a new stream, so that they are younger than all older ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """One decodable revision of a document. The body is kept, and decoded again when the objects are needed."""

    revision: int
    body: bytes
    needs: frozenset[Reference]
    provides: bool
    counts: tuple[tuple[str, int], ...]
    """The number of objects of each kind that is not referable."""

    def document(self) -> Document:
        """Decode the body."""
        return decode_known(self.body)

    def listed(self) -> Listed:
        """Decode the body, and return the objects by kind."""
        return catalogue.KINDS.listed(decode_known(self.body))

    def lists(self, kind: str) -> bool:
        """Return whether it lists objects of a kind that is not referable."""
        return any(name == kind for name, _ in self.counts)


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """The status of one document, from which its acknowledgement is made."""

    name: str
    revision: int
    state: State
    in_force: int
    removed: bool = False
    missing: tuple[Reference, ...] = ()
    errors: tuple[FieldError, ...] = ()
    failures: tuple[KernelFailure, ...] = ()
    lacking: tuple[KernelFailure, ...] = ()
    """Shortfalls of the host, in the form of failures; a retry would not help."""
    absent: bool = False
    """Whether the last snapshot did not list the document although no message removed it."""


@dataclass(slots=True)
class Entry:
    """All that is known of one document.

    `latest` is the newest revision that decodes; `wrong` holds the errors of the newest one if it does not. `good` is
    the last one that the kernel accepted completely, `in_force` the one that the kernel should hold now. `held_back`
    excludes `latest` until it is retried. `partly_applied`: the kernel refused part of it, so some entries in force may
    be missing. `lacking`: shortfalls of the host's interfaces for the revision in force; not refusals by the kernel.
    """

    newest: int = 0
    latest: Held | None = None
    good: Held | None = None
    in_force: Held | None = None
    held_back: bool = False
    partly_applied: bool = False
    removed: bool = False
    wrong: tuple[FieldError, ...] = ()
    validation: Validation = VALID
    failures: tuple[KernelFailure, ...] = ()
    lacking: tuple[KernelFailure, ...] = ()
    swept: int = 0
    """The made-up revision under which a sweep removed it; 0 when a message did."""

    def options(self) -> list[Held]:
        """Return the revisions that may be in force, most preferred first."""
        latest = [self.latest] if self.latest and not self.held_back else []
        good = [self.good] if self.good and self.good is not self.latest else []
        return latest + good

    def kept(self) -> list[Held]:
        """Return the revisions whose claims are kept."""
        latest = [self.latest] if self.latest else []
        return latest + [held for held in (self.good,) if held and held is not self.latest]


class Registry:
    """All documents, and the indexes over them."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.ownership = OwnershipIndex()
        self.absent: set[str] = set()
        """Documents that the last complete snapshot did not list although no message removed them."""
        self._replays = 0
        self._touched: dict[str, Listed | None] = {}
        self._referrers: dict[Reference, set[str]] = {}
        self._blocked: set[str] = set()
        """Documents that are held back because another object uses an interface name of theirs."""
        self._names: list[str] | None = None
        """Cache of all names, sorted; dropped when a document is added or removed."""

    def put(self, name: str, revision: int, body: bytes, since: int | None = None) -> bool:
        """Add a revision; return whether it is new. An invalid body leads to a rejected document, not an exception.

        `since` dates its claims if the revision itself does not.
        """
        entry = self._entry(name)
        if revision <= entry.newest:
            return False
        self.absent.discard(name)
        if entry.latest is not None and (entry.latest.revision, entry.latest.body) == (revision, body):
            entry.newest = revision
            if entry.wrong:  # a newer revision was refused, and the stream is back at this one
                entry.wrong = ()
                self._touched.setdefault(name, None)
            return False
        try:
            document = decode_document(body)
        except DocumentError as error:
            self.refuse(name, revision, tuple(error.errors))
        else:
            listed = catalogue.KINDS.listed(document)
            held = Held(revision, body, references(listed), *provides_and_counts(listed))
            dated = self._replays * _ONE_STREAM + revision if since is None else since
            self._claim(Claim(name, dated), listed, held.needs)
            self._supersede(name, entry, revision, held, listed)
        return True

    def refuse(self, name: str, revision: int, errors: tuple[FieldError, ...]) -> bool:
        """Record a revision that is neither a valid document nor a removal; return whether it is new."""
        entry = self._entry(name)
        if revision <= entry.newest:
            return False
        entry.newest, entry.wrong, entry.removed = revision, errors, False
        self._touched.setdefault(name, None)
        return True

    def _entry(self, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            entry = self.entries[name] = Entry()
            self._names = None
        return entry

    def restore(self, name: str, revision: int, body: bytes) -> None:
        """Add a revision that the kernel accepted completely in the past: later failures do not withdraw it.

        Its claims are older than those of all documents that the bus delivers later, so ownership survives a restart.
        """
        if self.put(name, revision, body, since=0):
            self.entries[name].good = self.entries[name].latest

    def remove(self, name: str, revision: int) -> bool:
        """Record that a document was removed; return whether that is new."""
        entry = self._entry(name)
        if revision <= entry.newest:
            return False
        self.absent.discard(name)
        good, latest, entry.good = entry.good, entry.latest, None
        self._supersede(name, entry, revision, None, None)
        if good is not None and good is not latest:
            self._drop_claims(name, good.listed(), ())
            self._drop_references(name, good.needs, entry)
        entry.removed = True
        return True

    def begin_replay(self) -> None:
        """Prepare for a new delivery of every document, perhaps from a recreated stream that counts from 1.

        Later claims are younger than all existing ones, whatever their revision.
        """
        self._replays += 1
        for entry in self.entries.values():
            entry.newest = 0

    def end_replay(self, listed: set[str]) -> set[str]:
        """Record what a complete replay listed; return the documents that it did not list and no message removed.

        They stay in force: a lost or restored stream may list fewer documents than exist (ADR 25).
        """
        self.absent = {name for name, entry in self.entries.items() if name not in listed and not entry.removed}
        return self.absent

    def sweep(self, names: Iterable[str]) -> None:
        """Remove absent documents, each under a made-up revision above those that are known.

        Any message of the stream counts as newer: a recreated stream counts from 1.
        """
        for name in names:
            entry = self.entries[name]
            newest, swept = entry.newest, 1 + max(entry.newest, *(held.revision for held in entry.kept()), 0)
            self.remove(name, swept)
            entry.newest, entry.swept = newest, swept

    def touch_all(self) -> None:
        """Mark every document for examination by the next resolve."""
        self.touch(self.entries)

    def touch(self, names: Iterable[str]) -> None:
        """Mark documents for examination by the next resolve."""
        for name in names:
            self._touched.setdefault(name, None)

    def take_touched(self) -> dict[str, Listed | None]:
        """Return the documents that changed since the last call, with their objects if those were just decoded."""
        touched, self._touched = self._touched, {}
        return touched

    def retry(self, names: Iterable[str]) -> None:
        """Allow another attempt at revisions that the kernel refused."""
        for name in names:
            entry = self.entries.get(name)
            self._blocked.discard(name)
            if entry is not None and entry.held_back:
                entry.held_back = False
                self._touched.setdefault(name, None)

    def confirm(self, names: Iterable[str]) -> set[str]:
        """Record that the kernel holds these documents completely; return those whose good revision changed."""
        changed = set()
        for name in names:
            entry = self.entries[name]
            if entry.held_back:
                continue
            entry.failures, entry.partly_applied = (), False
            good, held = entry.good, entry.in_force
            if held is None or held is good:
                continue
            entry.good = held
            changed.add(name)
            if good is not None:
                self._drop_claims(name, good.listed(), [kept.listed() for kept in entry.kept()])
                self._drop_references(name, good.needs, entry)
        return changed

    def fail(self, name: str, failures: tuple[KernelFailure, ...]) -> None:
        """Record that the kernel refused part of a document: a new revision is held back, an old one stays in force."""
        entry = self.entries[name]
        entry.failures, entry.partly_applied = failures, True
        if entry.in_force is not None and entry.in_force is not entry.good:
            entry.held_back = True
            self._touched.setdefault(name, None)
            if _lacks_name(failures):
                self._blocked.add(name)

    def _supersede(self, name: str, entry: Entry, revision: int, held: Held | None, listed: Listed | None) -> None:
        self._blocked.discard(name)
        old = entry.latest
        entry.newest, entry.latest, entry.removed, entry.swept = revision, held, False, 0
        entry.held_back, entry.wrong, entry.validation, entry.failures = False, (), VALID, ()
        if old is not None and old is not entry.good:
            self._drop_claims(name, old.listed(), [kept.listed() for kept in entry.kept()])
            self._drop_references(name, old.needs, entry)
        self._touched[name] = listed

    def _claim(self, claim: Claim, listed: Listed, needed: Iterable[Reference]) -> None:
        for loser in self.ownership.add(claim, listed):
            self._touched.setdefault(loser, None)
        for reference in needed:
            self._referrers.setdefault(reference, set()).add(claim.document)

    def _drop_claims(self, name: str, dropped: Listed, kept: Iterable[Listed]) -> None:
        for successor in self.ownership.drop(name, dropped, kept):
            self._touched.setdefault(successor, None)

    def _drop_references(self, name: str, old: frozenset[Reference], entry: Entry) -> None:
        for reference in old.difference(*(held.needs for held in entry.kept())):
            documents = self._referrers.get(reference, set())
            documents.discard(name)
            if not documents:
                self._referrers.pop(reference, None)

    def owner(self, kind: Kind[Any], id_: str) -> str | None:
        """Return the name of the document that owns an object."""
        return self.ownership.owner(kind.singular, id_)

    def referrers(self, references: Iterable[Reference]) -> set[str]:
        """Return the documents that refer to any of the given objects."""
        return set().union(*(self._referrers.get(reference, ()) for reference in references))

    def owners(self, references: Iterable[Reference]) -> set[str]:
        """Return the documents that own any of the given objects."""
        kinds = catalogue.KINDS.by_name
        owners = (self.owner(kinds[reference.kind], reference.id) for reference in references)
        return {owner for owner in owners if owner is not None}

    def names(self) -> list[str]:
        """Return the names of all documents that are known and not removed, sorted."""
        if self._names is None:
            self._names = sorted(self.entries)
        return [name for name in self._names if not self.entries[name].removed]

    def newest(self, name: str) -> int:
        """Return a document's newest known revision, 0 for an unknown document."""
        entry = self.entries.get(name)
        return entry.newest if entry else 0

    def failing(self) -> list[str]:
        """Return the documents of which the kernel refused a part."""
        return [name for name, entry in self.entries.items() if entry.failures]

    def blocked_by_names(self) -> list[str]:
        """Return the failing documents for which another object uses an interface name of theirs."""
        return [name for name in self.failing() if _lacks_name(self.entries[name].failures)]

    def retry_blocked(self) -> None:
        """Allow another attempt at revisions that are held back because an interface name of theirs is in use.

        If there are very many, none is retried: each unrelated change would retry all of them.
        """
        if len(self._blocked) <= MOST_BLOCKED:
            self.retry(set(self._blocked))

    def forget(self, name: str) -> None:
        """Drop a document that is removed and no longer in force."""
        entry = self.entries.get(name)
        if entry is not None and entry.removed and entry.in_force is None and not entry.failures:
            del self.entries[name]
            self._names = None

    def status(self, name: str) -> DocumentStatus:
        """Return a document's status."""
        entry = self.entries[name]
        in_force = entry.in_force.revision if entry.in_force else 0
        validation = Validation(errors=entry.wrong) if entry.wrong else entry.validation
        if entry.removed and not in_force:
            state = State.FAILED if entry.failures else State.REALIZED
            revision = entry.swept or entry.newest
            return DocumentStatus(name, revision, state, 0, removed=True, failures=entry.failures)
        state = State.REALIZED
        if validation.errors:
            state = State.PENDING if validation.is_waiting else State.REJECTED
        elif validation.missing:
            state = State.PENDING
        elif waiting := _checked_again(entry):
            return DocumentStatus(name, entry.newest or in_force, State.PENDING, in_force, errors=waiting)
        elif entry.failures or entry.lacking or entry.in_force is None or entry.in_force is not entry.latest:
            state = State.FAILED
        return DocumentStatus(
            name,
            entry.newest or in_force,  # 0 while a replay has not delivered it yet
            state,
            in_force,
            missing=validation.missing,
            errors=validation.errors,
            failures=entry.failures,
            lacking=entry.lacking if in_force else (),
            absent=name in self.absent,
        )


def _checked_again(entry: Entry) -> tuple[FieldError, ...]:
    """Return what a document waits for if nothing is wrong but that programs of it have to be compiled again."""
    if not entry.failures or any(failure.errno != errno.EINPROGRESS for failure in entry.failures):
        return ()
    return tuple(FieldError("functions", ErrorCode.UNCHECKED, failure.message) for failure in entry.failures)


def _lacks_name(failures: Iterable[KernelFailure]) -> bool:
    return any(failure.errno == errno.EEXIST for failure in failures)
