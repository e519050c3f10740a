"""What droplet-lab prints of documents, hosts and pairs: each thing once, a line for each."""

from __future__ import annotations

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
    assert cells == ["[red]failed[/]", "[green]reached[/]", "[red]heard[/]"]
    assert found.lines == ["a to b: IPv4 UDP: no answer, IPv4 TCP", "a to c: IPv4: heard by another tenant"]
