"""All kinds of object, in the order in which one refers to another. A new kind is added to `KINDS`, and nowhere else.

Other modules read `catalogue.KINDS` when they need it, and name no kind of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, TypeAlias

from msgspec.structs import astuple

from agent.core.kinds.droplets import DROPLETS
from agent.core.kinds.endpoints import ENDPOINTS
from agent.core.kinds.functions import FUNCTIONS
from agent.core.kinds.kind import Kind, T
from agent.core.kinds.networks import NETWORKS
from agent.core.kinds.vpcs import VPCS
from agent.core.model.map_layout import MapName
from protocol.documents import Document

Listed: TypeAlias = Sequence[tuple[Kind[Any], Sequence[Any]]]
"""The objects of one document by kind, in the order of the kinds; without the kinds that it lists none of."""


def objects_of(kind: Kind[T], listed: Listed) -> Sequence[T]:
    """Return the objects of one kind in a document."""
    for other, objects in listed:
        if other is kind:
            return objects
    return ()


class Kinds:
    """The kinds, and what follows from all of them together."""

    def __init__(self, document: type[Document], *kinds: Kind[Any]) -> None:
        """Take the kinds in the order of the fields of a document's type."""
        if tuple(kind.name for kind in kinds) != document.__struct_fields__:
            raise TypeError(f"the kinds of object are not the fields of {document.__name__}, in their order")
        self._all = kinds
        self.by_name = {kind.name: kind for kind in kinds}
        self.numbered = tuple(kind for kind in kinds[::-1] if type(kind).assign is not Kind.assign)
        """The kinds whose objects need numbers of this host, those that refer to others first."""
        self.with_veths = tuple(kind for kind in kinds if kind.has_veths)
        """The kinds whose objects on this host have an interface."""
        self.maps_before_veths: tuple[MapName, ...] = tuple(name for kind in kinds for name in kind.maps)
        """The maps that are filled before the endpoints' interfaces are made, in the order of dependencies."""
        self.maps_of_veths: tuple[MapName, ...] = tuple(name for kind in kinds for name in kind.maps_of_veths)
        self.maps = (*self.maps_before_veths, *self.maps_of_veths)
        """All maps that documents fill."""

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter(self._all)

    def listed(self, document: Document) -> Listed:
        """Return the kinds of which a document lists objects, with these."""
        lists = astuple(document)
        return list(compress(zip(self._all, lists, strict=True), lists))


KINDS = Kinds(Document, DROPLETS, VPCS, NETWORKS, ENDPOINTS, FUNCTIONS)
