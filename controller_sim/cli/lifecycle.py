"""Brings a lab up until every host has realized its documents, with live progress, or takes it down again."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from controller_sim.cli import screen
from controller_sim.control.convergence import Report
from controller_sim.lab.controller import Progress, converge, prepare, wait_for_next_hops
from controller_sim.lab.lab import Lab
from controller_sim.lab.state import LabError


def bring_up(lab: Lab, text: str, source: str, timeout: float = 60.0, folder: Path | None = None) -> Report:
    """Build a lab, start its agents, publish, and wait until the first packet would arrive; on failure take it down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lab.up(text, source, folder)
    try:
        prepare(lab)
        for host in lab.topology().hosts:
            lab.start_agent(host)
        report = publish(lab, timeout, agents_first=True)[0]
        if not report.converged:
            raise LabError(why_not(lab, report))
        wait_for_next_hops(lab, timeout)
    except BaseException as error:
        lab.abandon(error)
        raise
    return report


def publish(lab: Lab, timeout: float, *, agents_first: bool = False) -> tuple[Report, Progress]:
    """Publish the documents that differ, with live progress; return the report and the final progress."""
    last = Progress()
    with screen.progress(len(lab.topology().hosts) if agents_first else None) as show:

        def keep(now: Progress) -> None:
            nonlocal last
            last = now
            show(now)

        report = converge(lab, keep, timeout, agents_first=agents_first)
    return report, last


def why_not(lab: Lab, report: Report) -> str:
    """Describe the documents that are not realized, with the end of the log of the first host that has one."""
    more = f"\n... and {len(report.problems) - 10} more" if len(report.problems) > 10 else ""
    lines = [report.headline, *report.problems[:10]]
    host = report.problems[0].split()[0] if report.problems else ""
    log = lab.paths.log(host)
    if host and log.exists():
        lines.append(f"the end of the log of {host}:\n{log.read_text(errors='replace')[-2000:]}")
    return "\n".join(lines) + more
