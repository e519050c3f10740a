"""`python -m bench`: runs the parts, shows progress and tables, writes JSON and Markdown.

Owns the order and the clean end: everything is made by context managers, so that it goes also on failure, Ctrl-C and
SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from agent.datapath.bpf.compiler import CompileError
from agent.datapath.bpf.pins import ensure_bpffs
from agent.datapath.functions.refusals import FunctionError
from bench import (
    control,
    forwarding,
    functions,
    hosts,
    machine,
    probe,
    report,
    sections,
    sent_frames,
    stage_sections,
    stages,
    traffic,
    traffic_sections,
)
from bench.contestants import fitting
from bench.lines import GROUPS
from bench.profile import PARTS as PROFILE
from bench.report import Section, Verdict
from bench.wires import WiresError
from controller_sim.control.bus import BusError
from controller_sim.lab.state import BPFFS, LabError
from controller_sim.lab.underlay import UnderlayError

PARTS = ("forwarding", "traffic", "control", "functions", "stages")
COLOURS = {Verdict.MET: "green", Verdict.MISSED: "red", Verdict.UNCLEAR: "yellow", Verdict.NONE: ""}
BUSY = 0.5
"""Load average for each core above which a run is warned of."""
ERRORS = (
    CompileError,
    FunctionError,
    WiresError,
    UnderlayError,
    LabError,
    BusError,
    forwarding.LostFramesError,
    probe.ProbeError,
    control.NotRealizedError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of everything one run does."""

    rounds: int
    traffic_rounds: int
    round_trips: int
    seconds: float
    documents: int
    veths: int
    bulks: tuple[int, ...]
    restarts: int
    million: bool = False


FULL = Effort(15, 7, 10_000, 0.5, 300, 60, (10_000, 100_000), 5)
QUICK = Effort(4, 2, 3_000, 0.3, 50, 10, (10_000,), 2)


def forwarding_part(folder: Path, effort: Effort, say: Callable[[str], None]) -> list[Section]:
    """Measure nanoseconds a packet, what features cost, and the profile, all in the same rounds."""
    say("compiling and loading the programs")
    stale = fitting([part.contestant for part in PROFILE])[1]
    parts = tuple(part for part in PROFILE if part.contestant.name not in stale)
    skipped = [part.name for part in PROFILE if part not in parts]
    with forwarding.track(folder, parts, GROUPS) as track, sent_frames.entries(folder) as sent:
        rounds = forwarding.run_rounds([*track.entries, *sent], effort.rounds, traffic.cores()[0], say)
    groups = [sections.group(rounds, group) for group in GROUPS]
    return [sections.forwarding(rounds), sections.sent(rounds), *groups, sections.profiled(rounds, skipped)]


def traffic_part(folder: Path, effort: Effort, say: Callable[[str], None]) -> list[Section]:
    """Measure round trips, bulk and small datagrams between endpoints, of all setups in turns."""
    program = probe.Probe(probe.build_probe(folder), *traffic.cores())
    share = traffic.Share(effort.traffic_rounds, effort.round_trips, effort.seconds)
    with traffic.all_built(folder / "cache", say) as pairs:
        return traffic_sections.traffic(traffic.measure(program, pairs, share, say))


def control_part(folder: Path, effort: Effort, say: Callable[[str], None]) -> list[Section]:
    """Measure the control plane on a host with an agent as it is by default."""
    say("starting two hosts with agents")
    program = probe.Probe(probe.build_probe(folder), *traffic.cores())
    share = control.Share(effort.bulks, effort.documents, effort.veths, effort.restarts, effort.million)
    with hosts.our_hosts(control.AGENTS, "z", folder / "cache") as lab:
        return [sections.control(control.measure(lab, program, share, folder / "documents", say))]


def functions_part(folder: Path, effort: Effort, say: Callable[[str], None]) -> list[Section]:
    """Measure packets a second of functions in processes."""
    say("building pairs for functions")
    with functions.contestants(folder) as found:
        return [functions.section(forwarding.run_rounds(found, effort.rounds, traffic.cores()[0], say))]


def stages_part(folder: Path, effort: Effort, say: Callable[[str], None]) -> list[Section]:
    """Measure functions as programs at stage points, beside other chains of programs."""
    with stages.contestants(folder, say) as found:
        rounds = forwarding.run_rounds(found.entries, effort.rounds, traffic.cores()[0], say)
    return stage_sections.sections(rounds, found.refusal, found.instructions)


def run_parts(effort: Effort, parts: tuple[str, ...], console: Console) -> list[Section]:
    """Run the parts that were asked for."""
    ensure_bpffs(BPFFS)
    found: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="droplet-bench-") as name, console.status("") as status:
        folder = Path(name)
        if "forwarding" in parts:
            found += forwarding_part(folder, effort, status.update)
        if "traffic" in parts:
            found += traffic_part(folder, effort, status.update)
        if "control" in parts:
            found += control_part(folder, effort, status.update)
        if "functions" in parts:
            found += functions_part(folder, effort, status.update)
        if "stages" in parts:
            found += stages_part(folder, effort, status.update)
    return found


def show(found: list[Section], console: Console) -> None:
    """Print the tables: what was measured, then the verdicts."""
    for section in found:
        table = Table(title=section.title, title_justify="left", caption=section.note, caption_justify="left")
        grid = report.shown(section)
        for column in grid.columns:
            table.add_column(column, justify="left" if not column else "right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    table = Table(title="Ratios and budgets", title_justify="left")
    for column in ("", "measured", "budget", ""):
        table.add_column(column, justify="right" if column else "left")
    for section in found:
        for comparison in section.comparisons:
            colour = COLOURS[comparison.verdict]
            *cells, verdict = report.comparison_cells(comparison)
            table.add_row(*cells, f"[{colour}]{verdict}[/]" if colour else verdict)
    console.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything here, as JSON.")
@click.option(
    "--markdown",
    "markdown_file",
    type=click.Path(path_type=Path),
    help="Write the tables here, between the marks if there are some.",
)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Run this part alone; may be given twice.")
@click.option("--quick", is_flag=True, help="Half the time: fewer rounds, 10,000 endpoints. For a first look.")
@click.option("--million", is_flag=True, help="Also a bulk of 1,000,000 endpoints, in the part `control`.")
def main(json_file: Path | None, markdown_file: Path | None, only: tuple[str, ...], quick: bool, million: bool) -> None:
    """Measure this project beside bare XDP programs and kernel VXLAN with a bridge, in one run, on this machine.

    Needs root. Makes network namespaces and removes them again; touches nothing else.
    """
    console = Console()
    if os.geteuid():
        raise click.ClickException("namespaces and BPF programs need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    state, before = machine.describe(), machine.ticks()
    state["began"] = datetime.now(UTC).isoformat(timespec="seconds")
    if os.getloadavg()[0] > BUSY * len(os.sched_getaffinity(0)):
        console.print("[yellow]The machine is busy: spreads will be wide, and more verdicts `unclear`.[/]")
    try:
        found = run_parts(replace(QUICK if quick else FULL, million=million), only or PARTS, console)
    except ERRORS as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from None
    state["load average at the end"] = " ".join(f"{load:.2f}" for load in os.getloadavg())
    state["stolen by the hypervisor"] = f"{machine.steal_percent(before, machine.ticks()):.1f} %"
    show(found, console)
    for key, value in state.items():
        console.print(f"[dim]{key}: {value}[/]", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_data(state, found), indent=2) + "\n", encoding="utf-8")
    if markdown_file is not None:
        old = markdown_file.read_text(encoding="utf-8") if markdown_file.exists() else ""
        markdown_file.write_text(report.placed(old, report.as_markdown(state, found)), encoding="utf-8")


if __name__ == "__main__":
    main()
