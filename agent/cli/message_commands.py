"""The commands of dropletctl that show messages of the hosts: acknowledgements and events."""

from __future__ import annotations

import json
import time

import click
import msgspec

from agent.cli import tables
from agent.cli.hosts import run
from agent.cli.options import host_name, output_option
from agent.cli.output import TABLES, machine
from agent.cli.session import Access, RequestFailed, Session, read_acknowledgement
from protocol import codec, subjects
from protocol.errors import DocumentError
from protocol.status import Event


@click.command()
@click.option("--watch", is_flag=True, help="Then print new acknowledgements as they arrive, until interrupted.")
@click.option("--host", callback=host_name, help="Only this host.")
@click.option("--document", help="Only this document.")
@click.option("--count", type=click.IntRange(1), help="With --watch: exit after this many new acknowledgements.")
@output_option
@click.pass_obj
def acks(access: Access, watch: bool, host: str | None, document: str | None, count: int | None, output: str) -> None:
    """Show the newest acknowledgement of each document.

    They are read from the stream, so those of hosts that are down are shown, too.

    \b
    Examples:
      dropletctl acks --host h1
      dropletctl acks --watch --document tenant-7.endpoints
      dropletctl acks -o json | jq '.[] | select(.state == "failed")'
    """
    if count is not None and not watch:
        raise click.UsageError("--count needs --watch: without it, every stored acknowledgement is shown")
    if document is not None and not subjects.is_document(document):
        raise click.UsageError(f"{document!r} is not a document name: use one to eight words with dots between them")
    wanted = subjects.ack(host or "*", document or ">")

    async def work(bus: Session) -> None:
        coming = await bus.watch(wanted) if watch else None
        found = await bus.stored_acknowledgements(wanted)
        if not found and not watch and (host or document):
            raise RequestFailed(f"no acknowledgement of {' for '.join(filter(None, (host, document)))} in the stream")
        if output in TABLES:
            tables.acknowledgements(found, output == "wide")
        elif not watch:
            plain = [{"host": name, **msgspec.to_builtins(item)} for name, item in found]
            click.echo(machine(plain, output), nl=False)
        left = count
        while coming is not None and left != 0:
            subject, body = await anext(coming)
            known = read_acknowledgement(subject, body)
            if known is None:
                continue
            if output in TABLES:
                click.echo(tables.acknowledgement_line(*known))
            else:
                click.echo(json.dumps({"host": known[0], **msgspec.to_builtins(known[1])}))
            left = None if left is None else left - 1

    run(access, work)


@click.command()
@click.option("--host", callback=host_name, help="Only this host.")
@click.option("--count", type=click.IntRange(1), help="Exit after this many events.")
@output_option
@click.pass_obj
def events(access: Access, host: str | None, count: int | None, output: str) -> None:
    """Show events of the hosts as they happen, until interrupted.

    \b
    Example:
      dropletctl events --host h1 -o json
    """

    async def work(bus: Session) -> None:
        left = count
        coming = await bus.watch(subjects.event(host or "*", ">"))
        while left != 0:
            _, body = await anext(coming)
            try:
                event = codec.decode(body, Event)
            except DocumentError:
                continue
            if output in TABLES:
                at = time.strftime("%H:%M:%S", time.localtime(event.at))
                click.echo(f"{at}  {event.host}  {event.kind}  {'; '.join(event.detail)}")
            else:
                click.echo(json.dumps(msgspec.to_builtins(event)))
            left = None if left is None else left - 1

    run(access, work)
