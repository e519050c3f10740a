"""Watches new versions of functions, and lets the one before run again where a new one fails soon."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from agent.core.config.desired_state import Change, Desired
from agent.core.config.registry import Entry
from agent.core.config.truncation import listed
from agent.core.faults.tracker import ReportFaults
from agent.core.functions.stages import Point
from agent.core.functions.versions import REMEDY, VersionWatch, describe
from agent.core.kinds.functions import FUNCTIONS
from agent.core.model.desired_entries import Function, FunctionHistory, FunctionPlace
from agent.core.plan.actions import EnsureFunction, Failure
from agent.reconcile.kernel_port import KernelPort
from agent.store.store import Store, StoreError, not_saved
from protocol.acknowledgements import KernelFailure
from protocol.errors import ErrorCode
from protocol.status import Fault

log = structlog.get_logger()

Histories = Mapping[FunctionPlace, FunctionHistory]


class FunctionVersions:
    """The versions of one agent's functions; what is known of them survives a restart in the store."""

    def __init__(
        self, kernel: KernelPort, store: Store, report: ReportFaults, histories: Histories, now: Callable[[], float]
    ) -> None:
        """Start with the histories in the store; `now` is in seconds, of any clock."""
        self._kernel = kernel
        self._store = store
        self._report = report
        self._now = now
        self._saved = dict(histories)
        self._watch = VersionWatch(histories)
        self._unaccepted: dict[str, Fault] = {}

    @property
    def are_watched(self) -> bool:
        """Return whether any version went live not long ago."""
        return bool(self._watch.watched)

    def begin(self, desired: Desired) -> None:
        """Take the functions that are in force at the agent's start."""
        found: dict[FunctionPlace, Function] = {}
        for owner in {desired.documents.owner(FUNCTIONS, id_) for id_ in desired.resolved.functions}:
            held = desired.documents.entries[owner].in_force if owner is not None else None
            if held is not None:
                found |= desired.desired_entries(held).functions
        self._watch.keep_only(found.keys())
        for function in found.values():
            self._put(function, desired)
        self._publish(desired)
        self.note_unaccepted(desired, desired.documents.entries)

    def note_unaccepted(self, desired: Desired, names: Iterable[str]) -> None:
        """Report those of the named documents with closed functions that ran here and are not accepted any more."""
        for name in names:
            entry = desired.documents.entries.get(name)
            fault = _unaccepted(name, entry) if entry is not None else None
            if fault is not None:
                self._unaccepted[name] = fault
            else:
                self._unaccepted.pop(name, None)
        self._report("functions_not_accepted", list(self._unaccepted.values()))

    def take(self, change: Change, failures: Sequence[Failure], desired: Desired) -> None:
        """Record what a change put into slots and took out of them; `failures` are what the kernel refused of it."""
        refused = {one.action.function.place for one in failures if isinstance(one.action, EnsureFunction)}
        for place, function in change.after.functions.items():
            if place not in refused:
                self._put(function, desired)
        for place in change.before.functions.keys() - change.after.functions.keys():
            self._watch.drop(place)
        self._publish(desired)

    def look(self, desired: Desired) -> set[str]:
        """Decide about the versions that went live not long ago; return the documents concerned."""
        indexes = desired.resolved.stage_indexes
        places = {place: indexes[place] for place in self._watch.watched if place in indexes}
        faults = self._kernel.function_faults(places.values())
        found = {place: faults[index] for place, index in places.items() if index in faults}
        self._watch.look(found, self._now())
        return self._publish(desired)

    def _put(self, function: Function, desired: Desired) -> None:
        owner = desired.documents.owner(FUNCTIONS, function.id)
        held = desired.documents.entries[owner].in_force if owner is not None else None
        index = desired.resolved.stage_indexes.get(function.place, 0)

        def faults() -> int:
            return self._kernel.function_faults([index]).get(index, 0)

        self._watch.put(function, held.revision if held is not None else 0, faults, self._now())

    def _publish(self, desired: Desired) -> set[str]:
        self._save()
        names = desired.set_histories(dict(self._watch.histories))
        self._report("function_versions", [_fault(one) for one in rolled_back(desired, self._watch.histories)])
        return names

    def _save(self) -> None:
        now = self._watch.histories
        changed = {place: now.get(place) for place in self._saved.keys() | now.keys()}
        changed = {place: one for place, one in changed.items() if one != self._saved.get(place)}
        if not changed:
            return
        encoded = {place: msgspec.msgpack.encode(one) if one is not None else None for place, one in changed.items()}
        try:
            self._store.save_histories(encoded)
        except StoreError as error:
            self._report("function_histories", [not_saved("functions_not_saved", str(error))])
        else:
            self._report("function_histories", [])
            self._saved = dict(now)


class RolledBackVersion(NamedTuple):
    """A function of a document in force whose version before runs instead."""

    document: str
    place: FunctionPlace
    revision: int
    text: str


def rolled_back(desired: Desired, histories: Histories) -> Iterator[RolledBackVersion]:
    """Yield the functions in force of which an older version runs, as the one in their document failed."""
    for place, history in sorted(histories.items(), key=lambda item: item[0]):
        back, owner = history.rolled_back, desired.documents.owner(FUNCTIONS, place[0])
        held = desired.documents.entries[owner].in_force if owner is not None else None
        if back is not None and owner is not None and held is not None and held.revision == back.revision:
            yield RolledBackVersion(owner, place, back.revision, describe(place, history, back))


def rolled_back_failures(desired: Desired) -> dict[str, tuple[KernelFailure, ...]]:
    """Return what to report for the documents whose functions were rolled back."""
    found: dict[str, tuple[KernelFailure, ...]] = {}
    for one in rolled_back(desired, desired.resolved.host_state.histories):
        name = f"function {one.place[0]} at {Point(one.place[1]).label}"
        failure = KernelFailure(errno.ECANCELED, "ECANCELED", name, f"{one.text}: {REMEDY}")
        found[one.document] = (*found.get(one.document, ()), failure)
    return found


def load_histories(store: Store) -> dict[FunctionPlace, FunctionHistory]:
    """Return what an earlier agent knew of versions; what another version of the agent wrote is left out."""
    found = {}
    for place, encoded in store.load_histories().items():
        try:
            found[place] = msgspec.msgpack.decode(encoded, type=FunctionHistory)
        except msgspec.DecodeError:
            log.warning("function_history_unreadable", function=place[0])
    return found


def _unaccepted(name: str, entry: Entry) -> Fault | None:
    refused = any(error.code is ErrorCode.DISABLED for error in entry.validation.errors)
    if entry.in_force is not None or entry.good is None or not refused:
        return None
    closed = [one.id for one in entry.good.document().functions if one.on_fault == "closed"]
    if not closed:
        return None
    detail = f"packets pass without the functions {listed(closed)}, which fail closed: this host no longer accepts them"
    again = "accept them again (functions.accept, functions.host_wide) and start the agent again"
    return Fault("functions_not_accepted", f"document {name}", detail, f"{again}, or remove the document")


def _fault(one: RolledBackVersion) -> Fault:
    return Fault("function_rolled_back", f"{one.place[0]} ({Point(one.place[1]).label})", one.text, REMEDY)
