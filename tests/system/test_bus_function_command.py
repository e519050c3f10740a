"""dropletctl function replace on a real server: what it publishes, and what keeps it from publishing."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner, Result
from lab.bus import NatsServer, Recorder, client_of, make_streams, running, serving, settings_of
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.bus.bus import Bus
from agent.bus.rpc import RpcError
from agent.cli.documents import DocumentStream
from agent.cli.main import main
from agent.cli.session import Access, RequestFailed, session
from protocol import binding, codec, rpc, streams, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.codec import decode_document
from protocol.documents import Document, Function, FunctionProgram, Vpc
from protocol.errors import ErrorCode, FieldError

DOCUMENT = "functions.web"
SUBJECT = subjects.config("h1", DOCUMENT)
VPC = Vpc("red", 1001, ("10.0.0.0/16",), ())
OTHER = Function("other", "passed", FunctionProgram(file="other.o"), configuration=b"its own")
WEB = Function("web", "from_endpoint", FunctionProgram(source="int x;"), vpc="red", configuration=b"old")
WHOLE = Document(vpcs=(VPC,), functions=(OTHER, WEB))


class Answering(Recorder):
    """A host that says which document has the function."""

    async def ask(self, verb: str, body: bytes) -> bytes:
        assert verb == "function_log"
        if codec.decode(body, rpc.FunctionLogRequest).function != "web":
            raise RpcError(404, "there is no function 'none' on this host")
        return codec.encode(rpc.FunctionLogReply(DOCUMENT, 1, "from_endpoint"))


async def put(client: Client, document: Document) -> int:
    return (await client.jetstream().publish(SUBJECT, codec.encode(document), headers=binding.bound(SUBJECT))).seq


async def acknowledge(client: Client, *states: State) -> None:
    """Acknowledge each revision that comes from now on, as its host would: pending while the program is checked."""

    async def answer(message: Msg) -> None:
        newest = await client.jetstream().get_last_msg(streams.CONFIG_STREAM, SUBJECT)
        while newest.data != message.data:  # subscribers may get a message before the stream has it
            await asyncio.sleep(0.01)
            newest = await client.jetstream().get_last_msg(streams.CONFIG_STREAM, SUBJECT)
        for state in states:
            checked = FieldError("functions[0].program.source", ErrorCode.UNCHECKED, "it is being checked")
            errors = (checked,) if state is State.PENDING else ()
            found = Acknowledgement(DOCUMENT, newest.seq, state, 1.0, in_force=newest.seq, errors=errors)
            await client.publish(subjects.ack("h1", DOCUMENT), codec.encode(found))

    await client.subscribe(SUBJECT, cb=answer)
    await client.flush()


async def replace(server: NatsServer, *words: str, name: str = "web", patience: str = "10") -> Result:
    arguments = ["--server", server.url, "--timeout", patience, "function", name, "replace", "--host", "h1", *words]
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


@pytest.mark.parametrize(
    ("states", "said", "code"),
    [
        ((State.PENDING, State.REALIZED), "realized\n", 0),
        ((State.PENDING,), "pending: functions[0].program.source: it is being checked\n", 1),
    ],
)
async def test_a_replacement_waits_until_the_program_was_checked(
    server: NatsServer, states: tuple[State, ...], said: str, code: int
) -> None:
    async with client_of(server) as client, running(Bus("h1", settings_of(server), Answering())):
        await make_streams(client)
        await serving(client, "h1")
        revision = await put(client, WHOLE)
        await acknowledge(client, *states)
        done = await replace(server, "--hex", "01 bb")
        assert (done.output, done.exit_code) == (f"h1 document {DOCUMENT} revision {revision + 1}: {said}", code)


async def test_only_the_configuration_of_one_function_changes(server: NatsServer) -> None:
    async with client_of(server) as client, running(Bus("h1", settings_of(server), Answering())):
        await make_streams(client)
        await serving(client, "h1")
        revision = await put(client, WHOLE)
        await acknowledge(client, State.REALIZED)
        done = await replace(server, "--hex", "01 bb")
        assert (done.exit_code, done.output) == (0, f"h1 document {DOCUMENT} revision {revision + 1}: realized\n")
        newest = await client.jetstream().get_last_msg(streams.CONFIG_STREAM, SUBJECT)
        assert newest.headers[binding.SUBJECT] == SUBJECT
        found = decode_document(newest.data)
        assert (found.vpcs, found.functions[0]) == (WHOLE.vpcs, OTHER)
        assert found.functions[1].configuration == b"\x01\xbb"
        assert (found.functions[1].program, found.functions[1].vpc) == (WEB.program, "red")
        again = await replace(server, "--hex", "01bb")
        assert (again.exit_code, again.output.startswith("nothing to change: revision")) == (0, True)


async def test_what_is_not_realized_ends_with_exit_code_1(server: NatsServer) -> None:
    async with client_of(server) as client, running(Bus("h1", settings_of(server), Answering())):
        await make_streams(client)
        await serving(client, "h1")
        await put(client, WHOLE)
        silent = await replace(server, "--text", "a", patience="2")
        assert (silent.exit_code, "h1 did not acknowledge it within 2 seconds" in silent.output) == (1, True)
        await acknowledge(client, State.FAILED)
        failed = await replace(server, "--text", "b")
        assert (failed.exit_code, ": failed" in failed.output) == (1, True)


async def test_without_the_function_or_its_document_nothing_is_published(server: NatsServer) -> None:
    async with client_of(server) as client, running(Bus("h1", settings_of(server), Answering())):
        await make_streams(client)
        await serving(client, "h1")
        unknown = await replace(server, "--text", "a", name="none")
        assert (unknown.exit_code, "there is no function 'none'" in unknown.output) == (1, True)
        absent = await replace(server, "--text", "a")
        assert (absent.exit_code, "holds no document functions.web of h1" in absent.output) == (1, True)
        revision = await put(client, Document(functions=(OTHER,)))
        gone = await replace(server, "--text", "a")
        assert (gone.exit_code, "has no function web any more" in gone.output) == (1, True)
        newest = await client.jetstream().get_last_msg(streams.CONFIG_STREAM, SUBJECT)
        assert newest.seq == revision


async def test_a_document_that_another_client_published_meanwhile_is_not_overwritten(server: NatsServer) -> None:
    access = Access(settings_of(server))
    async with client_of(server) as client, session(access) as bus:
        await make_streams(client)
        await put(client, WHOLE)
        stream = DocumentStream(bus, access)
        read = await stream.read("h1", DOCUMENT)
        newest = await put(client, Document(functions=(OTHER,)))
        with pytest.raises(RequestFailed, match="just published by another client"):
            await stream.publish("h1", DOCUMENT, read.body, read)
        assert (await stream.read("h1", DOCUMENT)).revision == newest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "with one of --file, --hex and --text"),
        (["--hex", "01", "--text", "a"], "with one of --file, --hex and --text"),
        (["--hex", "0g"], "is not pairs of hexadecimal digits"),
        (["--text", "x" * 4097], "4097 bytes; a configuration has at most 4096"),
        (["--file", "/nonexistent"], "does not exist"),
    ],
)
async def test_wrong_bytes_are_wrong_usage_before_anything_is_sent(
    server: NatsServer, words: list[str], said: str
) -> None:
    done = await replace(server, *words)
    assert (done.exit_code, said in done.output) == (2, True)
