"""What was last told of each document and when: which verdicts are news, how many are in which state, the digest."""

from __future__ import annotations

from collections import Counter

from agent.core.config.registry import Verdict
from protocol import digest
from protocol.acknowledgements import State
from protocol.status import DocumentCounts


class Ledger:
    """Starts empty: after a restart every verdict is told again."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, State, int, float]] = {}
        self._counts: Counter[State] = Counter()
        self._digest = 0

    def enter(self, verdict: Verdict, now: float) -> bool:
        """Take in a verdict; return whether it is news, which is then told at `now`, in seconds since the epoch."""
        mark = hash(verdict)
        before = self._told.get(verdict.name)
        if before is not None and before[0] == mark:
            return False
        self._take_out(verdict.name, before)
        if verdict.removed:
            self._told.pop(verdict.name, None)
            return True
        realized = verdict.in_force if verdict.state is State.REALIZED else 0
        if realized:
            self._digest = digest.add(self._digest, verdict.name, realized)
        self._counts[verdict.state] += 1
        self._told[verdict.name] = (mark, verdict.state, realized, now)
        return True

    def _take_out(self, name: str, before: tuple[int, State, int, float] | None) -> None:
        if before is None:
            return
        _, state, realized, _ = before
        self._counts[state] -= 1
        if realized:
            self._digest = digest.remove(self._digest, name, realized)

    def forget(self) -> None:
        """Have every verdict told again, the same ones too: the acknowledgements' stream may be another one."""
        self._told = {name: (0, state, realized, at) for name, (_, state, realized, at) in self._told.items()}

    def told_at(self, name: str) -> float | None:
        """Return when a document's verdict was told, None when none was yet."""
        told = self._told.get(name)
        return None if told is None else told[3]

    @property
    def digest(self) -> str:
        """Return the digest of all that is realized (`protocol.digest`)."""
        return digest.text(self._digest)

    @property
    def counts(self) -> DocumentCounts:
        """Return how many documents are in which state."""
        return DocumentCounts(**{state.value: self._counts[state] for state in State})
