"""An exception that recurs at each turn of a loop is logged once, and a fault until a turn goes well."""

from __future__ import annotations

from structlog.testing import capture_logs

from agent.telemetry.fault_reporter import FaultReporter
from agent.telemetry.loop_errors import LoopErrors


def test_an_exception_is_logged_once_for_as_long_as_it_is_the_same() -> None:
    with capture_logs() as lines:
        reporter = FaultReporter(lambda _kind, _lines: None)
        errors = LoopErrors(reporter.report)
        for text in ("one", "one", "two", "two"):
            try:
                raise ValueError(text)
            except ValueError as error:
                errors.failed("repair", error)
        assert [line["event"] for line in lines if line["event"] == "loop_failed"] == ["loop_failed"] * 2
    (fault,) = reporter.standing()
    assert (fault.kind, fault.subject) == ("internal_error", "repair")
    assert "ValueError: two" in fault.detail
    errors.passed("prober")
    assert reporter.standing() == (fault,)
    errors.passed("repair")
    assert reporter.standing() == ()
