"""Tracks acknowledgements: the last one sent for each document and its time, counts per state, the digest."""

from __future__ import annotations

from collections import Counter

from agent.core.config.registry import DocumentStatus
from protocol import digest
from protocol.acknowledgements import State
from protocol.status import DocumentCounts


class AckTracker:
    """Starts empty: after a restart every document is acknowledged again."""

    def __init__(self) -> None:
        self._last_sent: dict[str, tuple[int, State, int, float]] = {}
        self._counts: Counter[State] = Counter()
        self._digest = 0

    def record(self, status: DocumentStatus, now: float) -> bool:
        """Record a status; return whether it is new and has to be sent. `now` is in seconds since the epoch."""
        mark = hash(status)
        before = self._last_sent.get(status.name)
        if before is not None and before[0] == mark:
            return False
        self._take_out(status.name, before)
        if status.removed:
            self._last_sent.pop(status.name, None)
            return True
        realized = status.in_force if status.state is State.REALIZED else 0
        if realized:
            self._digest = digest.add(self._digest, status.name, realized)
        self._counts[status.state] += 1
        self._last_sent[status.name] = (mark, status.state, realized, now)
        return True

    def _take_out(self, name: str, before: tuple[int, State, int, float] | None) -> None:
        if before is None:
            return
        _, state, realized, _ = before
        self._counts[state] -= 1
        if realized:
            self._digest = digest.remove(self._digest, name, realized)

    def resend_all(self) -> None:
        """Send every acknowledgement again, including unchanged ones: the acknowledgements' stream may be a new one."""
        self._last_sent = {name: (0, state, realized, at) for name, (_, state, realized, at) in self._last_sent.items()}

    def acknowledged_at(self, name: str) -> float | None:
        """Return when a document was last acknowledged, None if never."""
        last = self._last_sent.get(name)
        return None if last is None else last[3]

    @property
    def digest(self) -> str:
        """Return the digest of all that is realized (`protocol.digest`)."""
        return digest.text(self._digest)

    @property
    def counts(self) -> DocumentCounts:
        """Return the number of documents in each state."""
        return DocumentCounts(**{state.value: self._counts[state] for state in State})
