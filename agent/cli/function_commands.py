"""dropletctl function: looks into one function's maps and programs, and replaces its configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
import msgspec

from agent.cli import function_tables, tables
from agent.cli.documents import DocumentStream
from agent.cli.hosts import run
from agent.cli.options import host_name, output_option
from agent.cli.output import TABLES, machine
from agent.cli.permission_errors import PermissionDenied
from agent.cli.session import Access, RequestFailed, Session
from protocol import codec, rpc
from protocol.acknowledgements import State
from protocol.codec import decode_document
from protocol.documents import MAX_CONFIGURATION
from protocol.errors import DocumentError
from protocol.permissions import CONTROLLER_INBOX
from protocol.rpc import FunctionLogReply, FunctionLogRequest, FunctionMapEntry, FunctionMapsReply, FunctionMapsRequest

T = TypeVar("T")

host_option = click.option("--host", callback=host_name, help="Only this host; without it, all that have the function.")


class Named(NamedTuple):
    """How to reach the bus, and the function's id."""

    access: Access
    id: str


@click.group()
@click.argument("name")
@click.pass_context
def function(context: click.Context, name: str) -> None:
    """Look into function NAME: its maps, its programs, its configuration.

    \b
    Examples:
      dropletctl get functions                     all functions, with packets by verdict
      dropletctl function web-filter maps          what the function has in its maps
      dropletctl function web-filter log           why a new program was refused
      dropletctl function web-filter replace --host h1 --hex 01bb
    """
    context.obj = Named(context.obj, name)


@function.command()
@click.argument("map_name", metavar="[MAP]", required=False, default="")
@host_option
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Entries of each map to show."
)
@output_option
@click.pass_obj
def maps(named: Named, map_name: str, host: str | None, limit: int, output: str) -> None:
    """Show the entries of the function's own maps: of MAP, or of all.

    Fields have the names that the program's source gives them. In arrays, entries of zeros are left out.

    \b
    Examples:
      dropletctl function web-filter maps
      dropletctl function web-filter maps ports --host h1 -o json
    """

    async def work(bus: Session) -> None:
        async def ask(name: str) -> list[tuple[rpc.FunctionMap, list[FunctionMapEntry], bool]]:
            return await _read_maps(bus, name, named.id, map_name, limit)

        found = await _where_it_is(bus, named.id, host, ask)
        if output not in TABLES:
            plain = [
                {
                    "host": name,
                    **msgspec.to_builtins(one),
                    "entries": msgspec.to_builtins(entries),
                    "more": more,
                }
                for name, listed in found.items()
                for one, entries, more in listed
            ]
            click.echo(machine(plain, output), nl=False)
            return
        for name, listed in found.items():
            for one, entries, more in listed:
                function_tables.function_map(name, one, entries, more, output == "wide")
            if not listed:
                click.echo(f"{name}: function {named.id} has no maps")

    run(named.access, work)


async def _read_maps(
    bus: Session, host: str, id_: str, wanted: str, limit: int
) -> list[tuple[rpc.FunctionMap, list[FunctionMapEntry], bool]]:
    """Return a function's maps, or one, with the first entries and whether there are more."""
    listed = await bus.ask(host, "function_maps", FunctionMapsRequest(id_, wanted, limit=1), FunctionMapsReply)
    found = []
    for one in listed.maps:
        if wanted in ("", one.name):
            entries, more = await _read_entries(bus, host, FunctionMapsRequest(id_, one.name), limit)
            found.append((one, entries, more))
    return found


async def _read_entries(
    bus: Session, host: str, request: FunctionMapsRequest, limit: int
) -> tuple[list[FunctionMapEntry], bool]:
    found: list[FunctionMapEntry] = []
    while True:
        asked = msgspec.structs.replace(request, limit=min(limit - len(found), rpc.MAX_PAGE))
        page = await bus.ask(host, "function_maps", asked, FunctionMapsReply)
        found += page.entries
        if not page.next or len(found) >= limit:
            return found, bool(page.next)
        request = msgspec.structs.replace(request, after=page.next)


@function.command()
@host_option
@output_option
@click.pass_obj
def log(named: Named, host: str | None, output: str) -> None:
    """Show what is installed of the function, and all that was said of a refused program.

    The acknowledgement of a document has the summary; this is the whole output of the compiler or the verifier.

    \b
    Examples:
      dropletctl function web-filter log
      dropletctl function web-filter log --host h1 -o json | jq -r '.[].refused'
    """

    async def work(bus: Session) -> None:
        async def ask(name: str) -> FunctionLogReply:
            return await bus.ask(name, "function_log", FunctionLogRequest(named.id), FunctionLogReply)

        found = await _where_it_is(bus, named.id, host, ask)
        if output in TABLES:
            function_tables.logs(found)
        else:
            plain = [{"host": name, **msgspec.to_builtins(item)} for name, item in found.items()]
            click.echo(machine(plain, output), nl=False)

    run(named.access, work)


@function.command()
@click.option("--host", callback=host_name, required=True, help="The host whose document is published again.")
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take a file's bytes."
)
@click.option("--hex", "digits", help="Take bytes in hexadecimal digits; spaces are ignored.")
@click.option("--text", help="Take a text's bytes in UTF-8.")
@click.pass_obj
def replace(named: Named, host: str, path: Path | None, digits: str | None, text: str | None) -> None:
    """Replace the function's configuration on one host, while its program runs.

    The configuration belongs to the document that lists the function. So this reads that document from the stream,
    publishes it again with the new bytes, unless someone else published it meanwhile, and waits for the host's
    acknowledgement. It needs credentials that may publish documents: the controller's nkey, not an operator's. A
    controller that later publishes the document from its own records puts the old configuration back: change it there,
    too.

    \b
    Examples:
      dropletctl function web-filter replace --host h1 --hex "01bb 0050"
      dropletctl --nkey-seed-file controller.nk function web-filter replace --host h1 --file ports.bin
    """
    configuration = _bytes_of(path, digits, text)

    async def work(bus: Session) -> None:
        question = FunctionLogRequest(named.id)
        document = (await bus.ask(host, "function_log", question, FunctionLogReply)).document
        await _replace(DocumentStream(bus, named.access), host, document, named.id, configuration)

    try:
        run(named.access, work, CONTROLLER_INBOX)
    except PermissionDenied as error:
        raise PermissionDenied(
            f"{error.message.partition(';')[0]}; a function's configuration is a part of its document, which only the "
            "controller's nkey may publish: give it with dropletctl --nkey-seed-file FILE, or change the document at "
            "the controller"
        ) from None


def _bytes_of(path: Path | None, digits: str | None, text: str | None) -> bytes:
    if sum(one is not None for one in (path, digits, text)) != 1:
        raise click.UsageError("give the new configuration with one of --file, --hex and --text")
    if path is not None:
        found = path.read_bytes()
    elif digits is not None:
        try:
            found = bytes.fromhex(digits)
        except ValueError:
            raise click.BadParameter(
                f"{digits!r} is not pairs of hexadecimal digits, as in 01bb", param_hint="--hex"
            ) from None
    else:
        found = (text or "").encode()
    if len(found) > MAX_CONFIGURATION:
        raise click.UsageError(f"{len(found)} bytes; a configuration has at most {MAX_CONFIGURATION}")
    return found


async def _replace(stream: DocumentStream, host: str, name: str, id_: str, configuration: bytes) -> None:
    """Publish a document with another configuration of one of its functions, and print how that ended."""
    stored = await stream.read(host, name)
    try:
        document = decode_document(stored.body)
    except DocumentError as error:
        raise RequestFailed(f"document {name} of {host} is invalid or of a newer version: {error}") from None
    before = next((one for one in document.functions if one.id == id_), None)
    if before is None:
        raise RequestFailed(f"the newest revision of document {name} of {host} has no function {id_} any more")
    if before.configuration == configuration:
        click.echo(f"nothing to change: revision {stored.revision} of document {name} has this configuration")
        return
    changed = msgspec.structs.replace(before, configuration=configuration)
    functions = tuple(changed if one is before else one for one in document.functions)
    body = codec.encode(msgspec.structs.replace(document, functions=functions))
    if len(body) > codec.MAX_BODY:
        raise RequestFailed(f"document {name} would have {len(body)} bytes; a document has at most {codec.MAX_BODY}")
    answer = await stream.publish_and_wait(host, name, body, stored)
    why = tables.why(answer)
    click.echo(f"{host} document {name} revision {answer.revision}: {answer.state}{f': {why}' if why else ''}")
    if answer.state is not State.REALIZED:
        raise click.exceptions.Exit(1)


async def _where_it_is(bus: Session, id_: str, host: str | None, ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """Return the answers of the hosts that have a function; RequestFailed if there is none, or if one fails."""
    call = await bus.call(host)
    answers = await asyncio.gather(*(ask(name) for name in call.present), return_exceptions=True)
    found: dict[str, T] = {}
    missing: list[RequestFailed] = []
    for name, answer in zip(call.present, answers, strict=True):
        if isinstance(answer, RequestFailed) and answer.code == 404:
            missing.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[name] = answer
    if not found and len(missing) == 1:
        raise missing[0]
    if not found:
        raise RequestFailed(f"no host that answers has function {id_}; dropletctl get functions lists all")
    return found
