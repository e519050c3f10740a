"""Acknowledgements are stored whatever happens, and requests are answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from lab.bus import Lines, NatsServer, Recorder, client_of, make_streams, running, serving, settings_of, until

from agent.bus import rpc
from agent.bus.ack_publisher import AckPublisher
from agent.bus.bus import Bus
from agent.bus.connection.client import Connection, connect
from agent.bus.connection.tasks import end
from agent.bus.consumer import pull
from agent.bus.outbox import Outbox, PendingAck
from protocol import codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, State


async def ignore(_: Exception) -> None:
    """Take the library's remarks on a connection."""


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(server.url, settings_of(server), name="h1", inbox_prefix="_INBOX", on_error=ignore)
    try:
        yield connection
    finally:
        await connection.close()


def ack(document: str, revision: int) -> Acknowledgement:
    return Acknowledgement(document, revision, State.REALIZED, 1.0, in_force=revision)


async def stored(server: NatsServer) -> dict[str, int]:
    """Return the revision acknowledged of each document."""
    async with client_of(server) as client:
        js = client.jetstream()
        info = await js.stream_info(streams.ACK_STREAM, subjects_filter=streams.ACK_SUBJECTS)
        found = {}
        for subject in info.state.subjects or {}:
            message = await js.get_last_msg(streams.ACK_STREAM, subject)
            found[subjects.parse_ack(subject).document] = codec.decode(message.data or b"", Acknowledgement).revision
        return found


async def test_acknowledgements_are_stored_the_newest_per_document(server: NatsServer) -> None:
    async with client_of(server) as client:
        await make_streams(client)
        async with running(Bus("h1", settings_of(server), Recorder())) as bus:
            for number in range(300):
                bus.acknowledge(ack(f"d{number % 100}", number))
            assert await bus.drain(20)
    assert await stored(server) == {f"d{number}": 200 + number for number in range(100)}


async def test_acknowledgements_given_before_the_server_is_there_are_stored_later(server: NatsServer) -> None:
    async with client_of(server) as client:
        await make_streams(client)
    server.kill()
    lines = Lines()
    async with running(Bus("h1", settings_of(server), Recorder(), lines.report)) as bus:
        bus.acknowledge(ack("a", 1))
        bus.acknowledge(ack("a", 2))
        await until(lambda: lines.standing("bus_disconnected"))
        assert not await bus.drain(0.1)
        assert not bus.connected
        assert not bus.publish(subjects.status("h1"), b"lost")
        server.start()
        assert await bus.drain(20)
    assert await stored(server) == {"a": 2}
    assert lines.began("bus_disconnected") == 1


async def test_the_outbox_survives_a_server_that_is_killed_while_it_sends(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = asyncio.Event()
    take = Outbox.take

    def noticed(outbox: Outbox, now: float) -> list[PendingAck]:
        found = take(outbox, now)
        if found:
            sent.set()
        return found

    monkeypatch.setattr(Outbox, "take", noticed)
    async with client_of(server) as client:
        await make_streams(client)
    async with running(Bus("h1", settings_of(server), Recorder())) as bus:
        await until(lambda: bus.connected)
        for number in range(3000):
            bus.acknowledge(ack(f"d{number}", number + 1))
        async with client_of(server) as client:
            while (await client.jetstream().stream_info(streams.ACK_STREAM)).state.messages == 0:  # noqa: ASYNC110 -- the server tells of no change
                await asyncio.sleep(0.01)
        server.freeze()
        sent.clear()
        for number in range(3000):
            bus.acknowledge(ack(f"d{number}", number + 2))
        await sent.wait()
        server.kill()
        await until(lambda: not bus.connected)
        assert bus.unconfirmed > 0
        server.start()
        assert await bus.drain(60)
    assert await stored(server) == {f"d{number}": number + 2 for number in range(3000)}


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_comes_with_an_acknowledgement_ends_the_publisher(
    server: NatsServer, turns: int
) -> None:
    """However far the loop has got with waking the publisher: a lost cancellation keeps a lost connection's tasks."""
    changed = asyncio.Event()
    changed.set()
    outbox = Outbox()
    outbox.put("a", codec.encode(ack("a", 1)))
    async with client_of(server) as client, connected(server) as connection:
        await client.subscribe(subjects.ack("h1", "a"))  # confirms nothing, so the publisher waits with a timeout
        await client.flush()
        publisher = AckPublisher("h1", connection, outbox, changed, asyncio.Event(), Lines().report)
        running = asyncio.create_task(publisher.run())
        await until(lambda: not changed.is_set())
        changed.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=20)
        await end([running])
    assert done, "the cancellation was lost"


async def test_a_stream_of_acknowledgements_that_is_not_there_yet_is_waited_for(server: NatsServer) -> None:
    lines = Lines()
    async with running(Bus("h1", settings_of(server), Recorder(), lines.report)) as bus:
        bus.acknowledge(ack("a", 1))
        await until(lambda: lines.standing("acknowledgements_not_stored"))
        async with client_of(server) as client:
            await make_streams(client)
        assert await bus.drain(20)
    assert await stored(server) == {"a": 1}


async def test_fire_and_forget_messages_arrive_while_connected(server: NatsServer) -> None:
    async with client_of(server) as client:
        await make_streams(client)
        subscription = await client.subscribe("droplet.v1.*.status")
        await client.flush()
        async with running(Bus("h1", settings_of(server), Recorder())) as bus:
            await until(lambda: bus.connected)
            assert bus.publish(subjects.status("h1"), b"alive")
            message = await subscription.next_msg(timeout=10)
            assert (message.subject, message.data) == ("droplet.v1.h1.status", b"alive")


async def test_requests_are_answered_as_a_nats_micro_service(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(server) as client, running(Bus("h1", settings_of(server), recorder, lines.report)):
        await serving(client, "h1")
        found = json.loads((await client.request("$SRV.PING.droplet", timeout=10)).data)
        assert (found["name"], found["metadata"]) == ("droplet", {"host": "h1"})
        info = json.loads((await client.request("$SRV.INFO.droplet", timeout=10)).data)
        assert {endpoint["subject"] for endpoint in info["endpoints"]} == {
            subjects.rpc("h1", verb) for verb in subjects.RPC_VERBS
        }
        answer = await client.request(subjects.rpc("h1", "plan"), b"x", timeout=10)
        assert answer.data == b"answer to plan x"
        wrong = await client.request(subjects.rpc("h1", "get"), b"wrong", timeout=10)
        assert wrong.headers["Nats-Service-Error-Code"] == "404"
        assert wrong.headers["Nats-Service-Error"] == "no such thing"
        bug = await client.request(subjects.rpc("h1", "get"), b"bug", timeout=10)
        assert bug.headers["Nats-Service-Error-Code"] == "500"
        assert "secret" not in bug.headers["Nats-Service-Error"]
        assert (await client.request(subjects.rpc("h1", "status"), timeout=10)).data == b"answer to status "


async def test_an_unknown_method_is_refused_with_the_known_ones_and_no_known_one_is_lost(server: NatsServer) -> None:
    recorder = Recorder()
    async with client_of(server) as client, running(Bus("h1", settings_of(server), recorder)):
        await serving(client, "h1")
        answer = await client.request(subjects.rpc("h1", "reboot"), b"x", timeout=10)
        assert answer.headers["Nats-Service-Error-Code"] == "404"
        assert answer.headers["Nats-Service-Error"] == (
            f"unknown method 'reboot'; known methods are {', '.join(subjects.RPC_VERBS)}"
        )
        for _ in range(20):
            assert (await client.request(subjects.rpc("h1", "plan"), timeout=10)).data == b"answer to plan "
        assert recorder.asked == [("plan", b"")] * 20


async def test_an_error_is_one_line_of_a_header_whatever_was_asked(server: NatsServer) -> None:
    async with client_of(server) as client, running(Bus("h1", settings_of(server), Recorder())):
        await serving(client, "h1")
        answer = await client.request(subjects.rpc("h1", "get"), b"two lines", timeout=10)
        assert answer.headers["Nats-Service-Error"].startswith("first line X-Second: line aaa")
        assert len(answer.headers["Nats-Service-Error"]) < 2000
        assert "X-Second" not in answer.headers


async def test_a_broken_connection_of_a_former_agent_takes_no_request(server: NatsServer) -> None:
    """The server keeps the connection of a host that lost power for minutes, with subscriptions that do not answer."""

    async def never(verb: str, body: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError(verb, body)

    async with connected(server) as former, connected(server) as present, client_of(server) as client:
        await rpc.serve(former, "h1", never)
        await rpc.serve(present, "h1", Recorder().ask)
        await former.flush()
        await present.flush()
        for _ in range(30):
            reply = await client.request(subjects.rpc("h1", "status"), b"", timeout=5)
            assert "Nats-Service-Error" not in (reply.headers or {})


async def test_a_request_from_a_stream_is_refused(server: NatsServer) -> None:
    recorder = Recorder()
    async with client_of(server) as client, running(Bus("h1", settings_of(server), recorder)):
        await serving(client, "h1")
        headers = {"Nats-Stream": "DROPLET_CONFIG", "Nats-Sequence": "1"}
        answer = await client.request(subjects.rpc("h1", "plan"), b"x", timeout=10, headers=headers)
        assert answer.headers["Nats-Service-Error-Code"] == "403"
        assert recorder.asked == []


async def test_a_request_without_a_reply_subject_is_ignored(server: NatsServer) -> None:
    recorder = Recorder()
    async with client_of(server) as client, running(Bus("h1", settings_of(server), recorder)):
        await serving(client, "h1")
        await client.publish(subjects.rpc("h1", "plan"), b"wrong")
        answer = await client.request(subjects.rpc("h1", "plan"), b"x", timeout=10)
        assert answer.data == b"answer to plan x"


def test_acknowledgements_on_the_wire_are_messagepack_maps() -> None:
    assert msgspec.msgpack.decode(codec.encode(ack("a", 1)))["state"] == "realized"


async def test_the_fault_names_why_a_connection_was_closed(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(server) as client:
        await make_streams(client)
    monkeypatch.setattr(pull, "MAX_SILENCES", 1)
    lines, recorder = Lines(), Recorder()
    async with running(Bus("h1", settings_of(server), recorder, lines.report)):
        await until(lambda: recorder.completed)
        server.freeze()
        await until(lambda: lines.published("began", "bus_disconnected"))
        server.kill()
    began = lines.published("began", "bus_disconnected")[0]
    assert f": the server has said nothing for {2 * pull.SILENCE:g} seconds; " in began
