"""The documents of one host as they came: their newest, good and chosen revisions, who owns what, who refers to what.

Decides nothing about what is in force: `resolver.py` does.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.config.ownership import Claim, OwnershipIndex
from agent.core.config.validation import VALID, Validation
from agent.core.model.resolved_state import needs, provides
from protocol.acknowledgements import KernelFailure, Reference, State
from protocol.codec import decode_document, decode_known
from protocol.documents import Document
from protocol.errors import DocumentError, FieldError

MOST_BLOCKED = 32
"""Documents that wait for a name and are tried again with every change; more of them wait for the periodic retry, or
until the name is seen to be free."""


_ONE_STREAM = 1 << 64
"""More than any revision: claims of different streams are dated apart by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """One revision of a document that decodes. The body is kept; its objects are decoded again when they are needed."""

    revision: int
    body: bytes
    needs: frozenset[Reference]
    provides: bool
    endpoints: int

    def document(self) -> Document:
        """Decode the body."""
        return decode_known(self.body)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands for one document: the ground of its acknowledgement."""

    name: str
    revision: int
    state: State
    in_force: int
    removed: bool = False
    missing: tuple[Reference, ...] = ()
    errors: tuple[FieldError, ...] = ()
    failures: tuple[KernelFailure, ...] = ()
    lacking: tuple[KernelFailure, ...] = ()
    """As failures, of what the host lacks: trying again is of no use."""
    absent: bool = False
    """Whether the last snapshot did not list it, though nothing removed it."""


@dataclass(slots=True)
class Entry:
    """All that is known of one document.

    `latest` is the newest revision that decodes, `wrong` what is wrong with the newest one when that does not. `good`
    is the last one that the kernel took whole, `in_force` what the kernel is to hold now. `held_back` keeps `latest`
    out until it is tried again. `partly_applied`: the kernel refused part of it, so what is in force may not be there.
    `lacking` is what the host's interfaces lack for what is in force; the kernel refused nothing of that.
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
    """The revision under which a sweep removed it, which is no message's; 0 when a message did."""

    def options(self) -> list[Held]:
        """Return the revisions that may be in force, the best one first."""
        latest = [self.latest] if self.latest and not self.held_back else []
        good = [self.good] if self.good and self.good is not self.latest else []
        return latest + good

    def kept(self) -> list[Held]:
        """Return the revisions whose claims stand."""
        latest = [self.latest] if self.latest else []
        return latest + [held for held in (self.good,) if held and held is not self.latest]


class Registry:
    """All documents, and the indexes over them."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.ownership = OwnershipIndex()
        self.absent: set[str] = set()
        """Documents that the last complete snapshot did not list, and that no message removed."""
        self._replays = 0
        self._touched: dict[str, Document | None] = {}
        self._referrers: dict[Reference, set[str]] = {}
        self._blocked: set[str] = set()
        """Documents that are held back because something else has a name of theirs."""
        self._names: list[str] | None = None
        """All names, sorted, until there is another one or one less."""

    def put(self, name: str, revision: int, body: bytes, since: int | None = None) -> bool:
        """Take in a revision; return whether it is news. A wrong body is a verdict, not an error.

        `since` dates its claims, where that is not the revision itself.
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
            held = Held(revision, body, needs(document), bool(provides(document)), len(document.endpoints))
            dated = self._replays * _ONE_STREAM + revision if since is None else since
            self._claim(Claim(name, dated), document, held.needs)
            self._supersede(name, entry, revision, held, document)
        return True

    def refuse(self, name: str, revision: int, errors: tuple[FieldError, ...]) -> bool:
        """Take in a revision that cannot be a document's, nor its removal; return whether it is news."""
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
        """Take in a revision that the kernel took whole before: later failures do not withdraw it.

        Its claims come before all that the bus tells after this: whoever owned an object goes on owning it.
        """
        if self.put(name, revision, body, since=0):
            self.entries[name].good = self.entries[name].latest

    def remove(self, name: str, revision: int) -> bool:
        """Take in that a document is gone; return whether that is news."""
        entry = self._entry(name)
        if revision <= entry.newest:
            return False
        self.absent.discard(name)
        good, latest, entry.good = entry.good, entry.latest, None
        self._supersede(name, entry, revision, None, None)
        if good is not None and good is not latest:
            self._drop_claims(name, good.document(), ())
            self._drop_references(name, good.needs, entry)
        entry.removed = True
        return True

    def begin_replay(self) -> None:
        """Prepare for every document to come again, perhaps from a stream that was made anew and counts from 1.

        What is claimed from here on is younger than all claims before, whatever its revision.
        """
        self._replays += 1
        for entry in self.entries.values():
            entry.newest = 0

    def end_replay(self, listed: set[str]) -> set[str]:
        """Take note of what a complete replay listed; return the documents that it did not list and nothing removed.

        They stay as they are: a stream that was lost or restored lists less than there is (ADR 25).
        """
        self.absent = {name for name, entry in self.entries.items() if name not in listed and not entry.removed}
        return self.absent

    def sweep(self, names: Iterable[str]) -> None:
        """Remove documents that are absent, each under a revision of its own after those that are known.

        Any message of the stream is newer: a stream that was made anew counts from 1.
        """
        for name in names:
            entry = self.entries[name]
            newest, swept = entry.newest, 1 + max(entry.newest, *(held.revision for held in entry.kept()), 0)
            self.remove(name, swept)
            entry.newest, entry.swept = newest, swept

    def touch_all(self) -> None:
        """Have every document looked at by the next resolve."""
        self.touch(self.entries)

    def touch(self, names: Iterable[str]) -> None:
        """Have some documents looked at by the next resolve."""
        for name in names:
            self._touched.setdefault(name, None)

    def take_touched(self) -> dict[str, Document | None]:
        """Return the documents that changed since the last call, with their objects where they were just decoded."""
        touched, self._touched = self._touched, {}
        return touched

    def retry(self, names: Iterable[str]) -> None:
        """Let revisions that the kernel refused be tried again."""
        for name in names:
            entry = self.entries.get(name)
            self._blocked.discard(name)
            if entry is not None and entry.held_back:
                entry.held_back = False
                self._touched.setdefault(name, None)

    def confirm(self, names: Iterable[str]) -> set[str]:
        """Take in that the kernel holds these documents whole; return those whose good revision is another one now."""
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
                self._drop_claims(name, good.document(), [kept.document() for kept in entry.kept()])
                self._drop_references(name, good.needs, entry)
        return changed

    def fail(self, name: str, failures: tuple[KernelFailure, ...]) -> None:
        """Take in that the kernel refused part of a document: a new revision is held back, an old one stays."""
        entry = self.entries[name]
        entry.failures, entry.partly_applied = failures, True
        if entry.in_force is not None and entry.in_force is not entry.good:
            entry.held_back = True
            self._touched.setdefault(name, None)
            if _lacks_name(failures):
                self._blocked.add(name)

    def _supersede(self, name: str, entry: Entry, revision: int, held: Held | None, document: Document | None) -> None:
        self._blocked.discard(name)
        old = entry.latest
        entry.newest, entry.latest, entry.removed, entry.swept = revision, held, False, 0
        entry.held_back, entry.wrong, entry.validation, entry.failures = False, (), VALID, ()
        if old is not None and old is not entry.good:
            self._drop_claims(name, old.document(), [kept.document() for kept in entry.kept()])
            self._drop_references(name, old.needs, entry)
        self._touched[name] = document

    def _claim(self, claim: Claim, document: Document, needed: Iterable[Reference]) -> None:
        for loser in self.ownership.add(claim, document):
            self._touched.setdefault(loser, None)
        for reference in needed:
            self._referrers.setdefault(reference, set()).add(claim.document)

    def _drop_claims(self, name: str, dropped: Document, kept: Iterable[Document]) -> None:
        for successor in self.ownership.drop(name, dropped, kept):
            self._touched.setdefault(successor, None)

    def _drop_references(self, name: str, old: frozenset[Reference], entry: Entry) -> None:
        for reference in old.difference(*(held.needs for held in entry.kept())):
            documents = self._referrers.get(reference, set())
            documents.discard(name)
            if not documents:
                self._referrers.pop(reference, None)

    def referrers(self, references: Iterable[Reference]) -> set[str]:
        """Return the documents that refer to any of some objects."""
        return set().union(*(self._referrers.get(reference, ()) for reference in references))

    def names(self) -> list[str]:
        """Return the names of all documents that are known and not removed, sorted."""
        if self._names is None:
            self._names = sorted(self.entries)
        return [name for name in self._names if not self.entries[name].removed]

    def newest(self, name: str) -> int:
        """Return the newest revision that was taken in, 0 for an unknown document."""
        entry = self.entries.get(name)
        return entry.newest if entry else 0

    def failing(self) -> list[str]:
        """Return the documents of which the kernel refused something."""
        return [name for name, entry in self.entries.items() if entry.failures]

    def blocked_by_names(self) -> list[str]:
        """Return the failing documents for which something else has a name of theirs."""
        return [name for name in self.failing() if _lacks_name(self.entries[name].failures)]

    def retry_blocked(self) -> None:
        """Let revisions be tried again that are held back because something else has a name of theirs.

        Of very many, none: what is not in their way would have them all tried again and again.
        """
        if len(self._blocked) <= MOST_BLOCKED:
            self.retry(set(self._blocked))

    def forget(self, name: str) -> None:
        """Drop the memory of a document that is removed and no longer in force."""
        entry = self.entries.get(name)
        if entry is not None and entry.removed and entry.in_force is None and not entry.failures:
            del self.entries[name]
            self._names = None

    def verdict(self, name: str) -> Verdict:
        """Return what stands for a document."""
        entry = self.entries[name]
        in_force = entry.in_force.revision if entry.in_force else 0
        validation = Validation(errors=entry.wrong) if entry.wrong else entry.validation
        if entry.removed and not in_force:
            state = State.FAILED if entry.failures else State.REALIZED
            revision = entry.swept or entry.newest
            return Verdict(name, revision, state, 0, removed=True, failures=entry.failures)
        state = State.REALIZED
        if validation.errors:
            state = State.REJECTED
        elif validation.missing:
            state = State.PENDING
        elif entry.failures or entry.lacking or entry.in_force is None or entry.in_force is not entry.latest:
            state = State.FAILED
        return Verdict(
            name,
            entry.newest or in_force,  # 0 while a replay has not come to it yet
            state,
            in_force,
            missing=validation.missing,
            errors=validation.errors,
            failures=entry.failures,
            lacking=entry.lacking if in_force else (),
            absent=name in self.absent,
        )


def _lacks_name(failures: Iterable[KernelFailure]) -> bool:
    return any(failure.errno == errno.EEXIST for failure in failures)
