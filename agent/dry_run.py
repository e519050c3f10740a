"""`--dry-run`: what the last good documents would change in the kernel now, line by line, and nothing done."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from agent.applier import remembered
from agent.core.paths import NOTHING_KNOWN, KnownPaths
from agent.core.plan import describe, plan_all
from agent.daemon import kernel_config
from agent.datapath.kernel import Kernel
from agent.path_memory import known_paths
from agent.settings import Settings
from agent.store import FILE, Kept, Store
from agent.substrate import here_of


async def print_plan(settings: Settings) -> None:
    """Print the plan from the kept documents to the kernel as it is."""
    config = kernel_config(settings)
    pinned = config.pins.paths()
    kept, known = _kept(settings)
    async with contextlib.AsyncExitStack() as undo:
        undo.callback(config.pins.remove_all_but, pinned)
        kernel = await Kernel.open(config)
        undo.push_async_callback(kernel.close)
        first = await kernel.observe({})
        desired = remembered(here_of(settings, first.uplinks, kernel.features), first, kept, known)
        observed = await kernel.observe({id_: veth.namespace for id_, veth in desired.veths.items()})
        actions = plan_all((desired.realization(held) for _, held in desired.in_force()), observed)
    for action in actions:
        click.echo(describe(action))
    if not kept:
        click.echo("no documents are kept here yet: a start would wait for the bus")
    click.echo(f"{len(actions)} actions; nothing was changed")


def _kept(settings: Settings) -> tuple[list[Kept], KnownPaths]:
    """Return the kept documents and what is known of paths, without making a place for them where there is none."""
    folder = Path(settings.state)
    if not (folder / FILE).exists():
        return [], NOTHING_KNOWN
    with contextlib.closing(Store(folder, settings.host)) as store:
        return store.load(), known_paths(store) if settings.probe.enabled else NOTHING_KNOWN
