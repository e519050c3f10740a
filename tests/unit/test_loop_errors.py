"""An exception that recurs at each turn of a loop is one fault, reported again only when it changes or ends."""

from __future__ import annotations

from collections.abc import Iterable

from structlog.testing import capture_logs

from agent.core.faults.tracker import FaultTable
from agent.telemetry.loop_errors import LoopErrors
from protocol.status import Fault


def test_an_exception_is_reported_once_for_as_long_as_it_is_the_same() -> None:
    table, reported = FaultTable(), list[str]()

    def report(source: str, faults: Iterable[Fault]) -> None:
        table.report(source, faults, 0.0)
        reported.append("; ".join(fault.detail.partition("continues: ")[2] for fault in table.standing()))

    with capture_logs() as lines:
        errors = LoopErrors(report)
        for text in ("one", "one", "two", "two"):
            try:
                raise ValueError(text)
            except ValueError as error:
                errors.failed("repair", error)
    assert reported == ["ValueError: one", "ValueError: two"]
    assert {(line["event"], line["loop"]) for line in lines} == {("loop_failed", "repair")}
    (fault,) = table.standing()
    assert (fault.kind, fault.subject) == ("internal_error", "repair")
    errors.passed("prober")
    assert table.standing() == (fault,)
    errors.passed("repair")
    assert table.standing() == ()
