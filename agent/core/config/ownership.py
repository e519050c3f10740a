"""Ownership: an object belongs to the document that has claimed it continuously for the longest time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from operator import itemgetter
from typing import NamedTuple

from agent.core.kinds.catalogue import Listed


class Claim(NamedTuple):
    """A document, and the revision since which it has claimed a key continuously."""

    document: str
    since: int


class Conflict(NamedTuple):
    """A field of a document whose value other documents claimed earlier, the owner first."""

    path: str
    space: str
    key: str
    claimants_before: tuple[str, ...]


def keys(listed: Listed) -> Iterator[tuple[str, str, str]]:
    """Yield (path, space, key) for each value in a document that only one document may own, by kind and object."""
    for kind, objects in listed:
        found = [
            (index, (f"{kind.name}[{index}].{path}", key.space, value))
            for key in kind.keys
            for (index, path), value in zip(key.places(objects), key.of_all(objects), strict=True)
        ]
        yield from (claimed for _, claimed in sorted(found, key=itemgetter(0)))


class OwnershipIndex:
    """All claims, by space and key. A contested key has further claimants, in order of arrival."""

    def __init__(self) -> None:
        self._owners: dict[str, dict[str, Claim]] = {}
        self._contenders: dict[tuple[str, str], list[Claim]] = {}

    def owner(self, space: str, key: str) -> str | None:
        """Return the name of the document that owns a key."""
        claim = self._owners.get(space, {}).get(key)
        return claim.document if claim else None

    def since(self, space: str, key: str) -> int:
        """Return the revision since which a key's owner has claimed it; 0 for a free key."""
        claim = self._owners.get(space, {}).get(key)
        return claim.since if claim else 0

    def add(self, claim: Claim, listed: Listed) -> set[str]:
        """Claim everything that a document lists; return the documents that lost ownership of a key.

        Keys that the same document claimed before keep their older date.
        """
        losing: set[str] = set()
        for space, wanted in _by_space(listed).items():
            owners = self._owners.setdefault(space, {})
            for key in wanted:
                owner = owners.setdefault(key, claim)
                if owner is not claim and owner.document != claim.document:
                    self._add_contender(space, key, owner, claim)
                    if owners[key] is not owner:
                        losing.add(owner.document)
        return losing

    def _add_contender(self, space: str, key: str, owner: Claim, claim: Claim) -> None:
        contenders = self._contenders.setdefault((space, key), [])
        if any(other.document == claim.document for other in contenders):
            return
        first, *rest = sorted([owner, claim, *contenders], key=lambda c: (c.since, c.document))
        self._owners[space][key] = first
        self._contenders[(space, key)] = rest

    def drop(self, name: str, dropped: Listed, kept: Iterable[Listed]) -> set[str]:
        """Release what `dropped` lists and `kept` does not; return the documents that may own a key now."""
        still = [_by_space(listed) for listed in kept]
        successors: set[str] = set()
        for space, given in _by_space(dropped).items():
            remaining = set().union(*(spaces.get(space, ()) for spaces in still)) if still else set()
            for key in given:
                if key not in remaining:
                    successors |= self._release(space, key, name)
        return successors

    def _release(self, space: str, key: str, name: str) -> set[str]:
        owners = self._owners[space]
        contenders = self._contenders.get((space, key))
        if contenders is None:
            if key in owners and owners[key].document == name:
                del owners[key]
            return set()
        remaining = [claim for claim in (owners[key], *contenders) if claim.document != name]
        owners[key] = remaining[0]
        if len(remaining) > 1:
            self._contenders[(space, key)] = remaining[1:]
        else:
            del self._contenders[(space, key)]
        return {claim.document for claim in remaining}

    def lists(self, listed: Listed, space: str, key: str) -> bool:
        """Return whether a document lists a key."""
        return key in _by_space(listed).get(space, ())

    def competing(self, names: set[str]) -> set[str]:
        """Return the documents that claim a key which any of `names` claims too."""
        found: set[str] = set()
        for space, key in self._contenders:
            claimants = set(self.claimants(space, key))
            if claimants & names:
                found |= claimants
        return found - names

    def conflicts(self, name: str, listed: Listed) -> list[Conflict]:
        """Return every field of a document whose value others have claimed for longer."""
        if not self._contenders:
            return []
        found = []
        for path, space, key in keys(listed):
            claimants_before = tuple(takewhile(lambda claimant: claimant != name, self.claimants(space, key)))
            if claimants_before:
                found.append(Conflict(path, space, key, claimants_before))
        return found

    def claimants(self, space: str, key: str) -> Iterator[str]:
        """Yield the documents that claim a key, the owner first."""
        owner = self.owner(space, key)
        if owner is not None:
            yield owner
        yield from (claim.document for claim in self._contenders.get((space, key), ()))


def _by_space(listed: Listed) -> dict[str, list[str]]:
    """Return the keys of a document without their paths: this runs for every endpoint of every document."""
    spaces: dict[str, list[str]] = {}
    for kind, objects in listed:
        for key in kind.keys:
            values = key.of_all(objects)
            spaces[key.space] = [*spaces[key.space], *values] if key.space in spaces else values
    return spaces
