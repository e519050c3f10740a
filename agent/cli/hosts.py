"""Asks one host or all of them, and reports those that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click

from agent.cli.session import Access, RequestFailed, Session, session
from protocol import permissions

T = TypeVar("T")


def run(
    access: Access, work: Callable[[Session], Coroutine[Any, Any, None]], inbox: str = permissions.OPERATOR_INBOX
) -> None:
    """Run a command on a connection to the bus, until it ends or is interrupted. `inbox`: see `session`."""

    async def connected() -> None:
        async with session(access, inbox) as bus:
            await work(bus)

    try:
        asyncio.run(connected())
    except KeyboardInterrupt:
        raise SystemExit(0) from None


async def of_all(names: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """Return the hosts' answers; for each host without one, print the reason to standard error."""
    answers = await asyncio.gather(*(ask(name) for name in names), return_exceptions=True)
    found: dict[str, T] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, RequestFailed):
            click.echo(f"Error: {answer.format_message()}", err=True)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[name] = answer
    return found


def require_all(answered: int, asked: int) -> None:
    """Fail unless all hosts answered; with several hosts, print how many did."""
    if answered < asked:
        if asked > 1:
            click.echo(f"{answered} of {asked} hosts answered", err=True)
        raise click.exceptions.Exit(1)
