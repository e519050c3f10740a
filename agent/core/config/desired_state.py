"""The desired state: which revision of each document is in force, which documents are pending or rejected, and why.

Level-triggered: the outcome depends on the newest revisions, not on the order in which documents arrived. Nothing
here touches the kernel: `resolve` returns what changed; `confirm` and `fail` of the registry record the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.core.config.registry import DocumentStatus, Held, Registry
from agent.core.config.resolver import Resolver
from agent.core.functions.programs import verdict_key
from agent.core.kinds import catalogue
from agent.core.kinds.functions import FUNCTIONS
from agent.core.kinds.kind import Kind
from agent.core.model.desired_entries import DesiredEntries, FunctionHistory, FunctionPlace, Veth
from agent.core.model.features import Verdict
from agent.core.model.resolved_state import NOTHING, HostState, Numbers, ResolvedState, initial_state
from agent.core.plan.render import pieces, render
from protocol.acknowledgements import State


@dataclass(slots=True)
class Change:
    """The result of `resolve`: the desired entries of the affected documents before and after."""

    before: DesiredEntries = field(default_factory=DesiredEntries)
    after: DesiredEntries = field(default_factory=DesiredEntries)
    withdrawn: dict[str, DesiredEntries] = field(default_factory=dict)
    """The former entries of each document whose revision changed: a failed removal is attributed to that document."""
    new_functions: set[FunctionPlace] = field(default_factory=set)
    """Those that were not in force before."""
    changed_documents: set[str] = field(default_factory=set)
    """Documents whose revision in force changed."""
    affected: set[str] = field(default_factory=set)
    """Documents that were examined: their statuses may have changed."""


class Desired:
    """The documents of one host, and the resolved state of those in force."""

    def __init__(self, host_state: HostState, numbers: Numbers = NOTHING) -> None:
        """Start without documents; `numbers` are those that an earlier agent assigned."""
        self.documents = Registry()
        self.resolved = initial_state(host_state, numbers)
        """The state that references resolve to now."""
        self.veths: dict[str, Veth] = {}
        """The interfaces of the endpoints on this host, by endpoint."""
        self._host_state = host_state
        self._counts: Counter[str] = Counter()
        """The number of objects in force of each kind that is not referable."""
        self._over_capacity: set[str] = set()
        """Documents for which this host had no numbers left, such as slots; kept until some become free."""

    def set_host_state(self, host_state: HostState) -> None:
        """Replace the host state. If it changed, every document is validated again."""
        now = self._host_state
        known = {"verdicts": now.verdicts, "unchecked": now.unchecked, "map_bytes": now.map_bytes}
        host_state = replace(host_state, down=now.down, histories=now.histories, **known)  # type: ignore[arg-type]
        if host_state != self._host_state:
            self._host_state = host_state
            self.documents.touch_all()

    def set_down(self, down: frozenset[str]) -> None:
        """Replace the set of droplets that do not answer; affected choices of bouncers and dividers are made again."""
        changed, self._host_state = down ^ self._host_state.down, replace(self._host_state, down=down)
        owner = self.documents.owner
        owners = (owner(kind, id_) for kind in catalogue.KINDS for id_ in kind.served_by(changed, self.resolved))
        self.documents.touch({name for name in owners if name is not None})

    def set_verdicts(self, verdicts: Mapping[str, Verdict]) -> None:
        """Replace what is known of functions' programs. Documents with functions whose verdict changed are examined."""
        before, self._host_state = self._host_state.verdicts, replace(self._host_state, verdicts=verdicts)
        changed = {key for key in before.keys() | verdicts.keys() if before.get(key) != verdicts.get(key)}
        functions = self.resolved.functions.values() if changed else ()
        owners = (
            self.documents.owner(FUNCTIONS, one.id)
            for one in functions
            if verdict_key(one.program, one.point) in changed
        )
        self.documents.touch({name for name in owners if name is not None})

    def set_unchecked(self, keys: frozenset[str]) -> None:
        """Replace the keys of the verdicts that will be known soon. The caller touches documents that waited."""
        if keys != self._host_state.unchecked:
            self._host_state = replace(self._host_state, unchecked=keys)

    def set_histories(self, histories: Mapping[FunctionPlace, FunctionHistory]) -> set[str]:
        """Replace the earlier versions of functions; return the documents concerned, which are examined."""
        before, self._host_state = self._host_state.histories, replace(self._host_state, histories=histories)
        changed = {place for place in before.keys() | histories.keys() if before.get(place) != histories.get(place)}
        owners = {self.documents.owner(FUNCTIONS, id_) for id_, _ in changed}
        found = {name for name in owners if name is not None}
        self.documents.touch(found)
        return found

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """What is known of functions' programs."""
        return self._host_state.verdicts

    def resolve(self, *, removing: bool = False) -> Change:
        """Decide what is in force, and return the difference. An exception leaves the state unchanged.

        Without `removing`, entries that are no longer wanted stay in the kernel for now and keep their slots.
        """
        touched = self.documents.take_touched()
        try:
            resolver = Resolver(self.documents, touched, self.resolved, self._host_state, removing=removing)
            resolver.decide()
            change = self._change(resolver)
        except BaseException:
            self.documents.touch(touched)
            raise
        self._commit(resolver, change)
        return change

    def _change(self, resolver: Resolver) -> Change:
        change, unapplied = Change(affected=set(resolver.chosen)), DesiredEntries()
        for name, held in resolver.chosen.items():
            before = self.documents.entries[name].in_force
            if before is not None:
                part = change.before
                if held is not before:
                    part = change.withdrawn[name] = DesiredEntries()
                render(resolver.listed(before), self.resolved, part, before.revision)
                change.before.add(part)
                if self.documents.entries[name].partly_applied:
                    render(resolver.listed(before), self.resolved, unapplied, before.revision)
            if held is not None:
                render(resolver.listed(held), resolver.resolved, change.after, held.revision)
            if held is not before:
                change.changed_documents.add(name)
        # Droplets of several documents may share an interface, so no single document owns its attachment.
        change.before.transit, change.after.transit = self.resolved.carriers(), resolver.resolved.carriers()
        change.new_functions = change.after.functions.keys() - change.before.functions.keys()
        _write_again(change, unapplied)
        return change

    def _commit(self, resolver: Resolver, change: Change) -> None:
        for name, held in resolver.chosen.items():
            entry = self.documents.entries[name]
            if held is not entry.in_force:
                for kind, number in held.counts if held else ():
                    self._counts[kind] += number
                for kind, number in entry.in_force.counts if entry.in_force else ():
                    self._counts[kind] -= number
                entry.in_force = held
            entry.validation = resolver.validations.get(name, entry.validation)
        self._over_capacity |= resolver.over_capacity
        if self._has_capacity_again(resolver.resolved):
            self.documents.touch(self._over_capacity & self.documents.entries.keys())
            self._over_capacity.clear()
        self.resolved = resolver.resolved
        for endpoint in change.before.veths.keys() - change.after.veths.keys():
            del self.veths[endpoint]
        self.veths.update(change.after.veths)

    def _has_capacity_again(self, resolved: ResolvedState) -> bool:
        """Return whether numbers became free that documents lack."""
        if not self._over_capacity:
            return False
        after = resolved.numbers
        return any(have.keys() - after.get(kind, {}).keys() for kind, have in self.resolved.numbers.items())

    def count(self, kind: Kind[Any]) -> int:
        """Return the number of objects of a kind in force."""
        return len(self.resolved.objects.get(kind.name, ())) if kind.referable else self._counts[kind.name]

    def status(self, name: str) -> DocumentStatus:
        """Return a document's status; not realized until a droplet of this host is in force, as no program runs."""
        status = self.documents.status(name)
        if status.state is not State.REALIZED or status.removed or self.resolved.own_droplets():
            return status
        return replace(status, state=State.PENDING, missing=(self.resolved.own_droplet(),))

    def owner_of_veth(self, id_: str) -> str | None:
        """Return the document that owns the object with this id whose interface is a veth, None if none does."""
        owners = (self.documents.owner(kind, id_) for kind in catalogue.KINDS.with_veths)
        return next((owner for owner in owners if owner is not None), None)

    def in_force(self) -> Iterable[tuple[str, Held]]:
        """Yield the documents in force, by name."""
        entries = self.documents.entries
        for name in sorted(entries):
            held = entries[name].in_force
            if held is not None:
                yield name, held

    def parts(self, name: str) -> Iterator[DesiredEntries]:
        """Yield a document's desired entries in parts of a few milliseconds each; nothing if it is not in force.

        All parts reflect the state at the time of the first one.
        """
        entry, resolved = self.documents.entries.get(name), self.resolved
        held = entry.in_force if entry else None
        if held is None:
            return
        for piece in pieces(held.listed()):
            result = DesiredEntries()
            render(piece, resolved, result, held.revision)
            yield result

    def desired_entries(self, held: Held) -> DesiredEntries:
        """Return the desired entries of one document in force."""
        result = DesiredEntries()
        render(held.listed(), self.resolved, result, held.revision)
        return result


def _write_again(change: Change, unapplied: DesiredEntries) -> None:
    """Plan again the wanted entries that may be missing: only then may they be acknowledged as realized."""
    for name, entries in unapplied.entries.items():
        wanted, before = change.after.entries.get(name, {}), change.before.entries[name]
        for key in entries.keys() & wanted.keys():
            before.pop(key, None)
    for place in unapplied.functions.keys() & change.after.functions.keys():
        change.before.functions.pop(place, None)
    for endpoint in unapplied.veths.keys() & change.after.veths.keys():
        if change.before.veths.get(endpoint) == change.after.veths[endpoint]:
            change.before.veths.pop(endpoint)
