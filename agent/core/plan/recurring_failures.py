"""Distinguishes new refusals by the kernel from those of an earlier attempt at the same action. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.core.plan.actions import Action, DeleteEntries, Failure, PutEntries

MOST_KEYS = 1000
"""Keys of a map that are remembered for one refusal."""


@dataclass(frozen=True, slots=True)
class _Refused:
    message: str
    keys: frozenset[bytes]


class RecurringFailures:
    """The current refusals, by object and errno. One ends when an action on the same object or key succeeds."""

    def __init__(self) -> None:
        self._standing: dict[tuple[str, int], _Refused] = {}

    def done(self, action: Action, name: str, failures: Sequence[Failure]) -> None:
        """Record the failures of an action, none if it succeeded; `name` describes its object in words."""
        if not self._standing:
            return
        refused = {key for failure in failures for key in failure.keys}
        done = _keys(action) - refused
        for known, one in list(self._standing.items()):
            if known[0] == name and (done & one.keys if one.keys else not failures):
                del self._standing[known]

    def new(self, failures: Iterable[Failure]) -> list[Failure]:
        """Return the failures that the last attempt did not report, and remember all of them."""
        found = []
        for failure in failures:
            key = failure.object, failure.errno
            known = self._standing.get(key)
            keys = frozenset(failure.keys[:MOST_KEYS])
            if known is None or known.message != failure.message or not known.keys >= keys:
                found.append(failure)
                keys |= known.keys if known is not None and len(known.keys) < MOST_KEYS else frozenset()
                self._standing[key] = _Refused(failure.message, keys)
        return found


def _keys(action: Action) -> set[bytes]:
    match action:
        case PutEntries(_, entries):
            return {key for key, _ in entries}
        case DeleteEntries(_, keys):
            return set(keys)
    return set()
