"""The desired state: which revision of which document is in force, which waits, which is refused, and why.

Level-triggered: the outcome depends on the newest revisions, not on the order in which documents came. Nothing here
touches the kernel: `settle` returns what changed, `confirm` and `fail` take in what the kernel made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent.core.config.registry import Held, Registry, Verdict
from agent.core.config.resolver import Settlement
from agent.core.model.local_droplets import Places
from agent.core.model.resolved_state import Here, World
from agent.core.plan.actions import Veth
from agent.core.plan.render import Realization, pieces, realize
from protocol.acknowledgements import Reference, State


@dataclass(slots=True)
class Change:
    """What `settle` did: what the documents concerned asked for before and ask for now."""

    before: Realization = field(default_factory=Realization)
    after: Realization = field(default_factory=Realization)
    left: dict[str, Realization] = field(default_factory=dict)
    """What each document whose revision gave way asked for: whoever fails to remove it answers for it."""
    adopted: set[str] = field(default_factory=set)
    """Documents of which another revision is in force now."""
    concerned: set[str] = field(default_factory=set)
    """Documents that were looked at: their verdicts may be new."""


class Desired:
    """The documents of one host, and the world that those in force make."""

    def __init__(self, here: Here, slots: Mapping[str, int] | None = None, places: Places | None = None) -> None:
        """Start without documents; `slots` and `places` are those that the kernel was seen to have."""
        self.documents = Registry()
        self.world = World(here=here, slots=slots or {}, left=frozenset(slots or ()), places=places or {})
        """What references resolve to now."""
        self.endpoints = 0
        """How many endpoints the documents in force list."""
        self.veths: dict[str, Veth] = {}
        """The interfaces of the endpoints that live here, by endpoint."""
        self._here = here
        self._crowded: set[str] = set()
        """Documents for which there was no room, until there may be again."""

    def set_here(self, here: Here) -> None:
        """Take in what this host's interfaces look like now: a change has every document judged again."""
        here = replace(here, down=self._here.down)
        if here != self._here:
            self._here = here
            self.documents.touch_all()

    def set_down(self, down: frozenset[str]) -> None:
        """Take in which droplets do not answer: who bounces or divides is looked at anew where that is among them."""
        changed, self._here = down ^ self._here.down, replace(self._here, down=down)
        networks = (("network", one.id) for one in self.world.networks.values() if changed & {*one.bouncers})
        vpcs = (("vpc", one.id) for one in self.world.vpcs.values() if changed & {*one.dividers})
        owners = (self.documents.claims.owner(space, id_) for space, id_ in (*networks, *vpcs))
        self.documents.touch({owner for owner in owners if owner is not None})

    def settle(self, *, removing: bool = False) -> Change:
        """Decide what is in force now, and return the difference to before. An exception leaves all as it was.

        Without `removing`, what is not wanted any more stays in the kernel for now, and keeps its place there.
        """
        touched = self.documents.take_touched()
        try:
            settlement = Settlement(self.documents, touched, self.world, self._here, removing=removing)
            settlement.decide()
            change = self._change(settlement)
        except BaseException:
            self.documents.touch(touched)
            raise
        self._commit(settlement, change)
        return change

    def _change(self, settlement: Settlement) -> Change:
        change, doubtful = Change(concerned=set(settlement.choice)), Realization()
        for name, held in settlement.choice.items():
            before = self.documents.entries[name].in_force
            if before is not None:
                part = change.before
                if held is not before:
                    part = change.left[name] = Realization()
                realize(settlement.document(before), self.world, part, before.revision)
                change.before.add(part)
                if self.documents.entries[name].doubtful:
                    realize(settlement.document(before), self.world, doubtful, before.revision)
            if held is not None:
                realize(settlement.document(held), settlement.world, change.after, held.revision)
            if held is not before:
                change.adopted.add(name)
        # Droplets of several documents may lie on one interface: it is theirs together.
        change.before.transit, change.after.transit = self.world.carriers(), settlement.world.carriers()
        _doubt(change, doubtful)
        return change

    def _commit(self, settlement: Settlement, change: Change) -> None:
        for name, held in settlement.choice.items():
            entry = self.documents.entries[name]
            self.endpoints += (held.endpoints if held else 0) - (entry.in_force.endpoints if entry.in_force else 0)
            entry.in_force = held
            entry.judgement = settlement.judgements.get(name, entry.judgement)
        self._crowded |= settlement.crowded
        if self._has_room_again(settlement.world):
            self.documents.touch(self._crowded & self.documents.entries.keys())
            self._crowded.clear()
        self.world = settlement.world
        for endpoint in change.before.veths.keys() - change.after.veths.keys():
            del self.veths[endpoint]
        self.veths.update(change.after.veths)

    def _has_room_again(self, world: World) -> bool:
        """Say whether places became free for those that found none."""
        left = self.world.slots.keys() - world.slots.keys() or self.world.places.keys() - world.places.keys()
        return bool(self._crowded and left)

    def verdict(self, name: str) -> Verdict:
        """Return what stands for a document. Nothing is realized before this host's droplet is: no program runs yet."""
        verdict = self.documents.verdict(name)
        if verdict.state is not State.REALIZED or verdict.removed or self.world.own_droplets():
            return verdict
        return replace(
            verdict, state=State.PENDING, missing=(Reference("droplets", f"of host {self.world.here.host}"),)
        )

    def in_force(self) -> Iterable[tuple[str, Held]]:
        """Yield the documents in force, by name."""
        entries = self.documents.entries
        for name in sorted(entries):
            held = entries[name].in_force
            if held is not None:
                yield name, held

    def parts(self, name: str) -> Iterator[Realization]:
        """Yield what one document asks for, in parts that take a few milliseconds each; nothing if none is in force.

        All parts are of the world as it was at the first one.
        """
        entry, world = self.documents.entries.get(name), self.world
        held = entry.in_force if entry else None
        if held is None:
            return
        for piece in pieces(held.document()):
            result = Realization()
            realize(piece, world, result, held.revision)
            yield result

    def realization(self, held: Held) -> Realization:
        """Return what one document in force asks for."""
        result = Realization()
        realize(held.document(), self.world, result, held.revision)
        return result


def _doubt(change: Change, doubtful: Realization) -> None:
    """Have put again what may not be there and is still wanted: only then may it be told as realized."""
    for name, entries in doubtful.entries.items():
        wanted, before = change.after.entries.get(name, {}), change.before.entries[name]
        for key in entries.keys() & wanted.keys():
            before.pop(key, None)
    for endpoint in doubtful.veths.keys() & change.after.veths.keys():
        if change.before.veths.get(endpoint) == change.after.veths[endpoint]:
            change.before.veths.pop(endpoint)
