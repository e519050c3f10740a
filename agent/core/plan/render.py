"""Renders documents in force into desired entries: map entries and veths. One pass per document, no I/O."""

from __future__ import annotations

from agent.core.kinds.catalogue import Listed
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.resolved_state import ResolvedState

PIECE = 1000
"""Objects of one kind in one document that are rendered in one go while other work waits: a few milliseconds."""


def render(listed: Listed, resolved: ResolvedState, into: DesiredEntries, revision: int = 0) -> None:
    """Add the desired entries of what a revision of a document lists. All its references must resolve in `resolved`."""
    for kind, objects in listed:
        kind.render(objects, resolved, into, revision)


def pieces(listed: Listed) -> list[Listed]:
    """Split a document's objects into parts of at most `PIECE` of a kind, which together render to the same entries."""
    longest = 0
    for _, objects in listed:
        longest = max(longest, len(objects))
    if longest <= PIECE:
        return [listed]
    return [
        [(kind, part) for kind, objects in listed if (part := objects[start : start + PIECE])]
        for start in range(0, longest, PIECE)
    ]
