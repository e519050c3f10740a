"""Moves of endpoints from one host to another: the order of publication, and how long a move took. Pure.

A move may be published in any order. The outage is shortest if the new host comes last, because it can create the
endpoint's interface only once the old host has removed its own. So the new host first gets everything but the
endpoint; then the old host and its bouncers get the change. Each new host gets its endpoint once the old host has
acknowledged; no move waits for another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller_sim.control.bus import Stored
from controller_sim.control.publisher import Change, difference
from controller_sim.control.strays import readable
from protocol import codec, subjects
from protocol.documents import Document
from protocol.errors import DocumentError

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
        released = ""
        if self.released is not None:
            released = f" ({self.move.source} released it after {self.released * 1e3:.1f} ms)"
        return f"{way}, unreachable for at most {self.arrived * 1e3:.1f} ms{released}"


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
    held = {subjects.parse_config(message.subject): message.body for message in readable(stored)}
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
    """Return the moves whose new host gets the endpoint by this change, or has listed it as remote until then."""
    here = [move for move in moves if move.destination == change.host]
    own = [move for move in here if move.document == change.document]
    if own or not here or not old:
        return own
    try:
        listed = {endpoint.id for endpoint in codec.decode_document(old).endpoints}
    except DocumentError:  # the host rejected it, so it lists nothing
        return own
    return [move for move in here if move.endpoint in listed]


def _moves(changes: Iterable[Change]) -> tuple[Move, ...]:
    own = [change for change in changes if change.document.startswith(ENDPOINT)]
    gone = {change.document: change.host for change in own if change.body is None}
    come = {change.document: change.host for change in own if change.body is not None}
    return tuple(Move(name, gone[name], host) for name, host in come.items() if name in gone and gone[name] != host)
