"""The lab's output: tables and live progress by rich, and the same as plain data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from controller_sim.control.convergence import Report
from controller_sim.lab import controller
from controller_sim.lab.lab import Lab

if TYPE_CHECKING:
    from controller_sim.talk.reachability import Reachability

PIPED_WIDTH = 100
"""The width of a table that is not printed to a terminal, if COLUMNS does not say another."""
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
STATUS_CAPTION = "documents: realized of all; endpoints: local of all that the host knows"


def heading(text: str) -> None:
    """Print a heading below an empty line."""
    console.print(f"\n[bold]{text}[/]", highlight=False)


def new_table(*columns: str, right: Collection[str] = (), fold: Collection[str] = (), **options: Any) -> Table:
    """Return a table without rows that fits 80 columns: only its first column and those in `fold` have folded cells.

    Columns in `right` are aligned to the right.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
        **options,
    )
    for index, column in enumerate(columns):
        folded = index == 0 or column in fold
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=not folded)
    return table


@contextmanager
def progress(hosts: int | None) -> Iterator[Callable[[controller.Progress], None]]:
    """Show progress bars, which the yielded function updates. `hosts` is None if no agents are awaited."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
        agents = None if hosts is None else bars.add_task("agents up", total=hosts)
        realized = bars.add_task("documents realized", total=None)

        def show(now: controller.Progress) -> None:
            if agents is not None:
                bars.update(agents, completed=now.agents)
            bars.update(realized, completed=now.realized, total=now.documents)

        yield show


def published_text(now: controller.Progress, documents: int) -> str:
    """Return in one line what was published, of how many documents in all."""
    if not now.published and not now.removed:
        return "no document differs"
    removed = f", {now.removed} removed" if now.removed else ""
    noun = "document" if documents == 1 else "documents"
    return f"{now.published} of {documents} {noun} published{removed}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def report_table(report: Report) -> Table:
    """Return the convergence of every host, with times where something was published."""
    timed = any(found.p50 is not None for found in report.hosts.values())
    caption = "p50, p99: from publishing to realized" if timed else None
    numbers = ("all", "realized", "pending", "rejected", "failed", "no ack", *(("p50", "p99") if timed else ()))
    table = new_table("host", *numbers, right=numbers, title="Documents by host", caption=caption)
    for host, found in report.hosts.items():
        counts = (found.documents, found.realized, found.pending, found.rejected, found.failed, found.unacknowledged)
        times = (_duration(found.p50), _duration(found.p99)) if timed else ()
        table.add_row(host, *(str(count) for count in counts), *times)
    return table


NOT_WELL = "problems: "
REACHABILITY_CAPTION = (
    "yes: reached; no: isolated, as expected; failed: not reached; heard: reached, but must be isolated"
)
MOST_PROBLEMS = 20


def print_reasons(reasons: Sequence[str]) -> None:
    """Print one line for each problem, the first with a heading."""
    for index, reason in enumerate(reasons):
        start = NOT_WELL if index == 0 else " " * len(NOT_WELL)
        console.print(f"[red]{start}{escape(reason)}[/]", highlight=False, soft_wrap=True)


def print_problems(report: Report) -> None:
    """Print what became of the documents that are not realized; where no host is known, `reasons` has said it."""
    problems = report.problems if report.hosts else ()
    for problem in problems[:MOST_PROBLEMS]:
        console.print(f"[yellow]{escape(problem)}[/]", highlight=False, soft_wrap=True)
    if len(problems) > MOST_PROBLEMS:
        console.print(f"[yellow]... and {len(problems) - MOST_PROBLEMS} more[/]", highlight=False)


def status_table(lab: Lab, found: controller.LabStatus) -> Table:
    """Return the state of every host."""
    columns = ("host", "agent", "state", "address", "documents", "endpoints", "memory")
    table = new_table(*columns, fold=("address",), title=f"Lab {lab.name}", caption=STATUS_CAPTION)
    for host, runs in found.agents.items():
        status, documents = found.heartbeats[host], found.report.hosts.get(host)
        realized = f"{documents.realized} of {documents.documents}" if documents else "-"
        agent = "[green]runs[/]" if runs else "[red]stopped[/]"
        if status is None:
            table.add_row(host, agent, "[red]no answer[/]", "-", realized, "-", "-")
            continue
        local = f"{status.objects.local_endpoints} of {status.objects.endpoints}"
        memory = f"{status.memory_bytes / 2**20:.0f} MiB"
        addresses = "\n".join(address for uplink in status.uplinks for address in uplink.addresses)
        table.add_row(host, agent, str(status.state), addresses, realized, local, memory)
    return table


def status_data(lab: Lab, found: controller.LabStatus) -> dict[str, Any]:
    """Return the state of every host as plain data."""
    return {
        "lab": lab.name,
        "reasons": found.reasons,
        "server": found.server,
        "agents": found.agents,
        "heartbeats": {
            host: None if status is None else msgspec.to_builtins(status) for host, status in found.heartbeats.items()
        },
        "report": found.report.as_data(),
    }


def reachability_table(found: Reachability) -> Table:
    """Return one row per source with one column per destination or, where that is too wide, with lists of them."""
    names = {name: f"[red]{name}[/]" if name in found.broken else name for name in found.endpoints}
    table = new_table("", *names.values(), title="Who reaches whom (row sends)", caption=REACHABILITY_CAPTION)
    for source, name in names.items():
        table.add_row(name, *(found.cell(source, destination) for destination in names))
    wide = console.options.update(max_width=1 << 16)
    return table if console.measure(table, options=wide).maximum <= console.width else _reachability_lists(found, names)


def _reachability_lists(found: Reachability, names: Mapping[str, str]) -> Table:
    """Return one row per source and kind of result, with the destinations."""
    table = new_table("from", "reached", "to", fold=("to",), title="Who reaches whom", caption=REACHABILITY_CAPTION)
    for source, name in names.items():
        destinations: dict[str, list[str]] = {}
        for destination in names:
            destinations.setdefault(found.cell(source, destination), []).append(destination)
        for cell, reached in destinations.items():
            if cell:
                table.add_row(name, cell, ", ".join(reached))
    return table
