"""Decides what may be removed from the kernel: nothing before the snapshot is complete, nor objects of unknown origin.

Without I/O: from the state of the snapshot and of the store, it filters out the actions that have to wait, and records
what it held back.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.plan.actions import Action
from agent.core.plan.planner import additions

OBJECTS_OF_NO_DOCUMENT = ""
"""Entry among the waiting documents for objects to be removed that belong to no document."""


class RemovalGuard:
    """Holds removals back, and tracks the documents whose acknowledgements wait for them."""

    def __init__(self) -> None:
        self.in_sync = False
        """Whether the snapshot is complete."""
        self.unexplained = 0
        """The number of objects that stay in the kernel although no document explains them."""
        self.postponed: set[str] = set()
        """The documents that are acknowledged when the snapshot is complete, and OBJECTS_OF_NO_DOCUMENT."""
        self._removes_rest = False
        """Whether objects that no document explains may be removed: not if this agent found some without any saved
        documents, so that it does not know what an earlier agent created."""

    def started(self, *, has_documents: bool) -> None:
        """Record whether an earlier agent saved documents: they explain the objects that it created."""
        self._removes_rest = has_documents or not self.postponed

    def begin_snapshot(self) -> None:
        """Hold all removals back until the snapshot is complete."""
        self.in_sync = False

    def complete_snapshot(self) -> None:
        """Allow removals."""
        self.in_sync = True

    def remove_unexplained(self) -> None:
        """Allow the removal of objects that no document explains: an operator asked for it."""
        self._removes_rest = True

    def allowed(self, actions: list[Action], names: Iterable[str] = ()) -> list[Action]:
        """Return the actions that are allowed now; if some are not, record that acknowledgements of `names` wait."""
        if self.in_sync:
            return actions
        kept = additions(actions)
        if len(kept) < len(actions):
            self.postponed |= {OBJECTS_OF_NO_DOCUMENT, *names}
        return kept

    def explained(self, actions: list[Action]) -> list[Action]:
        """Leave out removals while it is unknown which documents explain the objects in the kernel.

        Record how many objects stay. Once the snapshot is complete and explains all, removals stay allowed.
        """
        kept = actions if self._removes_rest else additions(actions)
        self.unexplained = len(actions) - len(kept)
        self._removes_rest = self._removes_rest or (self.in_sync and not self.unexplained)
        return kept

    def take_postponed(self) -> set[str]:
        """Return the documents that waited, and forget them."""
        postponed, self.postponed = self.postponed, set()
        return postponed
