"""Moves of endpoints from one host to another: in which order the hosts are told, and how long it took. Pure.

Hosts take a move in either order. It is shortest when the new host is told last: it can only make the endpoint's
interface when the old host's is gone. So first the new host is told what it needs besides the endpoint, then the old
host and the bouncers that it left. Each new host is told of its endpoint when that endpoint's old host has answered; no
move waits for another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller_sim.control.bus import Stored
from controller_sim.control.publisher import Change, difference
from protocol import codec, subjects
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
    """Rounds of publishing: `before`, `release` and `rest` one after the other, without waiting.

    Then, for each move by itself, its `arrivals`, when the removal of its document from the old host is realized. A
    change may be in the arrivals of several moves: it is published with the first of them.
    """

    before: list[Change]
    release: list[Change]
    rest: list[Change]
    arrivals: dict[Move, list[Change]]


def in_phases(wanted: Mapping[str, Mapping[str, Document]], stored: Iterable[Stored]) -> Phases:
    """Return what to publish so that the stream holds `wanted`, in an order that moves endpoints."""
    stored = list(stored)
    changes = difference(wanted, stored)
    moves = _moves(changes)
    if not moves:
        return Phases([], [], changes, {})
    held = {subjects.parse_config(message.subject): message.body for message in stored}
    moved = {move.endpoint for move in moves}
    leaving = {(move.source, move.document) for move in moves}
    phases = Phases([], [], [], {move: [] for move in moves})
    for change in changes:
        key = subjects.Target(change.host, change.document)
        tells = change.body is not None and any(e.id in moved for e in wanted[key.host][key.document].endpoints)
        arriving = _arriving(change, held.get(key, b""), moves)
        if arriving:
            for move in arriving:
                phases.arrivals[move].append(change)
        elif key in leaving or tells:
            phases.release.append(change)
        elif change.body is not None and key not in held:
            phases.before.append(change)
        else:
            phases.rest.append(change)
    return phases


def _arriving(change: Change, old: bytes, moves: Iterable[Move]) -> list[Move]:
    """Return the moves whose new host is told of the endpoint by a change, or has listed it until then as elsewhere."""
    here = [move for move in moves if move.destination == change.host]
    own = [move for move in here if move.document == change.document]
    if own or not here or not old:
        return own
    listed = {endpoint.id for endpoint in codec.decode_known(old).endpoints}
    return [move for move in here if move.endpoint in listed]


def _moves(changes: Iterable[Change]) -> tuple[Move, ...]:
    own = [change for change in changes if change.document.startswith(ENDPOINT)]
    gone = {change.document: change.host for change in own if change.body is None}
    come = {change.document: change.host for change in own if change.body is not None}
    return tuple(Move(name, gone[name], host) for name, host in come.items() if name in gone and gone[name] != host)
