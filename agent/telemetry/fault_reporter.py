"""Reports standing faults: a log line and an event when one begins, changes or ends, and the status while it stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog

from agent.core.faults.tracker import FaultTable
from protocol.status import Fault

log = structlog.get_logger()


class FaultReporter:
    """The faults of one agent. Call `report` only in the event loop's thread."""

    def __init__(self, publish: Callable[[str, tuple[str, ...]], None]) -> None:
        """Call `publish` with an event's kind and lines for each change."""
        self._table = FaultTable()
        self._publish = publish

    def report(self, source: str, faults: Iterable[Fault]) -> None:
        """Replace what a component reported before. A report that changes nothing is not logged."""
        changes = self._table.report(source, faults, time.time())
        for fault in changes.began:
            log.warning("fault_began", **_fields(fault))
        for fault in changes.changed:
            log.warning("fault_changed", **_fields(fault))
        for fault in changes.ended:
            log.info("fault_ended", kind=fault.kind, subject=fault.subject)
        for state, found in (("began", changes.began), ("changed", changes.changed), ("ended", changes.ended)):
            if found:
                self._publish("fault", tuple(f"{state}: {line(fault)}" for fault in found))

    def standing(self) -> tuple[Fault, ...]:
        """Return the standing faults."""
        return self._table.standing()


def line(fault: Fault) -> str:
    """Return a fault in one line: kind, subject, what is wrong, and what to do."""
    remedy = f"; {fault.remedy}" if fault.remedy else ""
    return f"{fault.kind} {fault.subject}: {fault.detail}{remedy}"


def _fields(fault: Fault) -> dict[str, str]:
    fields = {"kind": fault.kind, "subject": fault.subject, "detail": fault.detail, "remedy": fault.remedy}
    return {name: text for name, text in fields.items() if text}
