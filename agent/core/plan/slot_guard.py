"""Keeps chains of functions and the programs in their slots together where the kernel refuses a part of a plan. Pure.

A packet whose chain names a slot without a program is dropped. So a chain passes over a slot that could not be filled,
and a slot stays filled while a chain that could not be changed may name it.
"""

from __future__ import annotations

import errno

from agent.core.functions.stages import CHAIN_MAPS, without_slots
from agent.core.model.desired_entries import Function
from agent.core.plan.actions import Action, DeleteEntries, DeleteFunction, PutEntries


class SlotGuard:
    """What was refused of one plan so far."""

    def __init__(self) -> None:
        self._empty: set[tuple[int, int]] = set()
        """Stage points and slots that could not be filled."""
        self._chains_refused = False

    def is_empty(self, function: Function) -> None:
        """Record that a function's slot has no program, not even an older one."""
        self._empty.add((function.point, function.slot))

    def allowed(self, action: PutEntries) -> PutEntries:
        """Return the action with chains that name filled slots only."""
        if not self._empty or action.map not in CHAIN_MAPS:
            return action
        return PutEntries(action.map, without_slots(action.map, action.entries, self._empty))

    def refused(self, action: Action) -> None:
        """Record that the kernel refused a part of an action."""
        if isinstance(action, PutEntries | DeleteEntries) and action.map in CHAIN_MAPS:
            self._chains_refused = True

    def check(self, action: DeleteFunction) -> None:
        """Raise OSError (EBUSY) if a chain may still name the slot."""
        if self._chains_refused:
            raise OSError(errno.EBUSY, f"chains that name slot {action.slot} could not be changed")
