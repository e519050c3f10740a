"""A standing fault is reported once when it begins, once for each change, and once when it ends."""

from __future__ import annotations

from structlog.testing import capture_logs

from agent.cli import tables
from agent.core.faults.tracker import Changes, FaultTable
from agent.telemetry.fault_reporter import FaultReporter
from protocol.acknowledgements import State
from protocol.status import AgentState, DocumentCounts, Fault, ObjectCounts, Status

FULL = Fault("map_full", "next_hops", "3 droplets do not fit", "raise sizes.droplets")


def test_a_fault_begins_once_and_keeps_its_time() -> None:
    table = FaultTable()
    assert table.report("maps", [FULL], 10.0).began[0].since == 10.0
    assert table.report("maps", [FULL], 20.0) == Changes()
    assert [fault.since for fault in table.standing()] == [10.0]


def test_another_detail_is_a_change_of_the_same_fault() -> None:
    table = FaultTable()
    table.report("maps", [FULL], 10.0)
    worse = Fault("map_full", "next_hops", "4 droplets do not fit", "raise sizes.droplets")
    (changed,) = table.report("maps", [worse], 20.0).changed
    assert (changed.detail, changed.since) == (worse.detail, 10.0)


def test_a_fault_ends_when_its_source_no_longer_reports_it() -> None:
    table = FaultTable()
    table.report("maps", [FULL], 10.0)
    table.report("bus", [Fault("bus_disconnected", "nats", "refused")], 10.0)
    assert [fault.kind for fault in table.report("maps", [], 20.0).ended] == ["map_full"]
    assert [fault.kind for fault in table.standing()] == ["bus_disconnected"]
    (again,) = table.report("maps", [FULL], 30.0).began
    assert again.since == 30.0, "a fault that comes back begins anew"


def test_each_change_is_logged_and_published() -> None:
    published: list[tuple[str, tuple[str, ...]]] = []
    with capture_logs() as lines:
        reporter = FaultReporter(lambda kind, detail: published.append((kind, detail)))
        for faults in ([FULL], [FULL], [], []):
            reporter.report("maps", faults)
    assert {(line["event"], line["kind"]) for line in lines} == {
        ("fault_began", "map_full"),
        ("fault_ended", "map_full"),
    }
    text = "map_full next_hops: 3 droplets do not fit; raise sizes.droplets"
    assert published == [("fault", (f"began: {text}",)), ("fault", (f"ended: {text}",))]


def test_the_status_table_shows_a_fault_with_its_remedy(capsys) -> None:
    counts = DocumentCounts(**{State.REALIZED.value: 1}), ObjectCounts()
    found = Status("h1", "1", "b", 0.0, 60.0, AgentState.DEGRADED, 1, "", *counts, faults=(FULL,))
    tables.statuses([found], [], wide=True)
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert head.split() == ["HOST", "PROBLEM", "CAUSE", "REMEDY"]
    assert [cell for cell in row.split("  ") if cell.strip()] == [
        "h1",
        "map_full next_hops",
        "3 droplets do not fit",
        "raise sizes.droplets",
    ]
