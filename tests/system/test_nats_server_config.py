"""The generated configuration on a real nats-server: who gets in, who may do what, and what survives."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
from lab.bus import until
from lab.waiting import PATIENCE
from nats.aio.client import Client

from controller_sim.control.bus import Access, BusError, connected, ensure_consumers, ensure_streams, read_stream
from controller_sim.control.convergence import watching
from controller_sim.control.publisher import Change, publish, publish_difference
from controller_sim.lab import nats_server
from controller_sim.lab.nats_server import CONTROLLER, OPERATOR, ServerFiles
from protocol import codec, permissions, streams, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Document, Droplet

HOSTS = ["h1", "h2"]
ONE = Document(droplets=(Droplet("h1", "h1", "172.18.0.11"),))
TWO = Document(droplets=(Droplet("h2", "h2", "172.18.0.12"),))


@dataclass
class Server:
    files: ServerFiles
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            nats_server.command(self.files), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        pytest.fail("nats-server does not listen")

    def end(self, *, kill: bool = False) -> None:
        assert self.process is not None
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(10)

    def access(self, user: str) -> Access:
        return Access(f"tls://127.0.0.1:{self.port}", self.files.seed(user), self.files.authority)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ServerFiles(tmp_path / "nats")
    nats_server.configure(files, ("127.0.0.1",), port, HOSTS)
    running = Server(files, port)
    running.start()
    yield running
    running.end()


@asynccontextmanager
async def as_user(server: Server, user: str, inbox: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """Connect as a user; the list gathers what the server complains about."""
    complaints: list[str] = []

    async def complain(error: Exception) -> None:
        complaints.append(str(error))

    client = await nats.connect(
        server.access(user).server,
        tls=ssl.create_default_context(cafile=str(server.files.authority)),
        tls_handshake_first=True,
        nkeys_seed=str(server.files.seed(user)),
        inbox_prefix=inbox,
        error_cb=complain,
        allow_reconnect=False,
    )
    try:
        yield client, complaints
    finally:
        await client.close()


async def prepared(client: Client) -> None:
    await ensure_streams(client)
    await ensure_consumers(client, HOSTS)


def test_keys_are_readable_by_their_owner_alone(server):
    for user in (*HOSTS, CONTROLLER, OPERATOR):
        assert stat.S_IMODE(server.files.seed(user).stat().st_mode) == 0o600
    assert stat.S_IMODE(server.files.certificate.stat().st_mode) == 0o600


def test_keys_and_certificates_are_kept_when_it_is_configured_again(server):
    before = server.files.seed("h1").read_bytes(), server.files.authority.read_bytes()
    nats_server.configure(server.files, ("127.0.0.1",), server.port, [*HOSTS, "h3"])
    assert before == (server.files.seed("h1").read_bytes(), server.files.authority.read_bytes())
    assert server.files.seed("h3").exists()


async def test_an_unknown_user_is_refused(server, tmp_path):
    seed = tmp_path / "stranger.nk"
    nats_server.write_private(seed, nats_server.make_seed())
    with pytest.raises(BusError, match=r"(?i)authorization"):
        async with connected(Access(server.access("h1").server, seed, server.files.authority)):
            pass


async def test_a_server_with_another_authority_is_refused(server, tmp_path):
    other = ServerFiles(tmp_path / "other")
    nats_server.configure(other, ("127.0.0.1",), 1, HOSTS)
    with pytest.raises(BusError, match=r"(?i)certificate"):
        async with connected(Access(server.access(CONTROLLER).server, server.files.seed(CONTROLLER), other.authority)):
            pass


def test_clear_text_gets_no_answer(server):
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain:
        assert plain.recv(1) == b"", "it waits for TLS until it closes the connection"


async def test_a_host_pulls_its_own_documents_and_nothing_else(server):
    async with connected(server.access(CONTROLLER)) as controller:
        await prepared(controller)
        await publish_difference(controller, {"h1": {"underlay": ONE}, "h2": {"underlay": TWO}})
    async with as_user(server, "h1", permissions.inbox("h1")) as (client, complaints):
        inbox = client.new_inbox()
        pulled = await client.subscribe(inbox)
        await client.publish(streams.next_subject("h1"), b'{"batch":1,"expires":1000000000}', reply=inbox)
        answer = await pulled.next_msg(10)
        assert answer.subject == subjects.config("h1", "underlay")
        assert codec.decode_document(answer.data) == ONE
        assert not complaints
        await client.publish(streams.next_subject("h2"), b"1", reply=client.new_inbox())
        await until(lambda: complaints)


@pytest.mark.parametrize(
    "subject",
    [
        subjects.config("h1", "underlay"),
        subjects.ack("h2", "underlay"),
        subjects.status("h2"),
        f"$JS.API.CONSUMER.CREATE.{streams.CONFIG_STREAM}",
        f"$JS.API.CONSUMER.CREATE.{streams.CONFIG_STREAM}.mine",
        f"$JS.API.STREAM.PURGE.{streams.CONFIG_STREAM}",
        f"$JS.API.STREAM.DELETE.{streams.CONFIG_STREAM}",
        f"$JS.API.DIRECT.GET.{streams.CONFIG_STREAM}",
        f"$JS.ACK.{streams.CONFIG_STREAM}.h2.1.1.1.1.1",
        subjects.rpc("h2", "status"),
    ],
)
async def test_a_host_may_not_publish(server, subject):
    async with connected(server.access(CONTROLLER)) as controller:
        await prepared(controller)
    async with as_user(server, "h1", permissions.inbox("h1")) as (client, complaints):
        await client.publish(subject, b"{}")
        await until(lambda: complaints)


@pytest.mark.parametrize(
    "subject", ["droplet.>", "droplet.v1.h2.rpc.*", "_INBOX_host_h2.>", "_INBOX_controller.>", ">"]
)
async def test_a_host_may_not_listen_to(server, subject):
    async with as_user(server, "h1", permissions.inbox("h1")) as (client, complaints):
        await client.subscribe(subject)
        await until(lambda: complaints)


async def test_an_operator_reads_acknowledgements_but_publishes_no_document(server):
    async with connected(server.access(CONTROLLER)) as controller:
        await prepared(controller)
    async with as_user(server, "h1", permissions.inbox("h1")) as (client, _):
        answer = Acknowledgement("underlay", 1, State.REALIZED, 1.0)
        await client.publish(subjects.ack("h1", "underlay"), codec.encode(answer))
        await client.flush()
    async with as_user(server, OPERATOR, permissions.OPERATOR_INBOX) as (client, complaints):
        assert [s.subject for s in await read_stream(client, streams.ACK_STREAM, streams.ACK_SUBJECTS)] == [
            subjects.ack("h1", "underlay")
        ]
        assert not complaints
        await client.publish(subjects.config("h1", "underlay"), b"x")
        await until(lambda: complaints)


async def test_only_the_difference_is_published_and_a_removal_is_a_marker(server):
    async with connected(server.access(CONTROLLER)) as client:
        await prepared(client)
        first = await publish_difference(client, {"h1": {"a": ONE, "b": TWO}, "h2": {"a": ONE}})
        assert [p.revision for p in first] == [1, 2, 3]
        assert await publish_difference(client, {"h1": {"a": ONE, "b": TWO}, "h2": {"a": ONE}}) == []
        second = await publish_difference(client, {"h1": {"a": TWO}})
        assert [(p.document, p.removed) for p in second] == [("b", True), ("a", False)]
        stored = await read_stream(client, streams.CONFIG_STREAM, subjects.config_of("h1"))
        assert [(s.subject.rpartition(".")[2], streams.is_delete(s.headers, s.body)) for s in stored] == [
            ("b", True),
            ("a", False),
        ]
        assert await publish_difference(client, {"h1": {"a": TWO}}) == []


async def test_streams_and_consumers_can_be_ensured_again_and_keep_what_they_hold(server):
    async with connected(server.access(CONTROLLER)) as client:
        await prepared(client)
        await publish_difference(client, {"h1": {"a": ONE}})
        await prepared(client)
        assert len(await read_stream(client, streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS)) == 1


async def test_a_stream_of_many_pages_is_read_whole_and_in_order(server):
    async with connected(server.access(CONTROLLER)) as client:
        await prepared(client)
        changes = [Change("h1", f"d.{n}", codec.encode(ONE)) for n in range(2500)]
        published = await publish(client, changes)
        assert len({p.revision for p in published}) == 2500
        stored = await read_stream(client, streams.CONFIG_STREAM, subjects.config_of("h1"))
        assert [s.subject for s in stored] == [subjects.config("h1", f"d.{n}") for n in range(2500)]


async def test_a_document_that_is_too_large_for_the_server_is_an_error_that_names_it(server):
    async with connected(server.access(CONTROLLER)) as client:
        await prepared(client)
        large = bytes(nats_server.MAX_PAYLOAD + 1)
        with pytest.raises(BusError, match="h1 large"):
            await publish(client, [Change("h1", "small", b"x"), Change("h1", "large", large)])


async def test_publishing_without_a_stream_is_an_error(server):
    async with connected(server.access(CONTROLLER)) as client:
        with pytest.raises(BusError, match="h1 a"):
            await publish(client, [Change("h1", "a", b"x")])


async def test_a_killed_server_has_everything_that_it_confirmed(server):
    async with connected(server.access(CONTROLLER)) as client:
        await prepared(client)
        published = await publish(client, [Change("h1", f"d{n}", codec.encode(ONE)) for n in range(100)])
    server.end(kill=True)
    server.start()
    async with connected(server.access(CONTROLLER)) as client:
        stored = await read_stream(client, streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS)
        assert [s.sequence for s in stored] == [p.revision for p in published]


async def test_a_watcher_converges_whether_acknowledgements_arrive_before_or_after_its_start(server):
    async with connected(server.access(CONTROLLER)) as controller:
        await prepared(controller)
        published = await publish_difference(controller, {"h1": {"a": ONE, "b": TWO}})
        async with as_user(server, "h1", permissions.inbox("h1")) as (host, complaints):
            await host.publish(
                subjects.ack("h1", "a"),
                codec.encode(Acknowledgement("a", published[0].revision, State.REALIZED, 1.0)),
            )
            await host.flush()
            async with watching(controller) as watcher:
                await watcher.expect_stored()
                assert not watcher.tracker.converged
                assert not await watcher.wait(0.05)
                await host.publish(
                    subjects.ack("h1", "b"),
                    codec.encode(Acknowledgement("b", published[1].revision, State.REALIZED, 1.0)),
                )
                assert await watcher.wait(20)
            assert not complaints


async def test_invalid_acknowledgements_do_not_disturb_a_watcher(server):
    async with connected(server.access(CONTROLLER)) as controller:
        await prepared(controller)
        async with watching(controller) as watcher, as_user(server, "h1", permissions.inbox("h1")) as (host, _):
            for noise in (b"", b"\xc1", b"\x93", codec.encode({"document": 7})):
                await host.publish(subjects.ack("h1", "a"), noise)
            await host.publish(subjects.ack("h1", "b"), codec.encode(Acknowledgement("b", 1, State.REJECTED, 1.0)))
            await host.flush()
            await until(lambda: watcher.tracker.acks)
            assert list(watcher.tracker.acks) == [("h1", "b")], "which was published last"
