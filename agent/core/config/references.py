"""What a document lists and refers to: the references by which documents depend on one another."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import lru_cache
from typing import Any

from agent.core.kinds import catalogue
from agent.core.kinds.catalogue import Listed
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference


def references(listed: Listed) -> frozenset[Reference]:
    """Return the objects that a document refers to, its own included."""
    found: dict[str, Set[str]] = {}
    for kind, objects in listed:
        for name, ids in kind.references(objects).items():
            found[name] = found[name] | ids if name in found else ids
    return frozenset([Reference(name, id_) for name, ids in found.items() for id_ in ids])


def provides_and_counts(listed: Listed) -> tuple[bool, tuple[tuple[str, int], ...]]:
    """Return whether others may refer to any object that a document lists, and how many there are of other kinds."""
    referable, counts = False, []
    for kind, objects in listed:
        if kind.referable:
            referable = True
        else:
            counts.append((kind.name, len(objects)))
    return referable, _shared(tuple(counts))


@lru_cache(maxsize=1024)
def _shared(counted: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Return the same object for equal ones: a host may have as many documents as endpoints."""
    return counted


def changed_objects(old: Listed, new: Listed) -> set[Reference]:
    """Return the referable objects that are added, removed or changed between two revisions of one document."""
    before, after = _objects(old), _objects(new)
    return {reference for reference in before.keys() | after.keys() if before.get(reference) != after.get(reference)}


def _objects(listed: Listed) -> dict[Reference, object]:
    return {Reference(kind.name, item.id): item for kind, items in listed if kind.referable for item in items}


def with_documents(resolved: ResolvedState, old: Iterable[Listed], new: Iterable[Listed]) -> ResolvedState:
    """Return the state without the referable objects of the documents `old`, and with those of `new`."""
    gone, come = _by_kind(old), _by_kind(new)
    for kind in catalogue.KINDS:
        if kind.name in gone or kind.name in come:
            resolved = kind.replace(resolved, gone.get(kind.name, ()), come.get(kind.name, ()))
    return resolved


def _by_kind(documents: Iterable[Listed]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for listed in documents:
        for kind, objects in listed:
            if kind.referable:
                found.setdefault(kind.name, []).extend(objects)
    return found
