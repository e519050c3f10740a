"""Resolves which revision of each document is in force.

Includes every affected document, falls back to an older revision of those that are invalid, and then restores those
that were invalid only because of documents that fell back themselves. Other documents are unaffected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent.core.config.ownership import Conflict
from agent.core.config.registry import Held, Registry
from agent.core.config.validation import Validation, validate
from agent.core.model.endpoint_slots import NoSlotError, assign
from agent.core.model.local_droplets import assign_indexes, no_free_index
from agent.core.model.resolved_state import HostState, ResolvedState, changed_objects
from agent.core.plan.render import local_endpoints
from protocol.acknowledgements import Reference
from protocol.documents import Document
from protocol.errors import ErrorCode, FieldError


class Resolver:
    """One decision about the documents that changed and those that depend on the changed objects."""

    def __init__(
        self,
        registry: Registry,
        touched: Mapping[str, Document | None],
        resolved: ResolvedState,
        host_state: HostState,
        *,
        removing: bool,
    ) -> None:
        """Start from the documents that changed, the state in force and the host as it is now."""
        self.over_capacity: set[str] = set()
        """Documents that did not fit into this host's slots or indexes."""
        self._removing = removing
        self.chosen: dict[str, Held | None] = {}
        self.validations: dict[str, Validation] = {}
        self.resolved = self._base = replace(resolved, host_state=host_state)
        self._old = resolved
        self._registry = registry
        self._documents: dict[int, Document] = {}
        self._fallen_back: set[str] = set()
        self._decided: set[str] = set()
        for name, document in touched.items():
            entry = registry.entries[name]
            if document is not None and entry.latest is not None:
                self._documents[id(entry.latest)] = document
            self._include(name)
        self._include_competing()

    def document(self, held: Held) -> Document:
        """Return the objects of a revision, decoded once per resolve."""
        found = self._documents.get(id(held))
        if found is None:
            found = self._documents[id(held)] = held.document()
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
            if not self._fall_back() and not self._restore() and self._assign_slots() and self._assign_indexes():
                return

    def _build_state(self) -> set[Reference]:
        """Build the state from the chosen revisions; return the objects that differ from those in force."""
        changed: set[Reference] = set()
        old, new = [], []
        for name, held in self.chosen.items():
            before = self._registry.entries[name].in_force
            if before is not held and ((before and before.provides) or (held and held.provides)):
                gone = self.document(before) if before else None
                come = self.document(held) if held else None
                changed |= changed_objects(gone, come)
                old += [gone] if gone else []
                new += [come] if come else []
        self.resolved = self._base.with_documents(old, new) if old or new else self._base
        if any(reference.kind == "networks" for reference in changed):
            self.resolved = self._with_ages(self.resolved)
        return changed

    def _with_ages(self, resolved: ResolvedState) -> ResolvedState:
        ownership = self._registry.ownership
        return replace(resolved, ages={id_: ownership.since("network", id_) for id_ in resolved.networks})

    def _dependents(self, changed: set[Reference]) -> set[str]:
        """Return the documents whose entries or validation may change when the given objects change."""
        vpcs = {reference.id for reference in changed if reference.kind == "vpcs"}
        networks = {reference.id for reference in changed if reference.kind == "networks"}
        moved = {n.id for n in self.resolved.networks.values() if n.vpc in vpcs} if vpcs else set()
        worlds = (self.resolved, self._old)
        homes = {resolved.networks[id_].vpc for id_ in networks for resolved in worlds if id_ in resolved.networks}
        return self._registry.referrers(
            [
                *changed,
                *(Reference("networks", id_) for id_ in moved),
                *(Reference("vpcs", id_) for id_ in homes),
            ]
        )

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
        old = [self.document(chosen)] if chosen else []
        return self._with_ages(self.resolved.with_documents(old, [self.document(held)]))

    def _validate(self, name: str, held: Held, resolved: ResolvedState) -> Validation:
        document = self.document(held)
        errors = []
        for conflict in self._registry.ownership.conflicts(name, document):
            owner = next(
                (claimant for claimant in conflict.claimants_before if not self._releases(claimant, conflict)), None
            )
            if owner is not None:
                message = f"{conflict.space} {conflict.key} belongs to document {owner!r}"
                errors.append(FieldError(conflict.path, ErrorCode.CLAIMED, message))
        if errors:
            return Validation(errors=tuple(errors))
        entry = self._registry.entries[name]
        return validate(document, held.needs, resolved, was_in_force=held is entry.in_force or held is entry.good)

    def _releases(self, claimant: str, conflict: Conflict) -> bool:
        """Return whether a claimant's chosen revision no longer lists what another document takes over."""
        chosen = self.chosen.get(claimant)
        if chosen is None:
            return False
        return not self._registry.ownership.lists(self.document(chosen), conflict.space, conflict.key)

    def _assign_slots(self) -> bool:
        """Assign a slot to every local endpoint; when none is free, the youngest document falls back."""
        gone: list[str] = []
        come: dict[str, str] = {}
        for name, held in self.chosen.items():
            before = self._registry.entries[name].in_force
            gone += local_endpoints(self.document(before), self._old.is_here) if before else []
            for endpoint in local_endpoints(self.document(held), self.resolved.is_here) if held else ():
                come[endpoint] = name
        left = self._old.departed.union(gone).difference(come)
        try:
            slots = assign(self._old.slots, left if self._removing else (), come)
            self.resolved = replace(self.resolved, slots=slots, departed=frozenset() if self._removing else left)
        except NoSlotError as error:
            names = {name for id_, name in come.items() if id_ not in self._old.slots}
            self._fall_back_youngest({name: FieldError("endpoints", ErrorCode.TOO_LARGE, str(error)) for name in names})
            return False
        return True

    def _assign_indexes(self) -> bool:
        """Assign indexes to every droplet of this host; when none is free, the youngest document falls back."""
        wanted = {
            arrival: id_ for id_, one in self.resolved.own.items() for arrival in self.resolved.ingress_addresses(one)
        }
        if wanted.keys() == self._old.local_indexes.keys():
            return True
        local_indexes, unplaced = assign_indexes(self._old.local_indexes, wanted, keep=not self._removing)
        self.resolved = replace(self.resolved, local_indexes=local_indexes)
        over_capacity = self._over_capacity({wanted[arrival] for arrival in unplaced})
        if over_capacity:
            self._fall_back_youngest(over_capacity)
        return not over_capacity

    def _over_capacity(self, ids: set[str]) -> dict[str, FieldError]:
        """Return the chosen documents that list droplets without a free index."""
        found: dict[str, FieldError] = {}
        for name, held in self.chosen.items() if ids else ():
            for index, droplet in enumerate(self.document(held).droplets if held else ()):
                if droplet.id in ids:
                    found[name] = FieldError(f"droplets[{index}].id", ErrorCode.OUT_OF_RANGE, no_free_index(droplet.id))
        return found

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
