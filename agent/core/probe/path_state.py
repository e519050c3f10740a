"""The state of the paths that are probed, and the changes of it that others must learn of. Pure: times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.probe.mtu_search import Search
from agent.core.probe.paths import Liveness, Path, PathEvent, PathEventKind, PathRecord

MIN_TIMEOUT = 0.2
ROUND_TRIPS = 4
"""A probe is overdue after MIN_TIMEOUT plus so many round trips, or earlier if its deadline is."""


@dataclass(slots=True)
class MtuState:
    """What is known of one path's MTU; `size` is the uplink's MTU."""

    size: int
    carries: int | None = None
    """The size that probes found, if smaller."""
    search: Search | None = None
    search_from: float = 0.0
    verified_at: float = float("-inf")
    long: bytes | None = None
    """The nonce of the open long probe."""


@dataclass(slots=True)
class PathState:
    """One path's state."""

    path: Path
    liveness: Liveness
    since: float
    mtu: MtuState
    misses: int = 0
    round_trip: float | None = None
    heard_at: float = float("-inf")
    asked_at: float = float("-inf")
    unreachable: bool = False
    """Down only because the peer is unreachable."""
    not_sent: str = ""
    """Why this host did not send the last probe; empty if it did."""
    small: bytes | None = None
    """The nonce of the open small probe."""

    def overdue_after(self, deadline: float) -> float:
        """Return the timeout of a long probe, of which many are lost, or the time until a small one is overdue."""
        return min(deadline, MIN_TIMEOUT + ROUND_TRIPS * (self.round_trip or 0.0))


class PathChanges:
    """Collects the changes of all paths: events, records for the next agent, and a version."""

    def __init__(self) -> None:
        self.version = 0
        """Incremented when a peer goes down or comes back, or when a path's usable size changes."""
        self._events: list[PathEvent] = []
        self._unsaved: dict[Path, PathRecord | None] = {}

    def changed(self, changed: bool = True) -> None:
        """Increment the version if something changed."""
        self.version += changed

    def emit(self, kind: PathEventKind, state: PathState) -> None:
        """Add an event."""
        not_sent = state.not_sent if kind is PathEventKind.DOWN else ""
        mtu = state.mtu
        self._events.append(PathEvent(kind, state.path, mtu.size, mtu.carries, state.unreachable, not_sent))

    def record(self, state: PathState) -> None:
        """Have a path's state saved, unless its peer never answered."""
        if state.liveness is not Liveness.UNKNOWN and not state.unreachable:
            self._unsaved[state.path] = PathRecord(state.liveness is Liveness.DOWN, state.mtu.carries)

    def drop_record(self, path: Path) -> None:
        """Have a path's record dropped."""
        self._unsaved[path] = None

    def take_events(self) -> list[PathEvent]:
        """Return the events since the last call."""
        taken, self._events = self._events, []
        return taken

    def take_unsaved(self) -> dict[Path, PathRecord | None]:
        """Return the records that changed since the last call; None: drop the record."""
        taken, self._unsaved = self._unsaved, {}
        return taken
