"""Decides when each droplet is probed, and what an answer or a missing one means. Pure: time is a parameter.

Each path is probed for two properties. *Liveness* is checked in turn, by small probes: a peer that has answered at
least once and then misses several in a row is down, and its next answer brings it up. A peer that never answered may
not support probes; it stays unknown, without consequences, unless it is `unreachable`. The *path MTU* is checked from
time to time, by probes as long as the uplink's MTU; if they are lost, a search (`mtu_search`) finds the size that the
path does carry.

At most `per_second` small probes are sent, and a quarter as many long ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.mtu_search import Search, floor_of
from agent.core.probe.next_hop_checks import OverdueProbes
from agent.core.probe.packet_too_big import PathMtus
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
from agent.core.probe.schedule import Schedule

VERIFY_PAUSE = 1.0
"""Seconds between two checks of one path that ICMP errors trigger."""
DISTRUST_PAUSE = 10.0
"""The same for a path on which a claim was refuted recently."""
LONG_SHARE = 0.25
CHECK_SHARE, MIN_CHECK_PERIOD = 0.25, 10.0
"""Paths that carry their full size are checked again with this share of the long probes, and not more often than every
so many seconds."""
MIN_TIMEOUT = 0.2
ROUND_TRIPS = 4
"""The timeout of a long probe is MIN_TIMEOUT plus so many round trips, at most the timeout of a small one."""


@dataclass(slots=True)
class _Target:
    """One path's state; times in seconds."""

    path: Path
    size: int
    liveness: Liveness
    since: float
    misses: int = 0
    round_trip: float | None = None
    heard_at: float = float("-inf")
    carries: int | None = None
    search: Search | None = None
    search_from: float = 0.0
    verified_at: float = float("-inf")
    asked_at: float = float("-inf")
    unreachable: bool = False
    """Down only because the peer is unreachable."""
    not_sent: str = ""
    """Why this host did not send the last probe; empty if it did."""
    small: bytes | None = None
    long: bytes | None = None


class _Sent(NamedTuple):
    target: _Target
    size: int
    at: float


class Probing:
    """The probing of all paths of one host. Report answers and the time to it; send the probes that `due` returns."""

    def __init__(self, rules: Rules, new_nonce: Callable[[], bytes]) -> None:
        """Start without paths; `new_nonce` returns 8 unguessable bytes."""
        self.counts = Counts()
        self.version = 0
        """Incremented when a peer goes down or comes back, or when a path's usable size changes."""
        self._rules = rules
        self._new_nonce = new_nonce
        self._targets: dict[Path, _Target] = {}
        self._mtus = PathMtus()
        self._sent: dict[bytes, _Sent] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        self._liveness_schedule = Schedule(rules.per_second)
        self._mtu_schedule = Schedule(rules.per_second * LONG_SHARE)
        self._overdue = OverdueProbes()
        self._events: list[PathEvent] = []
        self._unsaved: dict[Path, PathRecord | None] = {}
        self._answered: set[bytes] = set()
        """This host's addresses that have ever received an answer."""

    @property
    def paths(self) -> Collection[Path]:
        """All paths that are probed."""
        return self._targets.keys()

    def set_paths(self, sizes: Mapping[Path, int], now: float, known: PathRecords = NO_PATH_RECORDS) -> None:
        """Set all paths with their uplinks' MTUs; new ones start from the records of an earlier agent in `known`."""
        for path in [path for path in self._targets if path not in sizes]:
            self._forget(path)
        new = sorted(path for path in sizes if path not in self._targets)
        for position, path in enumerate(new):
            self._begin(path, sizes[path], known.get(path), now, now + position / self._rules.per_second)
        for path, size in sizes.items():
            target = self._targets[path]
            if target.size != size:
                self._resize(target, size, now)

    def _begin(self, path: Path, size: int, known: PathRecord | None, now: float, first_turn: float) -> None:
        target = self._targets[path] = _Target(path, size, liveness_of(known), now)
        if known is not None:
            self._answered.add(path.source)
        self._liveness_schedule.put(path, first_turn)
        if known is not None and known.carries is not None and known.carries < size:
            target.carries = known.carries
        if target.liveness is Liveness.UP:
            self._mtu_schedule.put(path, first_turn)
        self._changed(target.liveness is Liveness.DOWN or target.carries is not None)

    def unreachable(self, peers: Collection[bytes], now: float) -> None:
        """Set the unreachable peers: no route leads there, or ARP or neighbour discovery is not answered.

        A peer that never answered a probe is down for that time. For the others, missing answers decide.
        """
        for target in self._targets.values():
            is_unreachable = target.path.peer in peers
            if is_unreachable and target.liveness is Liveness.UNKNOWN:
                target.unreachable = True
                self._mark_down(target, now)
            elif target.unreachable and not is_unreachable:
                self._emit(PathEventKind.UP, target)
                target.unreachable, target.liveness, target.since = False, Liveness.UNKNOWN, now
                if target.small is None:
                    self._liveness_schedule.put(target.path, now)
                self._changed()

    def due(self, now: float) -> list[Probe]:
        """Return the probes to send now. Each must be sent, or reported to `too_long`, `unroutable` or `not_sent`."""
        probes = []
        for path in self._liveness_schedule.take(now):
            target = self._targets[path]
            target.not_sent = ""
            target.small = self._send(target, smallest(path.peer), now, self._rules.deadline)
            probes.append(Probe(path, smallest(path.peer), target.small))
            if target.liveness is Liveness.UP:
                self._overdue.sent(path, target.small, now + self._timeout(target))
        for path in self._mtu_schedule.take(now):
            target = self._targets[path]
            if target.liveness is Liveness.UP:
                probes.append(self._check(target, now))
        return probes

    def wake_at(self) -> float | None:
        """Return the time of the next probe or deadline."""
        while self._deadlines and self._deadlines[0][1] not in self._sent:
            heapq.heappop(self._deadlines)
        deadline = self._deadlines[0][0] if self._deadlines else None
        times = (deadline, self._overdue.wake_at(), self._liveness_schedule.next_at(), self._mtu_schedule.next_at())
        return min((at for at in times if at is not None), default=None)

    def answered(self, path: Path, nonce: bytes, now: float) -> bool:
        """Record a reply; return False if it does not answer a probe on this path."""
        sent = self._sent.get(nonce)
        if sent is None or sent.target.path != path:
            return False
        del self._sent[nonce]
        self.counts.answered += 1
        target = sent.target
        target.round_trip, target.heard_at, target.misses = now - sent.at, now, 0
        if target.liveness is not Liveness.UP:
            self._mark_up(target, now)
        if target.small == nonce:
            target.small = None
            self._liveness_schedule.put(path, max(now, sent.at + self._period()))
        elif target.search is not None and target.long == nonce:
            self._on_carried(target, target.search, sent.size, now)
        return True

    def too_long(self, nonce: bytes, now: float) -> None:
        """Record that this host refused a probe as too long for its interface."""
        self._on_too_long(nonce, None, now)

    def unroutable(self, nonce: bytes, now: float, why: str = "") -> None:
        """Record that this host has no route or no other means to send a probe to its peer; `why` states the reason."""
        if nonce in self._sent:
            self._sent[nonce].target.not_sent = why
            self._miss(nonce, now)

    def not_sent(self, nonce: bytes, now: float) -> None:
        """Record that a probe was not sent, for lack of memory or because of a packet filter of this host.

        This says nothing about the peer: its state stays, and the probe is retried soon.
        """
        sent = self._sent.pop(nonce, None)
        if sent is None:
            return
        if sent.target.small == nonce:
            sent.target.small = None
            self._liveness_schedule.put(sent.target.path, now + self._rules.interval)
        else:
            sent.target.long = None
            self._mtu_schedule.put(sent.target.path, now + self._rules.interval)

    def expire(self, now: float) -> None:
        """Handle the timeouts up to `now`. Read all available answers first."""
        self._overdue.expire(now, self._sent.keys())
        while self._deadlines and self._deadlines[0][0] <= now:
            _, nonce = heapq.heappop(self._deadlines)
            if nonce in self._sent:
                self._miss(nonce, now)
        self._changed(bool(self._mtus.expire(now)))

    def on_icmp_error(self, error: TunnelError, now: float) -> None:
        """Handle an ICMP error about one of the paths. It is reliable only if it quotes the nonce of an open probe."""
        target = self._targets.get(error.path)
        if target is None:
            return
        self.counts.icmp_errors += 1
        if error.nonce is not None:
            sent = self._sent.get(error.nonce)
            if sent is None or sent.target is not target:
                return
            if error.problem is Problem.TOO_LARGE:
                self._on_too_long(error.nonce, error.mtu, now)
            else:
                self._miss(error.nonce, now)
        elif error.problem is Problem.TOO_LARGE:
            self._on_packet_too_big(target, error.mtu or 0, now)
        elif target.small is None and now >= target.asked_at + VERIFY_PAUSE:
            target.asked_at = now
            self._liveness_schedule.put(target.path, now)

    def take_overdue(self) -> frozenset[Path]:
        """Return the paths whose next hop should be resolved again, because an answer is overdue."""
        return self._overdue.take()

    def take_events(self) -> list[PathEvent]:
        """Return the events since the last call."""
        taken, self._events = self._events, []
        return taken

    def take_unsaved(self) -> dict[Path, PathRecord | None]:
        """Return the records for the next agent that changed since the last call; None: drop the record.

        There is no record of a peer that never answered, even if it is unreachable.
        """
        taken, self._unsaved = self._unsaved, {}
        return taken

    def unanswered(self, answering: Collection[bytes]) -> dict[bytes, list[bytes]]:
        """Return, for each of this host's addresses that never received an answer, the peers that were probed from it.

        Only reachable peers that should answer (`answering`) are considered. An address is included once one of them
        has missed `unanswered` probes.
        """
        asked: dict[bytes, list[_Target]] = {}
        for path, target in self._targets.items():
            if path.source not in self._answered and target.liveness is Liveness.UNKNOWN and path.peer in answering:
                asked.setdefault(path.source, []).append(target)
        return {
            source: [target.path.peer for target in targets]
            for source, targets in asked.items()
            if max(target.misses for target in targets) >= self._rules.unanswered
        }

    def views(self) -> Iterator[View]:
        """Yield the state of each path."""
        for path, target in self._targets.items():
            usable = self._usable(target)
            yield View(path, target.liveness, target.since, target.round_trip, target.size, target.carries, usable)

    def _period(self) -> float:
        return max(self._rules.interval, len(self._targets) / self._rules.per_second)

    def _check_period(self) -> float:
        """Return the time between two checks of a good path. Links may silently drop packets that are too long."""
        share = self._rules.per_second * LONG_SHARE * CHECK_SHARE
        return min(self._rules.check_every, max(MIN_CHECK_PERIOD, len(self._targets) / share))

    def _changed(self, changed: bool = True) -> None:
        self.version += changed

    def _usable(self, target: _Target) -> int:
        known = (target.size, target.carries, self._mtus.get(target.path))
        return min(size for size in known if size is not None)

    def _timeout(self, target: _Target) -> float:
        """Return the timeout of a long probe, of which many are lost, or the time until a small one is overdue."""
        usual = MIN_TIMEOUT + ROUND_TRIPS * (target.round_trip or 0.0)
        return min(self._rules.deadline, usual)

    def _send(self, target: _Target, size: int, now: float, timeout: float) -> bytes:
        nonce = self._new_nonce()
        self._sent[nonce] = _Sent(target, size, now)
        heapq.heappush(self._deadlines, (now + timeout, nonce))
        self.counts.sent += 1
        return nonce

    def _check(self, target: _Target, now: float) -> Probe:
        """Continue the path MTU search, or begin one."""
        if target.search is None:
            hint = self._mtus.get(target.path) or target.carries
            first = (target.carries,) if target.carries is not None and hint != target.carries else ()
            target.search = Search(floor_of(target.path.peer), target.size, first)
            target.search_from = now
            if hint is not None:
                target.search.hint(hint)
        size = target.search.next_size
        target.long = self._send(target, size, now, self._timeout(target))
        return Probe(target.path, size, target.long)

    def _mark_up(self, target: _Target, now: float) -> None:
        """Record that a peer answers again or for the first time."""
        if target.liveness is Liveness.DOWN:
            self._emit(PathEventKind.UP, target)
            self._changed()
        target.unreachable, target.liveness, target.since = False, Liveness.UP, now
        self._answered.add(target.path.source)
        self._record(target)
        self._mtu_schedule.put(target.path, now)

    def _mark_down(self, target: _Target, now: float) -> None:
        target.liveness, target.since, target.round_trip = Liveness.DOWN, now, None
        self._drop_search(target)
        self._mtus.drop(target.path)
        self._record(target)
        self._emit(PathEventKind.DOWN, target)
        self._changed()

    def _miss(self, nonce: bytes, now: float) -> None:
        """Record that an open probe will not be answered."""
        sent = self._sent.pop(nonce)
        self.counts.lost += 1
        target = sent.target
        if target.small == nonce:
            target.small = None
            target.misses += 1
            if target.liveness is not Liveness.UNKNOWN and not target.unreachable:
                self._overdue.missed(target.path, target.misses)
            if target.liveness is Liveness.UP and target.misses >= self._rules.misses:
                self._mark_down(target, now)
            pause = self._rules.deadline if target.liveness is Liveness.UP else self._period()
            self._liveness_schedule.put(target.path, max(now, sent.at + pause))
        elif target.search is not None and target.long == nonce:
            target.long = None
            target.search.lost()
            self._continue_search(target, target.search, now)

    def _on_too_long(self, nonce: bytes, mtu: int | None, now: float) -> None:
        sent = self._sent.get(nonce)
        if sent is None or sent.target.search is None or sent.target.long != nonce:
            return
        self._sent.pop(nonce)
        self.counts.refused += 1
        target = sent.target
        target.long = None
        sent.target.search.refused(mtu)
        self._continue_search(target, sent.target.search, now)

    def _on_carried(self, target: _Target, search: Search, size: int, now: float) -> None:
        target.long = None
        ptb_mtu = self._mtus.get(target.path)
        if ptb_mtu is not None and size > ptb_mtu:
            self._changed(self._mtus.reject(target.path, now))
        search.carried()
        self._continue_search(target, search, now)

    def _continue_search(self, target: _Target, search: Search, now: float) -> None:
        """Probe with the next size, or record the result."""
        if not search.done:
            self._mtu_schedule.put(target.path, now)
            return
        result = search.result
        if result is None and target.heard_at > target.search_from:
            result = floor_of(target.path.peer)  # it answers only probes that are too small for endpoints' packets
        target.search, before = None, self._usable(target)
        if result is not None:
            self._mtus.drop(target.path)
            self._take_result(target, result if result < target.size else None)
        self._changed(self._usable(target) != before)
        well = result == target.size
        self._mtu_schedule.put(target.path, now + (self._check_period() if well else self._rules.narrow_every))

    def _take_result(self, target: _Target, carries: int | None) -> None:
        before, target.carries = target.carries, carries
        if carries != before:
            self._record(target)
            self._emit(PathEventKind.RESTORED if carries is None else PathEventKind.NARROW, target)

    def _on_packet_too_big(self, target: _Target, mtu: int, now: float) -> None:
        """Believe an unverified claim where that is safe, and schedule its verification."""
        mtu = max(mtu, floor_of(target.path.peer))
        if mtu >= self._usable(target):
            return
        up = target.liveness is Liveness.UP
        can_verify = self._mtus.unverified < self._rules.per_second * LONG_SHARE
        if not up or (self._mtus.trusts(target.path) and can_verify):
            self._mtus.accept(target.path, mtu, now, unverified=up)
            self._changed()
        if up and target.search is None and (at := self._verify_at(target, now)) is not None:
            self._mtu_schedule.put(target.path, at)
        elif up and target.search is not None:
            target.search.hint(mtu)

    def _verify_at(self, target: _Target, now: float) -> float | None:
        """Return when to verify an unverified claim, None if that is about to happen."""
        if target.verified_at > now:
            return None
        pause = VERIFY_PAUSE if self._mtus.trusts(target.path) else DISTRUST_PAUSE
        target.verified_at = max(now, target.verified_at + pause)
        return target.verified_at

    def _resize(self, target: _Target, size: int, now: float) -> None:
        """Record that the uplink's MTU changed."""
        target.size = size
        if target.carries is not None and target.carries >= size:
            self._take_result(target, None)
        self._drop_search(target)
        self._changed()
        if target.liveness is Liveness.UP:
            self._mtu_schedule.put(target.path, now)

    def _drop_search(self, target: _Target) -> None:
        target.search = None
        if target.long is not None:
            self._sent.pop(target.long, None)
            target.long = None
        self._mtu_schedule.drop(target.path)

    def _forget(self, path: Path) -> None:
        target = self._targets.pop(path)
        self._drop_search(target)
        if target.small is not None:
            self._sent.pop(target.small, None)
        self._liveness_schedule.drop(path)
        self._unsaved[path] = None
        self._mtus.forget((path,))
        self._changed()

    def _record(self, target: _Target) -> None:
        if target.liveness is not Liveness.UNKNOWN and not target.unreachable:
            self._unsaved[target.path] = PathRecord(target.liveness is Liveness.DOWN, target.carries)

    def _emit(self, kind: PathEventKind, target: _Target) -> None:
        not_sent = target.not_sent if kind is PathEventKind.DOWN else ""
        self._events.append(PathEvent(kind, target.path, target.size, target.carries, target.unreachable, not_sent))
