"""Parameters that several commands of droplet-lab share: the lab itself, a topology, a number of seconds, a family."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from controller_sim.lab.lab import Lab
from controller_sim.lab.state import LabError

DAY = 86400.0


def pass_lab(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the lab; all of them enter network namespaces."""

    @functools.wraps(command)
    def as_root(lab: Lab, *arguments: Any, **options: Any) -> None:
        if os.geteuid() != 0:
            raise LabError("droplet-lab needs root: it enters network namespaces")
        command(lab, *arguments, **options)

    return click.pass_obj(as_root)


class Seconds(click.FloatRange):
    """A time in seconds: above 0 (or 0 too), and a day at most. Unlike click's range, it rejects NaN."""

    name = "seconds"

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__(0, DAY, min_open=not zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail as click does."""
        number = click.FLOAT.convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return super().convert(number, param, ctx)


topology_argument = click.argument("topology", type=click.Path(exists=True, dir_okay=False, path_type=Path))

timeout_option = click.option(
    "--timeout",
    type=Seconds(),
    default=60.0,
    show_default=True,
    help="Seconds to wait until all hosts have realized all documents; ends early if every remaining one is rejected.",
)

family_option = click.option(
    "-6",
    "family",
    flag_value=6,
    type=int,
    default=None,
    help="Use IPv6. The default is the family of the destination's first address.",
)
