"""What may be removed from the kernel now: nothing before the snapshot is complete, and never what nothing explains.

Pure: takes in what is known of the snapshot and of earlier agents, and leaves out the actions that have to wait.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.plan.actions import Action
from agent.core.plan.planner import additions

OBJECTS_OF_NO_DOCUMENT = ""
"""Stands among the documents that wait when something is to be removed that belongs to no document."""


class RemovalGuard:
    """Holds removals back, and knows the documents whose acknowledgement waits for them."""

    def __init__(self) -> None:
        self.in_sync = False
        """Whether the snapshot is complete."""
        self.unexplained = 0
        """How many objects stay in the kernel though no document explains them."""
        self.postponed: set[str] = set()
        """The documents that are acknowledged when the snapshot is complete, and OBJECTS_OF_NO_DOCUMENT."""
        self._removes_rest = False
        """Whether objects that no document explains may be removed: not where this agent found some and no documents
        were saved, so that it is not known what an earlier one put in place."""

    def started(self, *, has_documents: bool) -> None:
        """Take in whether documents of an earlier agent were saved: they explain what that one put in place."""
        self._removes_rest = has_documents or not self.postponed

    def begin_snapshot(self) -> None:
        """Hold all removals back until the snapshot is complete."""
        self.in_sync = False

    def complete_snapshot(self) -> None:
        """Allow removals."""
        self.in_sync = True

    def remove_unexplained(self) -> None:
        """Allow removals of what no document explains: an operator asked for it."""
        self._removes_rest = True

    def allowed(self, actions: list[Action], names: Iterable[str] = ()) -> list[Action]:
        """Return what may be done now. The documents named wait for their acknowledgement when that is not all."""
        if self.in_sync:
            return actions
        kept = additions(actions)
        if len(kept) < len(actions):
            self.postponed |= {OBJECTS_OF_NO_DOCUMENT, *names}
        return kept

    def explained(self, actions: list[Action]) -> list[Action]:
        """Leave out removals where it is not known what explains the objects in the kernel."""
        kept = actions if self._removes_rest else additions(actions)
        self.unexplained = len(actions) - len(kept)
        self._removes_rest = self._removes_rest or (self.in_sync and not self.unexplained)
        return kept

    def take_postponed(self) -> set[str]:
        """Return the documents that waited, and forget them."""
        postponed, self.postponed = self.postponed, set()
        return postponed
