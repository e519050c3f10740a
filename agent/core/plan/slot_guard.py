"""Keeps chains of functions and the programs in their slots together where the kernel refuses a part of a plan. Pure.

A packet whose chain names a slot without a program is dropped if the slot's function is closed. That is right for one
that was in force and cannot be loaded any more. One that the kernel refuses at the first attempt does not come into
force, so chains pass over its slot until that is undone. A slot stays filled while a chain that could not be changed
names it. All this holds beyond the plan in which the kernel refused something: later plans do not repeat what they do
not know to be missing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from agent.core.functions.stages import CHAIN_MAPS, slots_of, without_slots
from agent.core.model.desired_entries import Function
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import Action, DeleteEntries, DeleteFunction, Failure, PutEntries


class SlotGuard:
    """What the kernel refused, as far as it was not made up for."""

    def __init__(self) -> None:
        self._empty: set[tuple[int, int]] = set()
        """Stage points and slots that could not be filled, of functions that were not in force before."""
        self._refused: dict[MapName, set[bytes]] = {}
        """The keys of chains whose last change was refused."""

    def is_empty(self, function: Function, *, is_new: bool) -> None:
        """Record that a function's slot has no program, not even an older one; `is_new`: see `EnsureFunction`."""
        (self._empty.add if is_new else self._empty.discard)((function.point, function.slot))

    def is_filled(self, function: Function) -> None:
        """Record that a function's slot has a program."""
        self._empty.discard((function.point, function.slot))

    def allowed(self, action: PutEntries) -> PutEntries:
        """Return the action with chains that name filled slots only."""
        if not self._empty or action.map not in CHAIN_MAPS:
            return action
        return PutEntries(action.map, without_slots(action.map, action.entries, self._empty))

    def done(self, action: Action, failures: list[Failure]) -> None:
        """Record that an action was carried out, but for what was refused."""
        if isinstance(action, PutEntries | DeleteEntries) and action.map in CHAIN_MAPS:
            keys = self._refused.setdefault(action.map, set())
            keys.difference_update(_keys_of(action))
            keys.update(key for failure in failures for key in failure.keys or _keys_of(action))

    def suspects(self) -> Mapping[MapName, set[bytes]]:
        """Return the keys of chains that may not be as they were planned."""
        return {name: keys for name, keys in self._refused.items() if keys}

    def check(self, action: DeleteFunction, held: Mapping[MapName, Mapping[bytes, bytes]]) -> None:
        """Raise OSError (EBUSY) if a chain names the slot; `held` is what the kernel holds for `suspects`."""
        if (action.point, action.slot) in _named(held):
            raise OSError(errno.EBUSY, f"chains that name slot {action.slot} could not be changed")


def _keys_of(action: PutEntries | DeleteEntries) -> tuple[bytes, ...]:
    return tuple(key for key, _ in action.entries) if isinstance(action, PutEntries) else action.keys


def _named(held: Mapping[MapName, Mapping[bytes, bytes]]) -> Iterator[tuple[int, int]]:
    """Yield the stage points and slots that chains name."""
    for name, entries in held.items():
        layout, points = CHAIN_MAPS[name]
        for value in entries.values():
            fields = layout.unpack(value)
            for index, point in points.items():
                yield from ((int(point), slot) for slot in slots_of(fields[index]))
