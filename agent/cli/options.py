"""Options and arguments that several commands of dropletctl take, and their checks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from agent.cli.output import FORMATS
from protocol import subjects

F = TypeVar("F", bound=Callable[..., Any])

LONGEST = 86_400
"""The most seconds that an option accepts: a day."""


def output_option(function: F) -> F:
    """Add the option `-o`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Output format; wide prints every column and wraps no cell.",
    )(function)


def host_name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Check a host's name."""
    if value is not None and not subjects.is_host(value):
        raise click.BadParameter(f"{value!r} is not a host name: use lower-case letters, digits and dashes")
    return value


def host_or_option(function: F) -> F:
    """Accept one host as an argument or as `--host`, as the commands that list things do; otherwise all hosts."""

    @functools.wraps(function)
    def with_one(*arguments: Any, host: str | None, host_option: str | None, **options: Any) -> Any:
        if host and host_option and host != host_option:
            raise click.UsageError(f"two hosts are given, {host} and --host {host_option}: give one of them")
        return function(*arguments, host=host or host_option, **options)

    argument = click.argument("host", required=False, callback=host_name)
    option = click.option("--host", "host_option", callback=host_name, help="Only this host, as the argument HOST.")
    return cast(F, argument(option(with_one)))


def seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Check a number of seconds."""
    if not 0 < value <= LONGEST:
        raise click.BadParameter(f"{value:g} seconds: give more than 0 and at most {LONGEST}")
    return value
