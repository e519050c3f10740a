"""The desired state: which revision of which document is in force, which waits, which is refused, and why.

Level-triggered: the outcome depends on the newest revisions, not on the order in which documents came. Nothing here
touches the kernel: `settle` returns what changed, `confirm` and `fail` take in what the kernel made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.core.actions import Veth
from agent.core.realize import Realization, realize
from agent.core.registry import Held, Registry
from agent.core.settlement import Settlement
from agent.core.world import Here, World


@dataclass(slots=True)
class Change:
    """What `settle` did: what the documents concerned asked for before and ask for now."""

    before: Realization = field(default_factory=Realization)
    after: Realization = field(default_factory=Realization)
    adopted: set[str] = field(default_factory=set)
    """Documents of which another revision is in force now."""
    concerned: set[str] = field(default_factory=set)
    """Documents that were looked at: their verdicts may be new."""


class Desired:
    """The documents of one host, and the world that those in force make."""

    def __init__(self, here: Here, slots: dict[str, int] | None = None) -> None:
        """Start without documents; `slots` are those of the endpoints that the kernel was seen to have."""
        self.documents = Registry(here.host)
        self.world = World(here=here, slots=slots or {})
        """What references resolve to now."""
        self.endpoints = 0
        """How many endpoints the documents in force list."""
        self.veths: dict[str, Veth] = {}
        """The interfaces of the endpoints that live here, by endpoint."""
        self._here = here

    def set_here(self, here: Here) -> None:
        """Take in what the droplet's interface looks like now: a change has every document judged again."""
        if here != self._here:
            self._here = here
            self.documents.touch_all()

    def settle(self) -> Change:
        """Decide what is in force now, and return the difference to before."""
        settlement = Settlement(self.documents, self.world, self._here)
        settlement.decide()
        change = Change(concerned=set(settlement.choice))
        for name, held in settlement.choice.items():
            entry = self.documents.entries[name]
            if entry.in_force is not None:
                realize(settlement.document(entry.in_force), self.world, change.before)
                self.endpoints -= entry.in_force.endpoints
            if held is not None:
                realize(settlement.document(held), settlement.world, change.after)
                self.endpoints += held.endpoints
            if held is not entry.in_force:
                change.adopted.add(name)
            entry.in_force = held
            entry.judgement = settlement.judgements.get(name, entry.judgement)
        self.world = settlement.world
        for endpoint in change.before.veths.keys() - change.after.veths.keys():
            del self.veths[endpoint]
        self.veths.update(change.after.veths)
        return change

    def in_force(self) -> Iterable[tuple[str, Held]]:
        """Yield the documents in force, by name."""
        entries = self.documents.entries
        for name in sorted(entries):
            held = entries[name].in_force
            if held is not None:
                yield name, held

    def realization(self, held: Held) -> Realization:
        """Return what one document in force asks for."""
        result = Realization()
        realize(held.document(), self.world, result)
        return result
