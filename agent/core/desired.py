"""The desired state: which revision of which document is in force, which waits, which is refused, and why.

Level-triggered: the outcome depends on the newest revisions, not on the order in which documents came. Nothing here
touches the kernel: `settle` returns what changed, `confirm` and `fail` take in what the kernel made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent.core.actions import Veth
from agent.core.realize import Realization, realize
from agent.core.registry import Held, Registry, Verdict
from agent.core.settlement import Settlement
from agent.core.world import Here, World
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
        """Decide what is in force now, and return the difference to before. An exception leaves all as it was."""
        touched = self.documents.take_touched()
        try:
            settlement = Settlement(self.documents, touched, self.world, self._here)
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
                realize(settlement.document(before), self.world, part)
                change.before.add(part)
                if self.documents.entries[name].doubtful:
                    realize(settlement.document(before), self.world, doubtful)
            if held is not None:
                realize(settlement.document(held), settlement.world, change.after)
            if held is not before:
                change.adopted.add(name)
        _doubt(change, doubtful)
        return change

    def _commit(self, settlement: Settlement, change: Change) -> None:
        for name, held in settlement.choice.items():
            entry = self.documents.entries[name]
            self.endpoints += (held.endpoints if held else 0) - (entry.in_force.endpoints if entry.in_force else 0)
            entry.in_force = held
            entry.judgement = settlement.judgements.get(name, entry.judgement)
        self.world = settlement.world
        for endpoint in change.before.veths.keys() - change.after.veths.keys():
            del self.veths[endpoint]
        self.veths.update(change.after.veths)

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

    def realization(self, held: Held) -> Realization:
        """Return what one document in force asks for."""
        result = Realization()
        realize(held.document(), self.world, result)
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
