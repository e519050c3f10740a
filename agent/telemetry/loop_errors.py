"""Exceptions that a loop survives: a recurring one is logged once, and is a fault until a turn succeeds."""

from __future__ import annotations

import structlog

from agent.core.faults.tracker import ReportFaults
from protocol.status import Fault

log = structlog.get_logger()


class LoopErrors:
    """The unexpected exceptions of some loops, by name. Use it in an `except` block: it logs the stack trace."""

    def __init__(self, report: ReportFaults) -> None:
        self._report = report
        self._standing: dict[str, str] = {}

    def failed(self, loop: str, error: Exception) -> None:
        """Record that a turn of a loop raised an exception."""
        text = f"{type(error).__name__}: {error}"
        if self._standing.get(loop) == text:
            return
        self._standing[loop] = text
        log.exception("loop_failed", loop=loop)
        detail = f"a turn of this loop failed; the loop continues: {text}"
        remedy = "report it as a bug, with the trace that the log has beside `loop_failed`"
        self._report(f"loop {loop}", [Fault("internal_error", loop, detail, remedy)])

    def passed(self, loop: str) -> None:
        """Record that a turn of a loop succeeded."""
        if self._standing.pop(loop, None) is not None:
            self._report(f"loop {loop}", [])
