"""dropletctl: the commands, their options and what they print."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from agent import __version__
from agent.bus.settings import BusSettings
from agent.cli import tables
from agent.cli.configuration import Configuration, read_configuration
from agent.cli.output import FORMATS, TABLES, machine
from agent.cli.session import Access, NotAnswered, Session, read_acknowledgement, session
from protocol import codec, rpc, subjects
from protocol.documents import KINDS
from protocol.errors import DocumentError
from protocol.status import Counters, Event, Status

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_SERVER = "nats://127.0.0.1:4222"
LONGEST = 86_400
"""The most seconds that an option accepts: a day."""


def _output(function: F) -> F:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Output format; wide prints every column and wraps no cell.",
    )(function)


def _run(access: Access, work: Callable[[Session], Coroutine[Any, Any, None]]) -> None:
    async def connected() -> None:
        async with session(access) as bus:
            await work(bus)

    try:
        asyncio.run(connected())
    except KeyboardInterrupt:
        raise SystemExit(0) from None


async def _of_all(names: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """Return the hosts' answers; for each host without one, print the reason to standard error."""
    answers = await asyncio.gather(*(ask(name) for name in names), return_exceptions=True)
    found: dict[str, T] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, NotAnswered):
            click.echo(f"Error: {answer.format_message()}", err=True)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[name] = answer
    return found


def _count(answered: int, asked: int) -> None:
    """Fail unless all hosts answered; with several hosts, print how many did."""
    if answered < asked:
        if asked > 1:
            click.echo(f"{answered} of {asked} hosts answered", err=True)
        raise click.exceptions.Exit(1)


def _host(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not subjects.is_host(value):
        raise click.BadParameter(f"{value!r} is not a host name: use lower-case letters, digits and dashes")
    return value


def _host_or_option(function: F) -> F:
    """Accept one host as an argument or as `--host`, as the commands that list things do; otherwise all hosts."""

    @functools.wraps(function)
    def with_one(*arguments: Any, host: str | None, host_option: str | None, **options: Any) -> Any:
        if host and host_option and host != host_option:
            raise click.UsageError(f"two hosts are given, {host} and --host {host_option}: give one of them")
        return function(*arguments, host=host or host_option, **options)

    argument = click.argument("host", required=False, callback=_host)
    option = click.option("--host", "host_option", callback=_host, help="Only this host, as the argument HOST.")
    return cast(F, argument(option(with_one)))


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= LONGEST:
        raise click.BadParameter(f"{value:g} seconds: give more than 0 and at most {LONGEST}")
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DROPLETCTL"})
@click.version_option(__version__, prog_name="dropletctl")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file with netns and [bus]; the settings of an agent can be used, too.",
)
@click.option(
    "--server",
    multiple=True,
    help=f"URL of a NATS server, tls:// or nats://; may be repeated.  [default: {DEFAULT_SERVER}]",
)
@click.option("--nkey-seed-file", type=click.Path(), help="File with the nkey seed to authenticate with.")
@click.option("--tls-ca-file", type=click.Path(), help="File with the CA certificate that verifies the server.")
@click.option("--netns", help="Connect from this network namespace: a name under /run/netns, or a path.")
@click.option(
    "--wait",
    callback=_seconds,
    default=1.0,
    show_default=True,
    help="Seconds to wait for hosts to answer a ping.",
)
@click.option(
    "--timeout",
    callback=_seconds,
    default=5.0,
    show_default=True,
    help="Seconds to wait for the reply of a host.",
)
@click.pass_context
def main(
    context: click.Context,
    config: Path | None,
    server: tuple[str, ...],
    nkey_seed_file: str | None,
    tls_ca_file: str | None,
    netns: str | None,
    wait: float,
    timeout: float,
) -> None:
    """Query the hosts of a droplet network over NATS, from any machine.

    \b
    Examples:
      dropletctl --config ctl.toml status    with the server, seed and CA of a file
      dropletctl status                      every host that answers
      dropletctl status h1 -o json           one host, as JSON
      dropletctl get endpoints --host h1     the endpoints in force on a host
      dropletctl acks --watch                acknowledgements as they arrive
      dropletctl path h1 web-1 10.0.1.7      the path that a packet would take
      droplet-lab ctl -- status              in a lab, with the lab's own file

    Every option can come from the environment: DROPLETCTL_CONFIG, DROPLETCTL_SERVER, DROPLETCTL_TLS_CA_FILE and so on.

    \b
    Exit codes: 0 success; 1 a host did not answer, or an object does not exist;
    2 wrong usage; 3 the bus cannot be reached, or the server refused the request.
    """
    known = read_configuration(config) if config else Configuration()
    servers = server or known.servers
    try:
        settings = BusSettings(
            servers=servers or (DEFAULT_SERVER,),
            nkey_seed_file=nkey_seed_file or known.nkey_seed_file or None,
            tls_ca_file=tls_ca_file or known.tls_ca_file or None,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    hint = "" if servers else "; give --server or --config"
    context.obj = Access(settings, netns or known.netns or None, wait, timeout, hint)


@main.command()
@_host_or_option
@_output
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
        found: dict[str, Status] = await _of_all(call.present, bus.status)
        names = [*call.present, *call.absent]
        if output not in TABLES:
            click.echo(machine(msgspec.to_builtins(list(found.values())), output), nl=False)
        elif found or host is None:
            tables.statuses(list(found.values()), [name for name in names if name not in found], output == "wide")
        _count(len(found), len(names))

    _run(access, work)


@main.command()
@click.argument("kind", type=click.Choice([*KINDS, "documents"]))
@click.option("--host", callback=_host, help="Only this host; without it, all hosts that answer.")
@_output
@click.pass_obj
def get(access: Access, kind: str, host: str | None, output: str) -> None:
    """List the objects of one KIND that are in force on the hosts, or their documents.

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
        found = await _of_all(call.present, ask)
        rows = [(name, item) for name, items in found.items() for item in items]
        if output not in TABLES:
            plain = [{"host": name, **tables.without_host(msgspec.to_builtins(item))} for name, item in rows]
            click.echo(machine(plain, output), nl=False)
        elif found and kind == "documents":
            tables.acknowledgements(rows, output == "wide")
        elif found:
            tables.objects(kind, rows, output == "wide")
        _count(len(found), len(call.present) + len(call.absent))

    _run(access, work)


@main.command()
@click.option("--watch", is_flag=True, help="Then print new acknowledgements as they arrive, until interrupted.")
@click.option("--host", callback=_host, help="Only this host.")
@click.option("--document", help="Only this document.")
@click.option("--count", type=click.IntRange(1), help="With --watch: exit after this many new acknowledgements.")
@_output
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
            raise NotAnswered(f"no acknowledgement of {' for '.join(filter(None, (host, document)))} in the stream")
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

    _run(access, work)


@main.command()
@click.argument("host", callback=_host)
@click.argument("endpoint")
@click.argument("destination")
@_output
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
        if answer.way == "none":
            raise click.exceptions.Exit(1)

    _run(access, work)


@main.command()
@_host_or_option
@_output
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
        found = await _of_all(call.present, bus.peers)
        rows = [(name, item) for name, items in found.items() for item in items]
        if output not in TABLES:
            plain = [{"host": name, **msgspec.to_builtins(item)} for name, item in rows]
            click.echo(machine(plain, output), nl=False)
        elif found:
            tables.peers(rows, output == "wide")
        _count(len(found), len(call.present) + len(call.absent))

    _run(access, work)


@main.command()
@click.argument("host", callback=_host)
@click.option("--watch", is_flag=True, help="Repeat until interrupted.")
@click.option(
    "--interval", callback=_seconds, default=2.0, show_default=True, help="With --watch: seconds between two queries."
)
@_output
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

    _run(access, work)


@main.command()
@click.argument("host", callback=_host)
@_output
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

    _run(access, work)


@main.command()
@click.argument("host", callback=_host)
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

    _run(access, work)


@main.command()
@click.option("--host", callback=_host, help="Only this host.")
@click.option("--count", type=click.IntRange(1), help="Exit after this many events.")
@_output
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

    _run(access, work)


if __name__ == "__main__":
    main()
