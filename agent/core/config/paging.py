"""Pages of the objects in force. The cost of a page depends on its size, not on the number of objects.

Objects that others refer to are ordered by id. Others, such as endpoints, exist only in documents and are
ordered by document, then id.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from agent.core.config.registry import Registry
from agent.core.kinds.catalogue import objects_of
from agent.core.kinds.kind import Kind, T


class Order:
    """The ids of an immutable mapping, sorted once for all its pages."""

    def __init__(self) -> None:
        self._of: Mapping[str, object] = {}
        self._ids: list[str] = []

    def page(self, objects: Mapping[str, object], after: str, limit: int) -> tuple[list[str], str]:
        """Return the first `limit` ids after `after`, and the cursor of the next page: empty at the end."""
        if objects is not self._of:
            self._of, self._ids = objects, sorted(objects)
        return page(self._ids, after, limit)


def page(ids: list[str], after: str, limit: int) -> tuple[list[str], str]:
    """Return the first `limit` of sorted ids after `after`, and the cursor of the next page: empty at the end."""
    start = bisect_right(ids, after)
    found = ids[start : start + limit]
    return found, found[-1] if start + limit < len(ids) else ""


def in_documents(kind: Kind[T], documents: Registry, after: str, limit: int) -> tuple[list[T], str]:
    """Return the first `limit` objects in force after `after`, and the cursor of the next page: empty at the end.

    For kinds that are not referable. A cursor is a document's name and an object's id, separated by a space.
    """
    first, _, last = after.partition(" ")
    names = documents.names()
    found: list[T] = []
    following = ""
    for name in names[bisect_left(names, first) :]:
        held = documents.entries[name].in_force
        if held is None or not held.lists(kind.name):
            continue
        if len(found) == limit:
            return found, following
        behind = last if name == first else ""
        rest = sorted((one for one in objects_of(kind, held.listed()) if one.id > behind), key=lambda one: one.id)
        taken = rest[: limit - len(found)]
        found += taken
        if taken:
            following = f"{name} {taken[-1].id}"
        if len(taken) < len(rest):
            return found, following
    return found, ""
