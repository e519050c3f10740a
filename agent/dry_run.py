"""`--dry-run`: prints what the last good documents would change in the kernel now, and changes nothing.

With `--replay`, it uses the documents that a recording leaves in force instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from agent.bus.consumer.admission import Admission
from agent.core.config.desired_state import Desired
from agent.core.plan.planner import describe, plan_all
from agent.core.probe.paths import NO_PATH_RECORDS, PathRecords
from agent.daemon import kernel_config
from agent.datapath.kernel import Kernel
from agent.probe.path_memory import load_path_records
from agent.reconcile.function_versions import Histories, load_histories
from agent.reconcile.program_verdicts import verdicts_of_files
from agent.reconcile.restore import restored_state
from agent.reconcile.underlay import host_state_of
from agent.recording.replay import Unrealized, replay
from agent.settings import Settings
from agent.store.store import FILE, Store, StoredDocument
from protocol.recording import Recording


async def print_plan(settings: Settings, recording: Recording | None = None) -> None:
    """Print the plan for the kernel as it is, from the stored documents, or from a recording and its host."""
    if recording is not None:
        settings = msgspec.structs.replace(settings, host=recording.header.host)
    config = kernel_config(settings)
    pinned = config.pins.paths()
    kept, known, histories = _kept(settings) if recording is None else ([], NO_PATH_RECORDS, {})
    unrealized: list[Unrealized] = []
    async with contextlib.AsyncExitStack() as undo:
        undo.callback(config.pins.remove_all_but, pinned)
        kernel = await Kernel.open(config)
        undo.push_async_callback(kernel.close)
        first = await kernel.observe({})
        verdicts = await verdicts_of_files(kernel, kept)
        host_state = replace(host_state_of(settings, first.uplinks, kernel), verdicts=verdicts)
        host_state = replace(host_state, histories=histories)
        desired = restored_state(host_state, first, kept, known)
        if recording is not None:
            unrealized = replay(recording, desired, Admission(settings.bus.trusted_publishers))
        observed = await kernel.observe({id_: veth.namespace for id_, veth in desired.veths.items()})
        actions = plan_all((desired.desired_entries(held) for _, held in desired.in_force()), observed)
    for action in actions:
        click.echo(describe(action))
    if recording is not None:
        _print_replayed(recording, desired, unrealized)
    elif not kept:
        click.echo("no documents are stored here yet: a start would wait for the bus")
    click.echo(f"{len(actions)} actions; nothing was changed")


def _print_replayed(recording: Recording, desired: Desired, unrealized: Sequence[Unrealized]) -> None:
    """Print the documents that are not in force, with the reasons, and the number of those in force."""
    for one in unrealized:
        click.echo(f"{one.state} {one.name}: {'; '.join(one.reasons)}")
    header, in_force = recording.header, len(list(desired.in_force()))
    when = datetime.fromtimestamp(header.at, UTC).isoformat(timespec="seconds")
    click.echo(
        f"recorded on host {header.host} by droplet-agent {header.agent} from {when} on: "
        f"{len(recording.messages)} messages, {in_force} documents in force, {len(unrealized)} not as published"
    )


def _kept(settings: Settings) -> tuple[list[StoredDocument], PathRecords, Histories]:
    """Return the stored documents, path records and functions' versions, without creating a store if there is none."""
    folder = Path(settings.state)
    if not (folder / FILE).exists():
        return [], NO_PATH_RECORDS, {}
    with contextlib.closing(Store(folder, settings.host)) as store:
        known = load_path_records(store) if settings.probe.enabled else NO_PATH_RECORDS
        return store.load(), known, load_histories(store)
