"""Decides which revision of each document is in force.

Grows until no document concerned is left out, lowers those that cannot stand, and raises again those that could not
stand only because of others that were lowered themselves: a document that is refused takes nobody with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent.core.config.ownership import Conflict
from agent.core.config.registry import Held, Registry
from agent.core.config.validation import Judgement, judge
from agent.core.model.endpoint_slots import NoSlotError, assign
from agent.core.model.local_droplets import arrange, no_room
from agent.core.model.resolved_state import Here, World, differing
from agent.core.plan.render import local_endpoints
from protocol.acknowledgements import Reference
from protocol.documents import Document
from protocol.errors import ErrorCode, FieldError


class Settlement:
    """One decision over the documents that changed and those that depend on what changed with them."""

    def __init__(
        self,
        registry: Registry,
        touched: Mapping[str, Document | None],
        world: World,
        here: Here,
        *,
        removing: bool,
    ) -> None:
        """Start from the documents that changed and the world in force, on the host's interfaces as they are now."""
        self.crowded: set[str] = set()
        """Documents for which there was no room."""
        self._removing = removing
        self.choice: dict[str, Held | None] = {}
        self.judgements: dict[str, Judgement] = {}
        self.world = self._base = replace(world, here=here)
        self._old = world
        self._registry = registry
        self._documents: dict[int, Document] = {}
        self._lowered: set[str] = set()
        self._final: set[str] = set()
        for name, document in touched.items():
            entry = registry.entries[name]
            if document is not None and entry.latest is not None:
                self._documents[id(entry.latest)] = document
            self._concern(name)
        self._concern_rivals()

    def document(self, held: Held) -> Document:
        """Return the objects of a revision, decoded once per settlement."""
        found = self._documents.get(id(held))
        if found is None:
            found = self._documents[id(held)] = held.document()
        return found

    def _concern(self, name: str) -> None:
        options = self._registry.entries[name].options()
        self.choice[name] = options[0] if options else None

    def _concern_rivals(self) -> None:
        """Settle those that claim the same thing together: one may let go what another takes in the same step."""
        while rivals := self._registry.claims.rivals(set(self.choice)):
            for name in rivals:
                self._concern(name)

    def decide(self) -> None:
        """Choose a revision, or none, of every document concerned."""
        while True:
            changed = self._exchange()
            concerned = self._dependents(changed) - self.choice.keys()
            if concerned:
                for name in concerned:
                    self._concern(name)
                self._concern_rivals()
                continue
            if not self._lower() and not self._raise() and self._number() and self._place():
                return

    def _exchange(self) -> set[Reference]:
        """Make the world that the choices would give; return the objects in which it differs from the one in force."""
        changed: set[Reference] = set()
        old, new = [], []
        for name, held in self.choice.items():
            before = self._registry.entries[name].in_force
            if before is not held and ((before and before.provides) or (held and held.provides)):
                gone = self.document(before) if before else None
                come = self.document(held) if held else None
                changed |= differing(gone, come)
                old += [gone] if gone else []
                new += [come] if come else []
        self.world = self._base.exchanged(old, new) if old or new else self._base
        if any(reference.kind == "networks" for reference in changed):
            self.world = self._aged(self.world)
        return changed

    def _aged(self, world: World) -> World:
        claims = self._registry.claims
        return replace(world, ages={id_: claims.since("network", id_) for id_ in world.networks})

    def _dependents(self, changed: set[Reference]) -> set[str]:
        """Return the documents that look different, or may be judged otherwise, when some objects change."""
        vpcs = {reference.id for reference in changed if reference.kind == "vpcs"}
        networks = {reference.id for reference in changed if reference.kind == "networks"}
        moved = {n.id for n in self.world.networks.values() if n.vpc in vpcs} if vpcs else set()
        worlds = (self.world, self._old)
        homes = {world.networks[id_].vpc for id_ in networks for world in worlds if id_ in world.networks}
        return self._registry.interested(
            [
                *changed,
                *(Reference("networks", id_) for id_ in moved),
                *(Reference("vpcs", id_) for id_ in homes),
            ]
        )

    def _lower(self) -> bool:
        """Judge every choice; take the next best revision of those that cannot stand. Return whether there were any.

        What is in force is judged only when all that is new can stand: it may fail because of something new alone.
        """
        new = [name for name, held in self.choice.items() if held is not self._registry.entries[name].in_force]
        return self._lower_some(new) or self._lower_some(self.choice.keys() - set(new))

    def _lower_some(self, names: Iterable[str]) -> bool:
        lowered = False
        for name in names:
            held = self.choice[name]
            if held is None:
                continue
            judgement = self._judge(name, held, self.world)
            entry = self._registry.entries[name]
            if held is entry.latest:
                self.judgements[name] = judgement
            if not judgement.sound:
                self.choice[name] = entry.good if held is entry.latest and held is not entry.good else None
                self._lowered.add(name)
                lowered = True
        return lowered

    def _raise(self) -> bool:
        """Take back the lowering of documents that can stand now, each once. Return whether there were any.

        Of those that others may refer to, one at a time: the next one may not go together with it.
        """
        raised = False
        for name in sorted(self._lowered - self._final, key=self._registry.newest):
            entry = self._registry.entries[name]
            for held in entry.options():
                if held is self.choice[name]:
                    break
                judgement = self._judge(name, held, self._world_with(name, held))
                if held is entry.latest:
                    self.judgements[name] = judgement
                if judgement.sound:
                    self._final.add(name)
                    self.choice[name] = held
                    raised = True
                    if held.provides:
                        return True
                    break
        return raised

    def _world_with(self, name: str, held: Held) -> World:
        """Return the world with one document at another revision than the chosen one."""
        chosen = self.choice[name]
        if not held.provides and not (chosen and chosen.provides):
            return self.world
        old = [self.document(chosen)] if chosen else []
        return self._aged(self.world.exchanged(old, [self.document(held)]))

    def _judge(self, name: str, held: Held, world: World) -> Judgement:
        document = self.document(held)
        errors = []
        for conflict in self._registry.claims.conflicts(name, document):
            owner = next((elder for elder in conflict.elders if not self._lets_go(elder, conflict)), None)
            if owner is not None:
                message = f"{conflict.space} {conflict.key} belongs to document {owner!r}"
                errors.append(FieldError(conflict.path, ErrorCode.CLAIMED, message))
        if errors:
            return Judgement(errors=tuple(errors))
        entry = self._registry.entries[name]
        return judge(document, held.needs, world, standing=held is entry.in_force or held is entry.good)

    def _lets_go(self, elder: str, conflict: Conflict) -> bool:
        """Say whether an elder's chosen revision does not list any more what another document takes over."""
        chosen = self.choice.get(elder)
        if chosen is None:
            return False
        return not self._registry.claims.lists(self.document(chosen), conflict.space, conflict.key)

    def _number(self) -> bool:
        """Give every endpoint that lives here from now on its number; where there is none left, lower the youngest."""
        gone: list[str] = []
        come: dict[str, str] = {}
        for name, held in self.choice.items():
            before = self._registry.entries[name].in_force
            gone += local_endpoints(self.document(before), self._old.is_here) if before else []
            for endpoint in local_endpoints(self.document(held), self.world.is_here) if held else ():
                come[endpoint] = name
        left = self._old.left.union(gone).difference(come)
        try:
            slots = assign(self._old.slots, left if self._removing else (), come)
            self.world = replace(self.world, slots=slots, left=frozenset() if self._removing else left)
        except NoSlotError as error:
            names = {name for id_, name in come.items() if id_ not in self._old.slots}
            self._lower_youngest({name: FieldError("endpoints", ErrorCode.TOO_LARGE, str(error)) for name in names})
            return False
        return True

    def _place(self) -> bool:
        """Give every droplet of this host its places; where there are none left, lower the youngest."""
        wanted = {arrival: id_ for id_, one in self.world.own.items() for arrival in self.world.arrivals(one)}
        if wanted.keys() == self._old.places.keys():
            return True
        places, left_out = arrange(self._old.places, wanted, keep=not self._removing)
        self.world = replace(self.world, places=places)
        crowded = self._crowding({wanted[arrival] for arrival in left_out})
        if crowded:
            self._lower_youngest(crowded)
        return not crowded

    def _crowding(self, ids: set[str]) -> dict[str, FieldError]:
        """Return the documents chosen that list some droplets for which there is no room."""
        found: dict[str, FieldError] = {}
        for name, held in self.choice.items() if ids else ():
            for index, droplet in enumerate(self.document(held).droplets if held else ()):
                if droplet.id in ids:
                    found[name] = FieldError(f"droplets[{index}].id", ErrorCode.OUT_OF_RANGE, no_room(droplet.id))
        return found

    def _lower_youngest(self, crowded: Mapping[str, FieldError]) -> None:
        youngest = max(crowded, key=lambda name: self._registry.entries[name].newest)
        entry = self._registry.entries[youngest]
        self._final.add(youngest)
        self.crowded.add(youngest)
        errors = (crowded[youngest],)
        if self.choice[youngest] is entry.latest:
            self.judgements[youngest] = Judgement(errors=errors)
            self.choice[youngest] = entry.good if entry.good is not entry.latest else None
        else:
            self.choice[youngest] = None
