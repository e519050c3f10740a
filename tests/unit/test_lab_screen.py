"""What droplet-lab prints of documents, hosts and pairs: each thing once, a line for each."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table
from test_cli_tables import status

from controller_sim.cli import screen
from controller_sim.control.convergence import HostReport, Report
from controller_sim.lab.controller import LabStatus, Progress, troubles
from controller_sim.talk.reachability import Pair, Reachability
from protocol.status import NarrowPath, UnresolvedNextHops


def host_report(documents: int, realized: int, p50: float | None = None, removing: int = 0) -> HostReport:
    return HostReport(documents, realized, 0, 0, 0, documents - realized, removing, p50, p50)


def test_published_documents_are_counted_among_all_documents():
    assert screen.published_text(Progress(published=4, removed=1), 23) == "4 of 23 documents published, 1 removed"
    assert screen.published_text(Progress(), 23) == "no document differs"


def columns(report: Report) -> list[str]:
    return [str(column.header) for column in screen.report_table(report).columns]


def test_times_are_shown_only_where_something_was_published():
    assert columns(Report({"h1": host_report(5, 5, 0.1)}))[-2:] == ["p50", "p99"]
    assert "p50" not in columns(Report({"h1": host_report(5, 5)}))


def test_a_problem_of_several_hosts_is_one_line_with_their_names():
    silent = UnresolvedNextHops("no answer to ARP", 2, ("10.9.0.1", "10.9.0.2"))
    found = troubles(
        {
            "h1": status(unresolved_next_hops=(silent,), down_droplets=("d9", "d8")),
            "h2": status(unresolved_next_hops=(silent,), down_droplets=("d9",)),
            "h3": status(
                unreadable="Network is down",
                narrow_paths=(NarrowPath("d1", "10.9.0.3", carries=1400, configured=1500),),
            ),
        }
    )
    assert found == [
        "h1, h2 have no next hop to 10.9.0.1, 10.9.0.2: no answer to ARP",
        "h1, h2 get no answer from d9",
        "h1 gets no answer from d8",
        "h3 could not read the kernel: Network is down",
        "h3 to d1 carries 1400 of 1500",
    ]


def test_each_reason_is_one_line_and_counts_existing_documents(capsys):
    report = Report({"h1": host_report(5, 5, removing=1), "h2": host_report(5, 3)}, ("h2 x: pending [x]",))
    found = LabStatus(True, {"h1": False, "h2": False, "h3": True}, dict.fromkeys(("h1", "h2", "h3")), report)
    screen.print_reasons(found.reasons)
    screen.print_problems(report)
    assert capsys.readouterr().out.splitlines() == [
        "problems: the agents of h1, h2 are stopped",
        "          h3 does not answer",
        "          2 of 10 documents are not realized",
        "          1 removal is not realized",
        "h2 x: pending [x]",
    ]


def test_a_failed_pair_is_marked_in_the_table_and_explained_below():
    pairs = {
        ("a", "b"): Pair("a", "b", True, ("IPv4 UDP: no answer", "IPv4 TCP")),
        ("b", "a"): Pair("b", "a", True, ()),
        ("a", "c"): Pair("a", "c", False, ("IPv4: heard by another tenant",)),
    }
    found = Reachability(("a", "b", "c"), pairs)
    cells = [found.cell(one, other) for one, other in pairs]
    assert cells == ["[red]failed[/]", "[green]yes[/]", "[red]heard[/]"]
    assert found.lines == ["a to b: IPv4 UDP: no answer, IPv4 TCP", "a to c: IPv4: heard by another tenant"]


def printed(table: Table, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_the_tables_of_a_large_lab_fit_80_columns_and_break_no_heading_and_no_time():
    times = HostReport(1234, 1234, 12, 12, 12, 12, 1, 0.2194, 12.34)
    out = printed(screen.report_table(Report({"a-host-of-a-long-name": times})), 80)
    headings = ("host", "all", "realized", "pending", "rejected", "failed", "no ack", "p50", "p99")
    assert out.splitlines()[1].split() == " ".join(headings).split()
    assert "219.4 ms" in out
    assert "12.34 s" in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_who_reaches_whom_is_a_list_where_a_matrix_is_too_wide(monkeypatch):
    monkeypatch.setattr(screen.console, "width", 80)
    names = tuple(f"endpoint-{number}" for number in range(20))
    pairs = {(one, other): Pair(one, other, True, ()) for one in names for other in names if one != other}
    matrix = printed(screen.reachability_table(Reachability(names[:4], pairs)), 80)
    assert matrix.splitlines()[1].split() == list(names[:4])
    out = printed(screen.reachability_table(Reachability(names, pairs)), 80)
    assert out.splitlines()[1].split() == ["from", "reached", "to"]
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("endpoint-19") == 20


@pytest.mark.parametrize(("environment", "width"), [({"COLUMNS": "80"}, 80), ({}, screen.PIPED_WIDTH)])
def test_columns_says_how_wide_a_piped_table_is(environment, width):
    code = "from controller_sim.cli import screen; print(screen.console.width)"
    clean = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **environment})
    assert done.stdout == f"{width}\n"
