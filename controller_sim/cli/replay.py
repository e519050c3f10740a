"""droplet-lab replay: publishes what another host recorded to a host of a lab, and shows what became of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from rich.markup import escape
from rich.table import Table

from controller_sim.cli import screen
from controller_sim.cli.parameters import pass_lab, timeout_option
from controller_sim.control.bus import connected
from controller_sim.control.convergence import Tracker, Watcher, describe, watching
from controller_sim.control.publisher import Change, publish
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in
from controller_sim.lab.state import LabError, command_of
from protocol import binding, streams, subjects
from protocol.acknowledgements import State
from protocol.recording import Message, Recording, RecordingError, unpack


class Row(NamedTuple):
    """A document at the end of a replay."""

    document: str
    state: str
    why: str


class NoRecordingError(click.ClickException):
    """The file cannot be replayed: wrong usage, and not a lab that is not well."""

    exit_code = 2


def changes_of(recording: Recording, host: str) -> tuple[list[Change], list[str]]:
    """Return what to publish for a host, in order, and a line for each message that is left out.

    A message that came again as it was is published once.
    """
    changes: list[Change] = []
    left_out: list[str] = []
    newest: dict[str, Message] = {}
    for message in recording.messages:
        before = newest.get(message.subject)
        newest[message.subject] = message
        if before is not None and before._replace(at=message.at) == message:
            continue
        reason = _why_left_out(message, recording.header.host)
        if reason:
            left_out.append(f"left out: {message.subject}, sequence {message.sequence}: {reason}")
            continue
        document = subjects.parse_config(message.subject).document
        removes = streams.is_delete(dict(message.headers), message.body)
        changes.append(Change(host, document, None if removes else message.body))
    return changes, left_out


def _why_left_out(message: Message, host: str) -> str:
    """Say why the recorded host refused a message, nothing where it may have taken it."""
    try:
        target = subjects.parse_config(message.subject)
    except ValueError:
        return "it names no document"
    if target.host != host:
        return f"it is for host {target.host}, but the recording is of {host}"
    named = message.headers.get(binding.SUBJECT)
    if named != message.subject:
        return f"the host rejects it: its header {binding.SUBJECT} is {named or 'missing'}"
    return ""


def in_steps(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Cut changes where a document comes again: the stream holds only one message of each."""
    step: dict[str, Change] = {}
    for change in changes:
        if change.document in step:
            yield list(step.values())
            step = {}
        step[change.document] = change
    if step:
        yield list(step.values())


@click.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--host", help="Publish to this host of the lab instead of the one with the recorded host's name.")
@timeout_option
@pass_lab
def replay_command(lab: Lab, file: Path, host: str | None, timeout: float) -> None:
    """Publish the recording FILE to a host of this lab.

    Publishes the documents that `droplet-agent --record` wrote, in their order, signed by this lab's controller. A
    newer revision of a document is published once the host has acknowledged the one before. Waits for
    acknowledgements and shows each document. Documents that the lab published for the host before stay.

    With --host, only the subjects change: droplets, addresses and hosts that documents name stay as recorded.

    Exit code 1 if a document is not realized, 2 if FILE is not a recording.
    """
    recording = _read(file)
    target = _target(lab, recording.header.host, host)
    changes, left_out = changes_of(recording, target)
    for line in left_out:
        click.echo(line, err=True)
    tracker = _replay(lab, changes, timeout)
    rows = rows_of(tracker)
    screen.console.print(_table(rows, target))
    unrealized = [row for row in rows if row.state != State.REALIZED]
    if unrealized:
        click.echo(f"{len(unrealized)} of {len(rows)} documents are not realized", err=True)
        sys.exit(1)


def _read(file: Path) -> Recording:
    try:
        with file.open("rb") as opened:
            found = unpack(iter(lambda: opened.read(1 << 16), b""))
    except OSError as error:
        raise NoRecordingError(f"{file}: {error.strerror}") from None
    except RecordingError as error:
        raise NoRecordingError(f"{file}: {error}") from None
    if found.cut_at is not None:
        click.echo(f"{file}: its last object, at byte {found.cut_at:,}, is incomplete and was ignored", err=True)
    return found


def _target(lab: Lab, recorded: str, chosen: str | None) -> str:
    """Return the lab's host to publish to; warn if its name differs from the recorded one."""
    if chosen is None and recorded not in lab.topology().hosts:
        names = ", ".join(lab.topology().hosts)
        raise LabError(f"the recording is of {recorded}, which is not in this lab: choose one of {names} with --host")
    target = chosen or recorded
    lab.check_host(target)
    if not lab.agent_runs(target):
        raise LabError(f"the agent of {target} is stopped: start it with `{command_of(lab.name)} agent start {target}`")
    if target != recorded:
        click.echo(f"the recording is of {recorded}: its documents go to {target}, but still name {recorded}", err=True)
    return target


def _replay(lab: Lab, changes: Sequence[Change], patience: float) -> Tracker:
    async def work() -> Tracker:
        deadline = time.monotonic() + patience
        async with connected(access) as client, watching(client) as watcher:
            for step in in_steps(changes):
                await _acknowledged(watcher, deadline)
                await publish(client, step, watcher.tracker.expect)
            await watcher.wait(max(0.0, deadline - time.monotonic()))
            return watcher.tracker

    access = lab.access()
    return run_coroutine_in(lab.names.fabric, work)


async def _acknowledged(watcher: Watcher, deadline: float) -> None:
    """Wait until the host has acknowledged all that was published, with whatever state; LabError when it does not."""
    while any(expected.ack is None for expected in watcher.tracker.expected.values()):
        left = deadline - time.monotonic()
        if left <= 0:
            waiting = [name for (_, name), one in watcher.tracker.expected.items() if one.ack is None]
            raise LabError(
                f"the host has not acknowledged {', '.join(waiting[:5])}: the remaining documents were not published"
            )
        await watcher.wait_for_acks(min(left, 0.2))


def rows_of(tracker: Tracker) -> list[Row]:
    """Return a row for each document that was published."""
    rows = []
    for (_, document), expected in sorted(tracker.expected.items()):
        if expected.ack is None:
            rows.append(Row(document, "unacknowledged", "the host has not acknowledged it in time"))
            continue
        state, _, why = describe(expected.ack).partition(": ")
        rows.append(Row(document, state, why or ("removed" if expected.removed else "")))
    return rows


def _table(rows: Iterable[Row], host: str) -> Table:
    table = screen.new_table("document", "state", "why", fold=("why",), title=f"Replayed to {host}")
    for row in rows:
        colour = "green" if row.state == State.REALIZED else "red"
        table.add_row(escape(row.document), f"[{colour}]{row.state}[/]", escape(row.why))
    return table
