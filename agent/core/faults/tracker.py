"""Tracks which standing faults begin, change and end, from the components' reports. Pure; time is a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from protocol.status import Fault

ReportFaults = Callable[[str, Iterable[Fault]], None]
"""Takes a component's name and all its current faults, which replace those reported before."""
Key = tuple[str, str]
"""A fault's kind and subject: reports with the same key are about the same fault."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes by one report, each list sorted by kind and subject."""

    began: tuple[Fault, ...] = ()
    changed: tuple[Fault, ...] = ()
    ended: tuple[Fault, ...] = ()


class FaultTable:
    """The standing faults by the component that reported them. A new report of a component replaces the former one."""

    def __init__(self) -> None:
        self._by_source: dict[str, dict[Key, Fault]] = {}

    def report(self, source: str, faults: Iterable[Fault], now: float) -> Changes:
        """Replace what `source` reported before; `now` is in seconds since the epoch.

        A fault keeps the time at which it began as long as it is reported continuously.
        """
        before = self._by_source.get(source, {})
        after: dict[Key, Fault] = {}
        for fault in faults:
            known = before.get(_key(fault))
            after[_key(fault)] = msgspec.structs.replace(fault, since=known.since if known else now)
        if after:
            self._by_source[source] = after
        else:
            self._by_source.pop(source, None)
        return Changes(
            began=_sorted(after[key] for key in after.keys() - before.keys()),
            changed=_sorted(after[key] for key in after.keys() & before.keys() if after[key] != before[key]),
            ended=_sorted(before[key] for key in before.keys() - after.keys()),
        )

    def standing(self) -> tuple[Fault, ...]:
        """Return all standing faults, sorted by kind and subject."""
        return _sorted(fault for faults in self._by_source.values() for fault in faults.values())


def _key(fault: Fault) -> Key:
    return fault.kind, fault.subject


def _sorted(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=_key))
