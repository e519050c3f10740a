"""The interface of a kind of object: all that the agent's core has to know of droplets, networks or endpoints.

Everything works on all objects that one document lists of a kind: there may be ten thousand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from operator import attrgetter
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.map_layout import MapName
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference
from protocol.errors import FieldError


class Identified(Protocol):
    """An object of a document."""

    @property
    def id(self) -> str:
        """Its id, unique within its kind."""


T = TypeVar("T", bound=Identified)


class Key(NamedTuple, Generic[T]):
    """A value that only one document may own, such as an address.

    `space` is the term for it in errors; kinds with a common space compete for its keys. `field` is the object's field
    that holds it, or several of it in a tuple. `of_all` returns the keys of many objects in the order of `places`.
    """

    space: str
    field: str
    of_all: Callable[[Sequence[T]], list[str]]

    def places(self, objects: Sequence[T]) -> Iterator[tuple[int, str]]:
        """Yield the index of the object and the field's path in it, for each key."""
        for index, item in enumerate(objects):
            value = getattr(item, self.field)
            if isinstance(value, tuple):
                yield from ((index, f"{self.field}[{position}]") for position in range(len(value)))
            else:
                yield index, self.field


def key_of(space: str, name: str) -> Key[Any]:
    """Return the key that is the text in one field."""
    get = attrgetter(name)
    return Key(space, name, lambda objects: list(map(get, objects)))


class Column(NamedTuple, Generic[T]):
    """A column of `dropletctl get`. It is left out when all objects have the `usual` cell.

    A `spare` column is the first to be left out of a table that is too wide; a kind has one at most.
    """

    title: str
    cell: Callable[[T], str]
    usual: str | None = None
    spare: bool = False


class Choice(NamedTuple, Generic[T]):
    """The objects of a kind in one document: those in force, and those of the revision that was chosen now."""

    document: str
    before: Sequence[T]
    now: Sequence[T]


class KernelNumbers(NamedTuple):
    """What in the kernel tells the numbers that an earlier agent assigned: maps, interfaces and functions' programs."""

    maps: Mapping[MapName, Mapping[bytes, bytes]]
    ifindexes: Mapping[str, int]
    """Those of the endpoints' interfaces, by endpoint."""
    stage_indexes: Mapping[tuple[str, int], int]
    """Those of functions' programs in the jump tables, by function and stage point."""


class Assignment(NamedTuple):
    """The state with this host's numbers assigned, and an error for each document that lacks one."""

    resolved: ResolvedState
    errors: Mapping[str, FieldError]


NO_ERRORS: Mapping[str, FieldError] = {}


class Kind(ABC, Generic[T]):
    """One kind of object. A subclass sets the attributes, and overrides the methods that concern it."""

    name: ClassVar[str]
    """The field of a document that lists its objects, and the kind's name in requests and references."""
    singular: ClassVar[str]
    """One of its objects, in errors. Also the key space of its ids."""
    keys: ClassVar[tuple[Key[Any], ...]]
    """What only one document may own, the id first."""
    referable: ClassVar[bool] = True
    """Whether other objects may refer to its objects. If not, they stay in documents, out of the resolved state."""
    seniority: ClassVar[bool] = False
    """Whether the resolved state tells the age of its objects: when two exclude each other, the younger is invalid."""
    maps: ClassVar[tuple[MapName, ...]] = ()
    """The maps that it fills, in the order of the dependencies between their entries."""
    has_veths: ClassVar[bool] = False
    """Whether its objects on this host have an interface there, a veth with the object's id."""
    maps_of_veths: ClassVar[tuple[MapName, ...]] = ()
    """Maps that it fills once the endpoints' interfaces exist."""
    columns: ClassVar[tuple[Column[Any], ...]]
    """What a table shows of an object."""

    def references(self, objects: Sequence[T]) -> Mapping[str, Set[str]]:
        """Return the ids that the objects refer to, by kind."""
        del objects
        return {}

    def dependents(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield other objects whose referrers depend on these ones: they are examined again when these change.

        `states` are the new one and the one before. Direct referrers need not be named.
        """
        del ids, states
        return iter(())

    def rendered_in(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield other objects whose own entries hold something of these ones: they are rendered again with these.

        `states` are the new one and the one before.
        """
        del ids, states
        return iter(())

    def served_by(self, droplets: Collection[str], resolved: ResolvedState) -> Iterator[str]:
        """Yield the ids of the objects that choose among droplets, and have one of these among them."""
        del droplets, resolved
        return iter(())

    def replace(self, resolved: ResolvedState, old: Sequence[T], new: Sequence[T]) -> ResolvedState:
        """Return the resolved state without the objects `old` and with `new`."""
        return resolved.with_objects(self.name, [item.id for item in old], {item.id: item for item in new})

    def not_permitted(self, objects: Sequence[T], document: str, resolved: ResolvedState) -> Iterable[FieldError]:
        """Return what the document of this name may not list on this host."""
        del objects, document, resolved
        return ()

    def validate(self, objects: Sequence[T], resolved: ResolvedState, *, was_in_force: bool) -> Iterable[FieldError]:
        """Return what is wrong with objects whose references all resolve; `resolved` includes them.

        With `was_in_force`, a change of the host that came meanwhile must not withdraw them.
        """
        del objects, resolved, was_in_force
        return ()

    def not_taken_over(
        self, released: Sequence[T], taken: Sequence[T], resolved: ResolvedState
    ) -> Iterable[FieldError]:
        """Return why a document may not release objects yet that another one lists now, in `taken`."""
        del released, taken, resolved
        return ()

    def numbers_in(self, kernel: KernelNumbers) -> Mapping[Any, int]:
        """Return the numbers of this host that an earlier agent assigned: see `assign`."""
        del kernel
        return {}

    def assign(
        self, choices: Iterable[Choice[T]], old: ResolvedState, resolved: ResolvedState, *, removing: bool
    ) -> Assignment:
        """Assign the numbers of this host that the objects need, and release others; `choices` can be read once.

        Without `removing`, what is no longer wanted stays in the kernel for now and keeps its number. Of the documents
        with an error, the youngest falls back.
        """
        del choices, old, removing
        return Assignment(resolved, NO_ERRORS)

    @abstractmethod
    def render(self, objects: Sequence[T], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Add the desired entries of objects of one revision; all their references resolve in `resolved`."""
