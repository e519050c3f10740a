"""`--dry-run`: what the last good documents would change in the kernel now, line by line, and nothing done."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from agent.applier import here_of, slots_of
from agent.core.desired import Desired
from agent.core.plan import describe, plan_all
from agent.daemon import kernel_config
from agent.datapath.kernel import Kernel
from agent.settings import Settings
from agent.store import Store


async def print_plan(settings: Settings) -> None:
    """Print the plan from the kept documents to the kernel as it is."""
    config = kernel_config(settings)
    untouched = not config.pins.maps.exists()
    with contextlib.closing(Store(Path(settings.state))) as store:
        kernel = await Kernel.open(config)
        try:
            first = await kernel.observe({})
            slots = slots_of(first)
            desired = Desired(here_of(settings, first.interface), slots)
            for name, revision, body in store.load():
                desired.documents.restore(name, revision, body)
            desired.settle()
            observed = await kernel.observe({id_: veth.namespace for id_, veth in desired.veths.items()})
            parts = (desired.realization(held) for _, held in desired.in_force())
            actions = plan_all(parts, observed)
        finally:
            await kernel.close()
            if untouched:
                config.pins.remove()
    for action in actions:
        click.echo(describe(action))
    click.echo(f"{len(actions)} actions; nothing was changed")
