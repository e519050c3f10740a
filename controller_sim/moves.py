"""Moves of endpoints from one host to another: in which order the hosts are told, and how long it took. Pure.

An endpoint's interface has one name in one namespace: the new host can only put it there when the old host's is gone.
So first the new host is told what it needs besides the endpoint, and the old host and the bouncers that it left; when
the old host has answered, the new host is told of the endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller_sim.bus import Stored
from controller_sim.publisher import Change, difference
from protocol import subjects
from protocol.documents import Document

ENDPOINT = "endpoint."
"""What the name of an endpoint's own document begins with."""


@dataclass(frozen=True, slots=True)
class Move:
    """An endpoint that goes from one host to another. `document` is its name on both."""

    document: str
    source: str
    destination: str

    @property
    def endpoint(self) -> str:
        """The endpoint's name."""
        return self.document.removeprefix(ENDPOINT)


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was made: seconds from its first message until the old host had let go, and until the new one had it.

    In between, and only then, the endpoint has no interface: `arrived` is the longest that it can have been away.
    """

    move: Move
    released: float | None
    arrived: float | None

    def __str__(self) -> str:
        """Return one line of text."""
        way = f"{self.move.endpoint}: {self.move.source} -> {self.move.destination}"
        if self.arrived is None:
            return f"{way}, not there yet"
        released = "" if self.released is None else f" ({self.move.source} let go after {self.released * 1e3:.1f} ms)"
        return f"{way}, away for at most {self.arrived * 1e3:.1f} ms{released}"


@dataclass(frozen=True, slots=True)
class Phases:
    """Three rounds of publishing; the third waits until the second one's removals are realized."""

    before: list[Change]
    release: list[Change]
    rest: list[Change]
    moves: tuple[Move, ...] = ()


def in_phases(wanted: Mapping[str, Mapping[str, Document]], stored: Iterable[Stored]) -> Phases:
    """Return what to publish so that the stream holds `wanted`, in an order that moves endpoints."""
    stored = list(stored)
    changes = difference(wanted, stored)
    moves = _moves(changes)
    if not moves:
        return Phases([], [], changes)
    held = {subjects.parse_config(message.subject) for message in stored}
    moved = {move.endpoint for move in moves}
    leaving = {(move.source, move.document) for move in moves}
    arriving = {(move.destination, move.document) for move in moves}
    rounds: tuple[list[Change], list[Change], list[Change]] = ([], [], [])
    for change in changes:
        key = (change.host, change.document)
        tells = change.body is not None and any(e.id in moved for e in wanted[key[0]][key[1]].endpoints)
        if key in leaving or (tells and key not in arriving):
            rounds[1].append(change)
        elif change.body is not None and key not in held and key not in arriving:
            rounds[0].append(change)
        else:
            rounds[2].append(change)
    return Phases(*rounds, moves)


def _moves(changes: Iterable[Change]) -> tuple[Move, ...]:
    own = [change for change in changes if change.document.startswith(ENDPOINT)]
    gone = {change.document: change.host for change in own if change.body is None}
    come = {change.document: change.host for change in own if change.body is not None}
    return tuple(Move(name, gone[name], host) for name, host in come.items() if name in gone and gone[name] != host)
