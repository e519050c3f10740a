"""Decides when each droplet is probed, and what an answer or a missing one means. Pure: time is a parameter.

Each path is probed for two properties. *Liveness* is checked in turn, by small probes: a peer that has answered at
least once and then misses several in a row is down, and its next answer brings it up. A peer that never answered may
not support probes; it stays unknown, without consequences, unless it is `unreachable`. The *path MTU* is checked from
time to time, by long probes (`path_mtu`).

At most `per_second` small probes are sent, and a quarter as many long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.next_hop_checks import OverdueProbes
from agent.core.probe.path_mtu import VERIFY_PAUSE, PathMtuDiscovery
from agent.core.probe.path_state import MtuState, PathChanges, PathState
from agent.core.probe.paths import (
    NO_PATH_RECORDS,
    Counts,
    Liveness,
    Path,
    PathEvent,
    PathEventKind,
    PathRecord,
    PathRecords,
    Probe,
    Rules,
    View,
    liveness_of,
)
from agent.core.probe.probe_packet import smallest
from agent.core.probe.timers import OpenProbes, Schedule


class Probing:
    """The probing of all paths of one host. Report answers and the time to it; send the probes that `due` returns."""

    def __init__(self, rules: Rules, new_nonce: Callable[[], bytes]) -> None:
        """Start without paths; `new_nonce` returns 8 unguessable bytes."""
        self.counts = Counts()
        self._rules = rules
        self._states: dict[Path, PathState] = {}
        self._open = OpenProbes(new_nonce, self.counts)
        self._changes = PathChanges()
        self._path_mtu = PathMtuDiscovery(rules, self._states, self._open, self._changes)
        self._liveness_schedule = Schedule(rules.per_second)
        self._overdue = OverdueProbes()
        self._answered: set[bytes] = set()
        """This host's addresses that have ever received an answer."""

    @property
    def version(self) -> int:
        """Incremented when a peer goes down or comes back, or when a path's usable size changes."""
        return self._changes.version

    @property
    def paths(self) -> Collection[Path]:
        """All paths that are probed."""
        return self._states.keys()

    def set_paths(self, sizes: Mapping[Path, int], now: float, known: PathRecords = NO_PATH_RECORDS) -> None:
        """Set all paths with their uplinks' MTUs; new ones start from the records of an earlier agent in `known`."""
        for path in [path for path in self._states if path not in sizes]:
            self._forget(path)
        new = sorted(path for path in sizes if path not in self._states)
        for position, path in enumerate(new):
            self._begin(path, sizes[path], known.get(path), now, now + position / self._rules.per_second)
        for path, size in sizes.items():
            state = self._states[path]
            if state.mtu.size != size:
                self._path_mtu.resize(state, size, now)

    def _begin(self, path: Path, size: int, known: PathRecord | None, now: float, first_turn: float) -> None:
        state = self._states[path] = PathState(path, liveness_of(known), now, MtuState(size))
        if known is not None:
            self._answered.add(path.source)
        self._liveness_schedule.put(path, first_turn)
        self._path_mtu.begin(state, known, first_turn)
        self._changes.changed(state.liveness is Liveness.DOWN or state.mtu.carries is not None)

    def unreachable(self, peers: Collection[bytes], now: float) -> None:
        """Set the unreachable peers: no route leads there, or ARP or neighbour discovery is not answered.

        A peer that never answered a probe is down for that time. For the others, missing answers decide.
        """
        for state in self._states.values():
            is_unreachable = state.path.peer in peers
            if is_unreachable and state.liveness is Liveness.UNKNOWN:
                state.unreachable = True
                self._mark_down(state, now)
            elif state.unreachable and not is_unreachable:
                self._changes.emit(PathEventKind.UP, state)
                state.unreachable, state.liveness, state.since = False, Liveness.UNKNOWN, now
                if state.small is None:
                    self._liveness_schedule.put(state.path, now)
                self._changes.changed()

    def due(self, now: float) -> list[Probe]:
        """Return the probes to send now. Each must be sent, or reported to `too_long`, `unroutable` or `not_sent`."""
        probes = []
        for path in self._liveness_schedule.take(now):
            state = self._states[path]
            state.not_sent = ""
            state.small = self._open.add(state, smallest(path.peer), now, self._rules.deadline)
            probes.append(Probe(path, smallest(path.peer), state.small))
            if state.liveness is Liveness.UP:
                self._overdue.sent(path, state.small, now + state.overdue_after(self._rules.deadline))
        return probes + self._path_mtu.due(now)

    def wake_at(self) -> float | None:
        """Return the time of the next probe or deadline."""
        turns = (self._liveness_schedule.next_at(), self._path_mtu.next_at())
        times = (self._open.next_deadline(), self._overdue.wake_at(), *turns)
        return min((at for at in times if at is not None), default=None)

    def answered(self, path: Path, nonce: bytes, now: float) -> bool:
        """Record a reply; return False if it does not answer a probe on this path."""
        sent = self._open.get(nonce)
        if sent is None or sent.state.path != path:
            return False
        self._open.close(nonce)
        self.counts.answered += 1
        state = sent.state
        state.round_trip, state.heard_at, state.misses = now - sent.at, now, 0
        if state.liveness is not Liveness.UP:
            self._mark_up(state, now)
        if state.small == nonce:
            state.small = None
            self._liveness_schedule.put(path, max(now, sent.at + self._period()))
        else:
            self._path_mtu.carried(state, nonce, sent.size, now)
        return True

    def too_long(self, nonce: bytes, now: float) -> None:
        """Record that this host refused a probe as too long for its interface."""
        self._path_mtu.too_long(nonce, None, now)

    def unroutable(self, nonce: bytes, now: float, why: str = "") -> None:
        """Record that this host has no route or no other means to send a probe to its peer; `why` states the reason."""
        sent = self._open.get(nonce)
        if sent is not None:
            sent.state.not_sent = why
            self._miss(nonce, now)

    def not_sent(self, nonce: bytes, now: float) -> None:
        """Record that a probe was not sent, for lack of memory or because of a packet filter of this host.

        This says nothing about the peer: its state stays, and the probe is retried soon.
        """
        sent = self._open.close(nonce)
        if sent is None:
            return
        if sent.state.small == nonce:
            sent.state.small = None
            self._liveness_schedule.put(sent.state.path, now + self._rules.interval)
        else:
            self._path_mtu.not_sent(sent.state, now)

    def expire(self, now: float) -> None:
        """Handle the timeouts up to `now`. Read all available answers first."""
        self._overdue.expire(now, self._open.nonces)
        for nonce in self._open.expired(now):
            self._miss(nonce, now)
        self._path_mtu.expire(now)

    def on_icmp_error(self, error: TunnelError, now: float) -> None:
        """Handle an ICMP error about one of the paths. It is reliable only if it quotes the nonce of an open probe."""
        state = self._states.get(error.path)
        if state is None:
            return
        self.counts.icmp_errors += 1
        if error.nonce is not None:
            sent = self._open.get(error.nonce)
            if sent is None or sent.state is not state:
                return
            if error.problem is Problem.TOO_LARGE:
                self._path_mtu.too_long(error.nonce, error.mtu, now)
            else:
                self._miss(error.nonce, now)
        elif error.problem is Problem.TOO_LARGE:
            self._path_mtu.on_packet_too_big(state, error.mtu or 0, now)
        elif state.small is None and now >= state.asked_at + VERIFY_PAUSE:
            state.asked_at = now
            self._liveness_schedule.put(state.path, now)

    def take_overdue(self) -> frozenset[Path]:
        """Return the paths whose next hop should be resolved again, because an answer is overdue."""
        return self._overdue.take()

    def take_events(self) -> list[PathEvent]:
        """Return the events since the last call."""
        return self._changes.take_events()

    def take_unsaved(self) -> dict[Path, PathRecord | None]:
        """Return the records for the next agent that changed since the last call; None: drop the record.

        There is no record of a peer that never answered, even if it is unreachable.
        """
        return self._changes.take_unsaved()

    def unanswered(self, answering: Collection[bytes]) -> dict[bytes, list[bytes]]:
        """Return, for each of this host's addresses that never received an answer, the peers that were probed from it.

        Only reachable peers that should answer (`answering`) are considered. An address is included once one of them
        has missed `unanswered` probes.
        """
        asked: dict[bytes, list[PathState]] = {}
        for path, state in self._states.items():
            if path.source not in self._answered and state.liveness is Liveness.UNKNOWN and path.peer in answering:
                asked.setdefault(path.source, []).append(state)
        return {
            source: [state.path.peer for state in states]
            for source, states in asked.items()
            if max(state.misses for state in states) >= self._rules.unanswered
        }

    def views(self) -> Iterator[View]:
        """Yield the state of each path."""
        for path, state in self._states.items():
            mtu, usable = state.mtu, self._path_mtu.usable(state)
            yield View(path, state.liveness, state.since, state.round_trip, mtu.size, mtu.carries, usable)

    def _period(self) -> float:
        return max(self._rules.interval, len(self._states) / self._rules.per_second)

    def _mark_up(self, state: PathState, now: float) -> None:
        """Record that a peer answers again or for the first time."""
        if state.liveness is Liveness.DOWN:
            self._changes.emit(PathEventKind.UP, state)
            self._changes.changed()
        state.unreachable, state.liveness, state.since = False, Liveness.UP, now
        self._answered.add(state.path.source)
        self._changes.record(state)
        self._path_mtu.check_at(state, now)

    def _mark_down(self, state: PathState, now: float) -> None:
        state.liveness, state.since, state.round_trip = Liveness.DOWN, now, None
        self._path_mtu.stop(state)
        self._changes.record(state)
        self._changes.emit(PathEventKind.DOWN, state)
        self._changes.changed()

    def _miss(self, nonce: bytes, now: float) -> None:
        """Record that an open probe will not be answered."""
        sent = self._open.close(nonce)
        assert sent is not None, "only open probes are missed"
        self.counts.lost += 1
        state = sent.state
        if state.small == nonce:
            state.small = None
            state.misses += 1
            if state.liveness is not Liveness.UNKNOWN and not state.unreachable:
                self._overdue.missed(state.path, state.misses)
            if state.liveness is Liveness.UP and state.misses >= self._rules.misses:
                self._mark_down(state, now)
            pause = self._rules.deadline if state.liveness is Liveness.UP else self._period()
            self._liveness_schedule.put(state.path, max(now, sent.at + pause))
        else:
            self._path_mtu.lost(state, nonce, now)

    def _forget(self, path: Path) -> None:
        state = self._states.pop(path)
        self._path_mtu.forget(state)
        if state.small is not None:
            self._open.close(state.small)
        self._liveness_schedule.drop(path)
        self._changes.drop_record(path)
        self._changes.changed()
