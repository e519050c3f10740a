"""Path MTU discovery on all paths (RFC 8899): checks, searches, and PTBs. Pure: time is a parameter.

A path whose peer is up is checked from time to time with a probe as long as the uplink's MTU. If that is lost, a search
(`mtu_search`) finds the size that the path does carry. A PTB (`packet_too_big`) triggers a check.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.probe.mtu_search import Search, floor_of
from agent.core.probe.packet_too_big import ReportedMtus
from agent.core.probe.path_state import PathChanges, PathState
from agent.core.probe.paths import Liveness, Path, PathEventKind, PathRecord, Probe, Rules
from agent.core.probe.timers import OpenProbes, Schedule

VERIFY_PAUSE = 1.0
"""Seconds between two checks of one path that ICMP errors trigger."""
DISTRUST_PAUSE = 10.0
"""The same for a path on which a PTB was refuted recently."""
LONG_SHARE = 0.25
CHECK_SHARE, MIN_CHECK_PERIOD = 0.25, 10.0
"""Paths that carry their full size are checked again with this share of the long probes, and not more often than every
so many seconds."""


class PathMtuDiscovery:
    """The path MTUs of one host's paths. It checks only paths whose peers are up."""

    def __init__(
        self, rules: Rules, states: Mapping[Path, PathState], open_probes: OpenProbes, changes: PathChanges
    ) -> None:
        """Discover the MTUs of the paths in `states`, which the caller keeps up to date."""
        self._rules = rules
        self._states = states
        self._open = open_probes
        self._changes = changes
        self._schedule = Schedule(rules.per_second * LONG_SHARE)
        self._mtus = ReportedMtus()

    def usable(self, state: PathState) -> int:
        """Return the path MTU to use."""
        known = (state.mtu.size, state.mtu.carries, self._mtus.get(state.path))
        return min(size for size in known if size is not None)

    def begin(self, state: PathState, known: PathRecord | None, first_turn: float) -> None:
        """Begin with a new path, from an earlier agent's record."""
        mtu = state.mtu
        if known is not None and known.carries is not None and known.carries < mtu.size:
            mtu.carries = known.carries
        if state.liveness is Liveness.UP:
            self.check_at(state, first_turn)

    def check_at(self, state: PathState, at: float) -> None:
        """Set the time of a path's next check."""
        self._schedule.put(state.path, at)

    def resize(self, state: PathState, size: int, now: float) -> None:
        """Record that the uplink's MTU changed."""
        state.mtu.size = size
        if state.mtu.carries is not None and state.mtu.carries >= size:
            self._take_result(state, None)
        self._drop_search(state)
        self._changes.changed()
        if state.liveness is Liveness.UP:
            self.check_at(state, now)

    def stop(self, state: PathState) -> None:
        """Stop checking a path whose peer is down; what probes found stays."""
        self._drop_search(state)
        self._mtus.drop(state.path)

    def forget(self, state: PathState) -> None:
        """Forget a path."""
        self._drop_search(state)
        self._mtus.forget((state.path,))

    def due(self, now: float) -> list[Probe]:
        """Return the long probes to send now."""
        states = [self._states[path] for path in self._schedule.take(now)]
        return [self._check(state, now) for state in states if state.liveness is Liveness.UP]

    def next_at(self) -> float | None:
        """Return the time of the next probe."""
        return self._schedule.next_at()

    def expire(self, now: float) -> None:
        """Forget the reported MTUs that are too old."""
        self._changes.changed(bool(self._mtus.expire(now)))

    # What happens to long probes; other nonces are ignored

    def carried(self, state: PathState, nonce: bytes, size: int, now: float) -> None:
        """Record that a long probe was answered."""
        search = _search_of(state, nonce)
        if search is None:
            return
        state.mtu.long = None
        ptb_mtu = self._mtus.get(state.path)
        if ptb_mtu is not None and size > ptb_mtu:
            self._changes.changed(self._mtus.reject(state.path, now))
        search.carried()
        self._continue_search(state, search, now)

    def lost(self, state: PathState, nonce: bytes, now: float) -> None:
        """Record that a long probe will not be answered."""
        search = _search_of(state, nonce)
        if search is not None:
            state.mtu.long = None
            search.lost()
            self._continue_search(state, search, now)

    def too_long(self, nonce: bytes, mtu: int | None, now: float) -> None:
        """Record a reliable report that an open probe does not fit; `mtu` is the size that fits according to it."""
        sent = self._open.get(nonce)
        if sent is None or (search := _search_of(sent.state, nonce)) is None:
            return
        self._open.close(nonce)
        self._open.counts.refused += 1
        sent.state.mtu.long = None
        search.refused(mtu)
        self._continue_search(sent.state, search, now)

    def not_sent(self, state: PathState, now: float) -> None:
        """Retry a probe soon that this host did not send."""
        state.mtu.long = None
        self.check_at(state, now + self._rules.interval)

    # PTBs

    def on_packet_too_big(self, state: PathState, mtu: int, now: float) -> None:
        """Use a reported MTU before it is verified where that is safe, and schedule its verification."""
        mtu = max(mtu, floor_of(state.path.peer))
        if mtu >= self.usable(state):
            return
        up = state.liveness is Liveness.UP
        can_verify = self._mtus.unverified < self._rules.per_second * LONG_SHARE
        if not up or (self._mtus.trusts(state.path) and can_verify):
            self._mtus.accept(state.path, mtu, now, unverified=up)
            self._changes.changed()
        if up and state.mtu.search is None and (at := self._verify_at(state, now)) is not None:
            self.check_at(state, at)
        elif up and state.mtu.search is not None:
            state.mtu.search.hint(mtu)

    def _verify_at(self, state: PathState, now: float) -> float | None:
        """Return when to verify a reported MTU, None if that is about to happen."""
        mtu = state.mtu
        if mtu.verified_at > now:
            return None
        pause = VERIFY_PAUSE if self._mtus.trusts(state.path) else DISTRUST_PAUSE
        mtu.verified_at = max(now, mtu.verified_at + pause)
        return mtu.verified_at

    # The search

    def _check(self, state: PathState, now: float) -> Probe:
        """Continue the path MTU search, or begin one."""
        mtu = state.mtu
        if mtu.search is None:
            mtu.search = self._new_search(state)
            mtu.search_from = now
        size = mtu.search.next_size
        mtu.long = self._open.add(state, size, now, state.overdue_after(self._rules.deadline))
        return Probe(state.path, size, mtu.long)

    def _new_search(self, state: PathState) -> Search:
        mtu = state.mtu
        hint = self._mtus.get(state.path) or mtu.carries
        first = (mtu.carries,) if mtu.carries is not None and hint != mtu.carries else ()
        search = Search(floor_of(state.path.peer), mtu.size, first)
        if hint is not None:
            search.hint(hint)
        return search

    def _continue_search(self, state: PathState, search: Search, now: float) -> None:
        """Probe with the next size, or record the result."""
        if not search.done:
            self.check_at(state, now)
            return
        mtu = state.mtu
        result = search.result
        if result is None and state.heard_at > mtu.search_from:
            result = floor_of(state.path.peer)  # it answers only probes that are too small for endpoints' packets
        mtu.search, before = None, self.usable(state)
        if result is not None:
            self._mtus.drop(state.path)
            self._take_result(state, result if result < mtu.size else None)
        self._changes.changed(self.usable(state) != before)
        well = result == mtu.size
        self.check_at(state, now + (self._check_period() if well else self._rules.narrow_every))

    def _take_result(self, state: PathState, carries: int | None) -> None:
        before, state.mtu.carries = state.mtu.carries, carries
        if carries != before:
            self._changes.record(state)
            self._changes.emit(PathEventKind.RESTORED if carries is None else PathEventKind.NARROW, state)

    def _check_period(self) -> float:
        """Return the time between two checks of a good path. Links may silently drop packets that are too long."""
        share = self._rules.per_second * LONG_SHARE * CHECK_SHARE
        return min(self._rules.check_every, max(MIN_CHECK_PERIOD, len(self._states) / share))

    def _drop_search(self, state: PathState) -> None:
        state.mtu.search = None
        if state.mtu.long is not None:
            self._open.close(state.mtu.long)
            state.mtu.long = None
        self._schedule.drop(state.path)


def _search_of(state: PathState, nonce: bytes) -> Search | None:
    """Return the search that waits for the answer to a probe."""
    return state.mtu.search if state.mtu.long == nonce else None
