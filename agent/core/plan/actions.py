"""The actions of a plan: plain, printable data that says what to change in the kernel.

`planner.py` makes actions, `agent/datapath/executor.py` executes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from agent.core.model.desired_entries import Function, Veth
from agent.core.model.map_layout import MapName


@dataclass(frozen=True, slots=True)
class PutEntries:
    """Create or replace entries of one map."""

    map: MapName
    entries: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class DeleteEntries:
    """Remove entries of one map; a missing entry is not an error."""

    map: MapName
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EnsureVeth:
    """Create the pair or repair its differences, and attach the transit agent to its host side.

    `differs` describes the observed differences for people; empty if the pair was not observed.
    """

    veth: Veth
    differs: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class DeleteVeth:
    """Remove the pair of an endpoint by its host side."""

    endpoint: str
    ifindex: int


@dataclass(frozen=True, slots=True)
class AttachTransit:
    """Attach transit XDP to an interface on which droplets' frames arrive, or replace an older version of it."""

    ifindex: int


@dataclass(frozen=True, slots=True)
class DetachTransit:
    """Detach transit XDP from such an interface."""

    ifindex: int


@dataclass(frozen=True, slots=True)
class EnsureFunction:
    """Load a function's program and put it into its slot, or repair its differences.

    An older program stays in the slot until the new one replaces it; if that fails, it stays. `differs` is as in
    `EnsureVeth`. With `is_new`, the function was not in force before.
    """

    function: Function
    differs: tuple[str, ...] = field(default=(), compare=False)
    is_new: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class DeleteFunction:
    """Take the program of a function out of a slot, which no chain names any more.

    If the function now has another slot or point, its new program stays.
    """

    id: str
    point: int
    slot: int


Action: TypeAlias = (
    PutEntries
    | DeleteEntries
    | EnsureVeth
    | DeleteVeth
    | AttachTransit
    | DetachTransit
    | EnsureFunction
    | DeleteFunction
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A refusal by the kernel: a positive errno, the object in words, and the keys or endpoint that it concerns."""

    action: Action
    errno: int
    object: str
    message: str
    keys: tuple[bytes, ...] = ()
