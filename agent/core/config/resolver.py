"""Resolves which revision of each document is in force.

Includes every affected document, falls back to an older revision of those that are invalid, and then restores those
that were invalid only because of documents that fell back themselves. Other documents are unaffected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from agent.core.config.ownership import Conflict
from agent.core.config.references import changed_objects, with_documents
from agent.core.config.registry import Held, Registry
from agent.core.config.validation import Validation, validate
from agent.core.kinds import catalogue
from agent.core.kinds.catalogue import Listed, objects_of
from agent.core.kinds.kind import Choice, Kind
from agent.core.model.resolved_state import HostState, ResolvedState
from protocol.acknowledgements import Reference
from protocol.errors import ErrorCode, FieldError


class Resolver:
    """One decision about the documents that changed and those that depend on the changed objects."""

    def __init__(
        self,
        registry: Registry,
        touched: Mapping[str, Listed | None],
        resolved: ResolvedState,
        host_state: HostState,
        *,
        removing: bool,
    ) -> None:
        """Start from the documents that changed, the state in force and the host as it is now."""
        self.over_capacity: set[str] = set()
        """Documents for which this host had no numbers left, such as slots."""
        self._removing = removing
        self.chosen: dict[str, Held | None] = {}
        self.validations: dict[str, Validation] = {}
        self.resolved = self._base = replace(resolved, host_state=host_state)
        self._old = resolved
        self._registry = registry
        self._listed: dict[int, Listed] = {}
        self._fallen_back: set[str] = set()
        self._decided: set[str] = set()
        for name, listed in touched.items():
            entry = registry.entries[name]
            if listed is not None and entry.latest is not None:
                self._listed[id(entry.latest)] = listed
            self._include(name)
        self._include_competing()

    def listed(self, held: Held | None) -> Listed:
        """Return the objects of a revision, decoded once per resolve; nothing of none."""
        if held is None:
            return ()
        found = self._listed.get(id(held))
        if found is None:
            found = self._listed[id(held)] = held.listed()
        return found

    def _include(self, name: str) -> None:
        options = self._registry.entries[name].options()
        self.chosen[name] = options[0] if options else None

    def _include_competing(self) -> None:
        """Include documents that claim the same objects: one may release what another takes over in this step."""
        while competing := self._registry.ownership.competing(set(self.chosen)):
            for name in competing:
                self._include(name)

    def decide(self) -> None:
        """Choose a revision, or none, of every affected document."""
        while True:
            changed = self._build_state()
            affected = self._dependents(changed) - self.chosen.keys()
            if affected:
                for name in affected:
                    self._include(name)
                self._include_competing()
                continue
            if not self._fall_back() and not self._restore() and self._assign():
                return

    def _build_state(self) -> set[Reference]:
        """Build the state from the chosen revisions; return the objects that differ from those in force."""
        changed: set[Reference] = set()
        old, new = [], []
        for name, held in self.chosen.items():
            before = self._registry.entries[name].in_force
            if before is not held and ((before and before.provides) or (held and held.provides)):
                gone, come = self.listed(before), self.listed(held)
                changed |= changed_objects(gone, come)
                old.append(gone)
                new.append(come)
        self.resolved = with_documents(self._base, old, new) if old or new else self._base
        if any(catalogue.KINDS.by_name[reference.kind].seniority for reference in changed):
            self.resolved = self._with_ages(self.resolved)
        return changed

    def _with_ages(self, resolved: ResolvedState) -> ResolvedState:
        since = self._registry.ownership.since
        ages = {
            kind.name: {id_: since(kind.singular, id_) for id_ in resolved.objects.get(kind.name, ())}
            for kind in catalogue.KINDS
            if kind.seniority
        }
        return replace(resolved, ages=ages)

    def _dependents(self, changed: set[Reference]) -> set[str]:
        """Return the documents whose entries or validation may change when the given objects change."""
        if not changed:
            return set()
        states = (self.resolved, self._old)
        by_kind: dict[str, set[str]] = {}
        for reference in changed:
            by_kind.setdefault(reference.kind, set()).add(reference.id)
        kinds = [(catalogue.KINDS.by_name[name], ids) for name, ids in by_kind.items()]
        further = (kind.dependents(ids, states) for kind, ids in kinds)
        holding = (kind.rendered_in(ids, states) for kind, ids in kinds)
        return self._registry.referrers(chain(changed, *further)) | self._registry.owners(chain(*holding))

    def _fall_back(self) -> bool:
        """Validate every chosen revision; fall back to an older one where that fails. Return whether any fell back.

        Revisions in force are validated only once all new ones are valid: a new one may be the only reason to fail.
        """
        new = [name for name, held in self.chosen.items() if held is not self._registry.entries[name].in_force]
        return self._fall_back_some(new) or self._fall_back_some(self.chosen.keys() - set(new))

    def _fall_back_some(self, names: Iterable[str]) -> bool:
        fell_back = False
        for name in names:
            held = self.chosen[name]
            if held is None:
                continue
            validation = self._validate(name, held, self.resolved)
            entry = self._registry.entries[name]
            if held is entry.latest:
                self.validations[name] = validation
            if not validation.valid:
                self.chosen[name] = entry.good if held is entry.latest and held is not entry.good else None
                self._fallen_back.add(name)
                fell_back = True
        return fell_back

    def _restore(self) -> bool:
        """Restore newer revisions of documents that have become valid, each once. Return whether any was restored.

        Documents with objects that others may refer to are restored one at a time: two of them may conflict.
        """
        restored = False
        for name in sorted(self._fallen_back - self._decided, key=self._registry.newest):
            entry = self._registry.entries[name]
            for held in entry.options():
                if held is self.chosen[name]:
                    break
                validation = self._validate(name, held, self._state_with(name, held))
                if held is entry.latest:
                    self.validations[name] = validation
                if validation.valid:
                    self._decided.add(name)
                    self.chosen[name] = held
                    restored = True
                    if held.provides:
                        return True
                    break
        return restored

    def _state_with(self, name: str, held: Held) -> ResolvedState:
        """Return the state with one document at another revision than the chosen one."""
        chosen = self.chosen[name]
        if not held.provides and not (chosen and chosen.provides):
            return self.resolved
        return self._with_ages(with_documents(self.resolved, [self.listed(chosen)], [self.listed(held)]))

    def _validate(self, name: str, held: Held, resolved: ResolvedState) -> Validation:
        listed = self.listed(held)
        errors, later = [], True
        for conflict in self._registry.ownership.conflicts(name, listed):
            owner = next(
                (claimant for claimant in conflict.claimants_before if not self._releases(claimant, conflict)), None
            )
            if owner is not None:
                message = f"{_object(conflict.space, conflict.key)} belongs to document {owner!r}"
                errors.append(FieldError(conflict.path, ErrorCode.CLAIMED, message))
                later &= self._will_release(owner, conflict)
        entry = self._registry.entries[name]
        was_in_force = held is entry.in_force or held is entry.good
        found = validate(listed, held.needs, resolved, name, was_in_force=was_in_force) if later else None
        if errors:
            return found if found is not None and found.is_waiting else Validation(errors=tuple(errors))
        assert found is not None
        waiting = tuple(self._not_taken_over(name, held)) if found.valid else ()
        return Validation(errors=waiting) if waiting else found

    def _releases(self, claimant: str, conflict: Conflict) -> bool:
        """Return whether a claimant's chosen revision no longer lists what another document takes over."""
        chosen = self.chosen.get(claimant)
        if chosen is None:
            return False
        return not self._registry.ownership.lists(self.listed(chosen), conflict.space, conflict.key)

    def _will_release(self, claimant: str, conflict: Conflict) -> bool:
        """Return whether a claimant releases a key as soon as what takes it over can run: see `_not_taken_over`."""
        latest = self._registry.entries[claimant].latest
        if latest is None or not self.resolved.host_state.unchecked:
            return False
        return not self._registry.ownership.lists(self.listed(latest), conflict.space, conflict.key)

    def _not_taken_over(self, name: str, held: Held) -> Iterator[FieldError]:
        """Yield why a document keeps what its revision no longer lists: another one cannot take it over yet."""
        before = self._registry.entries[name].in_force
        if before is None or before is held or not self.resolved.host_state.unchecked:
            return
        for kind, objects in self.listed(before):
            kept = {one.id for one in objects_of(kind, self.listed(held))}
            released = [one for one in objects if one.id not in kept]
            owners = {owner for one in released for owner in self._registry.ownership.claimants(kind.singular, one.id)}
            for latest in (self._registry.entries[owner].latest for owner in sorted(owners - {name})):
                yield from kind.not_taken_over(released, objects_of(kind, self.listed(latest)), self.resolved)

    def _assign(self) -> bool:
        """Assign this host's numbers, such as slots; when none is free, the youngest document falls back.

        Objects that refer to others come first: if they fall back, there may be numbers enough for the others.
        """
        for kind in catalogue.KINDS.numbered:
            assigned = kind.assign(self._choices(kind), self._old, self.resolved, removing=self._removing)
            self.resolved = assigned.resolved
            if assigned.errors:
                self._fall_back_youngest(assigned.errors)
                return False
        return True

    def _choices(self, kind: Kind[Any]) -> Iterator[Choice[Any]]:
        """Yield the objects of one kind in every affected document."""
        for name, held in self.chosen.items():
            before = self._registry.entries[name].in_force
            yield Choice(name, objects_of(kind, self.listed(before)), objects_of(kind, self.listed(held)))

    def _fall_back_youngest(self, over_capacity: Mapping[str, FieldError]) -> None:
        youngest = max(over_capacity, key=lambda name: self._registry.entries[name].newest)
        entry = self._registry.entries[youngest]
        self._decided.add(youngest)
        self.over_capacity.add(youngest)
        errors = (over_capacity[youngest],)
        if self.chosen[youngest] is entry.latest:
            self.validations[youngest] = Validation(errors=errors)
            self.chosen[youngest] = entry.good if entry.good is not entry.latest else None
        else:
            self.chosen[youngest] = None


def _object(space: str, key: str) -> str:
    """Name what may have only one owner; the address of an endpoint is a key like "front 10.9.1.77"."""
    network, _, address = key.rpartition(" ")
    return f"{space} {address} of network {network}" if network else f"{space} {key}"
