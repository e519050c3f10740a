"""Records the kernel's results: confirms documents that it holds completely, fails those of which it refused a part."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from agent.core.config.desired_state import Change, Desired
from agent.core.model.desired_entries import DesiredEntries
from agent.core.plan.actions import EnsureVeth, Failure
from agent.core.plan.attribution import attribute_failures, is_removal
from agent.store.last_good import LastGood
from protocol.acknowledgements import KernelFailure


class KernelResults:
    """The documents' failures, the removals that the kernel refused, and the namespaces that are waited for."""

    def __init__(self, desired: Desired, last_good: LastGood) -> None:
        self._desired = desired
        self._last_good = last_good
        self.remains: dict[str, DesiredEntries] = {}
        """Former entries of documents, by document, of which the kernel refused to remove some."""
        self._waiting: dict[str, set[str]] = {}
        """The documents of which the kernel refused an endpoint, by its namespace as the document names it."""
        self.waiting_changed = asyncio.Event()
        """Set when the result of `waiting_for` changes; the waiting loop clears it."""

    def take_change(self, change: Change, failures: Sequence[Failure]) -> None:
        """Record the results of a change's actions."""
        attributed = attribute_failures(filter(is_removal, failures), change.withdrawn.items())
        self.take(change.affected, failures, attributed)
        self.remains.update((name, change.withdrawn[name]) for name in attributed)

    def take_repair(self, names: Collection[str], failures: Sequence[Failure]) -> None:
        """Record the results of a resync that compared these documents and their remains."""
        remains = {name: self.remains[name] for name in names & self.remains.keys()}
        attributed = attribute_failures(failures, remains.items())
        for name in remains.keys() - attributed.keys():
            del self.remains[name]
        self.take(names, failures, attributed)

    def take(
        self,
        names: Iterable[str],
        failures: Sequence[Failure],
        attributed: Mapping[str, tuple[KernelFailure, ...]] = {},
    ) -> None:
        """Confirm or fail documents, and save those that the kernel accepted completely.

        `attributed` holds the failed removals by document. A document with remains is not confirmed: only a comparison
        that includes them may do that.
        """
        documents = self._desired.documents
        names = {name for name in names if name in documents.entries}
        refused = dict(attributed)
        if failures:
            held = ((name, held) for name, held in self._desired.in_force() if name in names)
            refused |= attribute_failures(failures, ((name, self._desired.desired_entries(one)) for name, one in held))
        for name in names & refused.keys():
            documents.fail(name, refused[name])
        self._last_good.changed(documents.confirm(names - refused.keys() - self.remains.keys()))
        self._note_waiting(failures)
        self._last_good.changed(name for name in names if documents.entries[name].removed)
        self._last_good.save(documents.entries)

    def waiting_for(self) -> set[str]:
        """Return the namespaces in which the kernel refused an endpoint."""
        return set(self._waiting)

    def waiting_in(self, namespaces: Iterable[str]) -> set[str]:
        """Return the documents that wait for any of the namespaces."""
        return set().union(*(self._waiting.get(one, ()) for one in namespaces))

    def _note_waiting(self, failures: Iterable[Failure]) -> None:
        """Record the namespaces in which endpoints were refused; forget those of documents that no longer fail."""
        before = self.waiting_for()
        for failure in failures:
            if isinstance(failure.action, EnsureVeth):
                veth = failure.action.veth
                owner = self._desired.owner_of_veth(veth.endpoint)
                self._waiting.setdefault(veth.namespace, set()).update({owner} if owner is not None else ())
        still = {one: {name for name in names if self.fails(name)} for one, names in self._waiting.items()}
        self._waiting = {one: names for one, names in still.items() if names}
        if self.waiting_for() != before:
            self.waiting_changed.set()

    def fails(self, name: str) -> bool:
        """Return whether the kernel refused a part of a document."""
        entry = self._desired.documents.entries.get(name)
        return entry is not None and bool(entry.failures)
