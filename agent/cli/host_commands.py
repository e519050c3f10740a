"""The commands of dropletctl that ask hosts, what they print, and the one that has a host remove documents."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from agent.cli import tables
from agent.cli.function_tables import plain_traffic, traffic
from agent.cli.hosts import of_all, require_all, run
from agent.cli.options import host_name, host_or_option, output_option, seconds
from agent.cli.output import TABLES, machine
from agent.cli.session import Access, Session
from protocol import rpc
from protocol.documents import KINDS
from protocol.status import Counters, FunctionTraffic, Status


@click.command()
@host_or_option
@output_option
@click.pass_obj
def status(access: Access, host: str | None, output: str) -> None:
    """Show the status of HOST, or of all hosts, and below it each problem with its remedy.

    A host that has documents but does not answer is listed as "no answer".

    \b
    Examples:
      dropletctl status
      dropletctl status --host h1 -o yaml
    """

    async def work(bus: Session) -> None:
        call = await bus.call(host)
        found: dict[str, Status] = await of_all(call.present, bus.status)
        names = [*call.present, *call.absent]
        if output not in TABLES:
            click.echo(machine(msgspec.to_builtins(list(found.values())), output), nl=False)
        elif found or host is None:
            troubled = [name for name, item in found.items() if item.down_droplets]
            since = tables.down_since(await of_all(troubled, bus.peers))
            absent = [name for name in names if name not in found]
            tables.statuses(list(found.values()), absent, output == "wide", since)
        require_all(len(found), len(names))

    run(access, work)


@click.command()
@click.argument("kind", type=click.Choice([*KINDS, "documents"]))
@click.option("--host", callback=host_name, help="Only this host; without it, all hosts.")
@output_option
@click.pass_obj
def get(access: Access, kind: str, host: str | None, output: str) -> None:
    """List the objects of one KIND that are in force on the hosts, or their documents.

    Functions are listed with their counters.

    \b
    Examples:
      dropletctl get endpoints
      dropletctl get networks --host h1 -o json
      dropletctl get documents --host h2
    """

    async def work(bus: Session) -> None:
        async def ask(name: str) -> list[Any]:
            return await (bus.documents(name) if kind == "documents" else bus.objects(name, kind))

        call = await bus.call(host)
        found = await of_all(call.present, ask)
        rows = [(name, item) for name, items in found.items() for item in items]
        counted = await _function_traffic(bus, [name for name, items in found.items() if kind == "functions" and items])
        if output not in TABLES:
            plain = [{"host": name, **tables.without_host(msgspec.to_builtins(item))} for name, item in rows]
            for one in plain if kind == "functions" else ():
                one["counters"] = [
                    plain_traffic(item) for name, item in counted if (name, item.function) == (one["host"], one["id"])
                ]
            click.echo(machine(plain, output), nl=False)
        elif found and kind == "documents":
            tables.acknowledgements(rows, output == "wide")
        elif found:
            tables.objects(kind, rows, output == "wide")
            traffic(counted, output == "wide")
        require_all(len(found), len(call.present) + len(call.absent))

    run(access, work)


async def _function_traffic(bus: Session, hosts: list[str]) -> list[tuple[str, FunctionTraffic]]:
    """Return the counters of all functions on some hosts."""

    async def ask(name: str) -> Counters:
        return await bus.ask(name, "counters", None, Counters)

    found = await of_all(hosts, ask)
    return [(name, item) for name, counters in found.items() for item in counters.functions]


@click.command()
@click.argument("host", callback=host_name)
@click.argument("endpoint")
@click.argument("destination")
@output_option
@click.pass_obj
def path(access: Access, host: str, endpoint: str, destination: str, output: str) -> None:
    """Show the path that a packet from ENDPOINT on HOST to the address DESTINATION would take now.

    The host's agent follows the entries of its maps; no packet is sent.

    \b
    Example:
      dropletctl path h1 web-1 10.0.1.7
    """

    async def work(bus: Session) -> None:
        answer = await bus.ask(host, "path", rpc.PathRequest(endpoint, destination), rpc.PathReply)
        if output not in TABLES:
            question = {"host": host, "endpoint": endpoint, "destination": destination}
            click.echo(machine({**question, **msgspec.to_builtins(answer)}, output), nl=False)
        else:
            click.echo(tables.path_line(endpoint, destination, answer))
        if answer.route == "none":
            raise click.exceptions.Exit(1)

    run(access, work)


@click.command()
@host_or_option
@output_option
@click.pass_obj
def peers(access: Access, host: str | None, output: str) -> None:
    """Show the paths from HOST, or from all hosts, to other droplets, as their probes measured them.

    \b
    Examples:
      dropletctl peers
      dropletctl peers h1 -o json
    """

    async def work(bus: Session) -> None:
        call = await bus.call(host)
        found = await of_all(call.present, bus.peers)
        rows = [(name, item) for name, items in found.items() for item in items]
        if output not in TABLES:
            plain = [{"host": name, **msgspec.to_builtins(item)} for name, item in rows]
            click.echo(machine(plain, output), nl=False)
        elif found:
            tables.peers(rows, output == "wide")
        require_all(len(found), len(call.present) + len(call.absent))

    run(access, work)


@click.command()
@click.argument("host", callback=host_name)
@click.option("--watch", is_flag=True, help="Repeat until interrupted.")
@click.option(
    "--interval", callback=seconds, default=2.0, show_default=True, help="With --watch: seconds between two queries."
)
@output_option
@click.pass_obj
def counters(access: Access, host: str, watch: bool, interval: float, output: str) -> None:
    """Show HOST's packet counters: every outcome that occurred, and each endpoint's traffic.

    \b
    Examples:
      dropletctl counters h1
      dropletctl counters h1 --watch
    """

    async def work(bus: Session) -> None:
        before: Counters | None = None
        while True:
            now = await bus.ask(host, "counters", None, Counters)
            if output not in TABLES:
                click.echo(machine(tables.plain_counters(now), output), nl=False)
            else:
                tables.counters(now, before, watch, output == "wide")
            if not watch:
                return
            before = now
            await asyncio.sleep(interval)

    run(access, work)


@click.command()
@click.argument("host", callback=host_name)
@output_option
@click.pass_obj
def plan(access: Access, host: str, output: str) -> None:
    """Show what HOST's agent would change in the kernel now, one action per line; nothing if it is in sync.

    \b
    Example:
      dropletctl plan h1
    """

    async def work(bus: Session) -> None:
        answer = await bus.ask(host, "plan", None, rpc.PlanReply)
        if output not in TABLES:
            click.echo(machine(msgspec.to_builtins(answer), output), nl=False)
        else:
            click.echo("\n".join(answer.actions) or "nothing to change")

    run(access, work)


@click.command()
@click.argument("host", callback=host_name)
@click.argument("documents", nargs=-1)
@click.option("--objects", is_flag=True, help="Also remove objects of an earlier agent that belong to no document.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def sweep(access: Access, host: str, documents: tuple[str, ...], objects: bool, yes: bool) -> None:
    """Remove documents that HOST keeps although they are no longer in the stream: DOCUMENTS, or all of them.

    This is for documents that `dropletctl status` lists as missing from the stream. A controller removes documents by
    messages instead.

    \b
    Examples:
      dropletctl sweep h1
      dropletctl sweep h1 tenant-7.endpoints --yes
    """

    async def work(bus: Session) -> None:
        names = documents or tuple(one.document for one in await bus.documents(host) if one.absent)
        if not names and not objects:
            click.echo(f"nothing to remove: every document of {host} is in the stream")
            return
        if names:
            click.echo("\n".join(names))
        what = [f"{tables.counted(len(names), 'document')} and every object listed there"] if names else []
        what += ["every object that belongs to no document"] if objects else []
        if not yes and not click.confirm(f"Remove {' and '.join(what)} from {host}?", err=True):
            raise click.Abort
        answer = await bus.ask(host, "sweep", rpc.SweepRequest(names, objects), rpc.SweepReply)
        click.echo(f"{tables.counted(len(answer.documents), 'document')} removed")

    run(access, work)
