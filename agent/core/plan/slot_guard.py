"""Keeps chains of functions and the programs in their slots together where the kernel refuses a part of a plan. Pure.

A packet whose chain names a slot without a program is dropped. So a chain passes over a slot that could not be filled,
and a slot stays filled while a chain that could not be changed may name it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from agent.core.functions.stages import CHAIN_MAPS, without_slots
from agent.core.model.desired_entries import Function
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import Action, DeleteEntries, DeleteFunction, Failure, PutEntries


class SlotGuard:
    """What the kernel refused so far: slots in the current plan, chains until they are changed after all."""

    def __init__(self) -> None:
        self._empty: set[tuple[int, int]] = set()
        """Stage points and slots that could not be filled."""
        self._unchanged: set[tuple[MapName, bytes]] = set()
        """Entries with chains that could not be changed, by map and key."""

    def begin(self) -> None:
        """Begin another plan."""
        self._empty.clear()

    def is_empty(self, function: Function) -> None:
        """Record that a function's slot has no program, not even an older one."""
        self._empty.add((function.point, function.slot))

    def allowed(self, action: PutEntries) -> PutEntries:
        """Return the action with chains that name filled slots only."""
        if not self._empty or action.map not in CHAIN_MAPS:
            return action
        return PutEntries(action.map, without_slots(action.map, action.entries, self._empty))

    def done(self, action: Action, failures: Sequence[Failure]) -> None:
        """Record the result of an action: its failures, none if all of it succeeded."""
        match action:
            case PutEntries(name, entries) if name in CHAIN_MAPS:
                keys = {key for key, _ in entries}
            case DeleteEntries(name, deleted) if name in CHAIN_MAPS:
                keys = set(deleted)
            case _:
                return
        refused = {key for failure in failures for key in failure.keys or keys}
        self._unchanged.difference_update((name, key) for key in keys)
        self._unchanged.update((name, key) for key in refused)

    def check(self, action: DeleteFunction) -> None:
        """Raise OSError (EBUSY) if a chain may still name the slot."""
        if self._unchanged:
            raise OSError(errno.EBUSY, f"a chain that may name slot {action.slot} could not be changed")
