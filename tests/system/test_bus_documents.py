"""Documents reach the handler, whatever happens to the server, the connection or the handler."""

from __future__ import annotations

import asyncio

from lab.bus import (
    Lines,
    NatsServer,
    Recorder,
    all_acknowledged,
    client_of,
    make_consumer,
    make_streams,
    publish_many,
    remove,
    running,
    settings_of,
    until,
)

from agent.bus.bus import Bus
from protocol import streams


def make_bus(server: NatsServer, recorder: Recorder, lines: Lines) -> Bus:
    return Bus("h1", settings_of(server), recorder, lines.report)


async def test_a_snapshot_of_thousands_is_replayed_in_order_and_only_newest(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {f"d{i}": b"old" for i in range(3000)})
        await publish_many(client, "h1", {f"d{i}": b"new%d" % i for i in range(3000)})
        async with running(make_bus(server, recorder, lines)):
            await until(lambda: recorder.completed == 1)
            assert recorder.at_complete == [3000]
            assert recorder.documents == {f"d{i}": b"new%d" % i for i in range(3000)}
            revisions = [delivery.revision for delivery in recorder.deliveries]
            assert revisions == sorted(set(revisions))
            assert max(recorder.batches) > 1
            await remove(client, "h1", "d7")
            await publish_many(client, "h1", {"d8": b""})
            await until(lambda: recorder.documents.get("d8") == b"")
            assert "d7" not in recorder.documents
            assert recorder.begun == 1


async def test_no_documents_at_all_is_a_complete_snapshot(server: NatsServer) -> None:
    recorder = Recorder()
    async with client_of(server) as client:
        await make_streams(client)
        async with running(make_bus(server, recorder, Lines())):
            await until(lambda: recorder.completed == 1)
            assert (recorder.begun, recorder.deliveries) == (1, [])


async def test_a_restarted_agent_gets_the_snapshot_again_though_all_was_acknowledged(server: NatsServer) -> None:
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {"a": b"1", "b.c": b"2"})
        for _ in range(2):
            recorder = Recorder()
            async with running(make_bus(server, recorder, Lines())):
                await until(lambda recorder=recorder: recorder.completed == 1)
                assert recorder.documents == {"a": b"1", "b.c": b"2"}


async def test_a_missing_consumer_is_awaited_and_reported_once(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(server) as client, running(make_bus(server, recorder, lines)):
        await until(lambda: lines.standing("consumer_missing"))
        assert "stream not found" in lines.standing("consumer_missing").detail
        await make_streams(client, hosts=())
        await publish_many(client, "h1", {"a": b"1"})
        await make_consumer(client, "h1")
        await until(lambda: recorder.completed == 1)
        assert recorder.documents == {"a": b"1"}
        assert lines.began("consumer_missing") == 1
        await until(lambda: not lines.faults.standing())


async def test_a_killed_server_that_comes_back_loses_and_repeats_nothing(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {f"d{i}": b"1" for i in range(2000)})
        async with running(make_bus(server, recorder, lines)) as bus:
            for turn in range(2):
                await until(lambda: recorder.deliveries)
                server.kill()
                await until(lambda: not bus.connected)
                server.start()
                async with client_of(server) as fresh:
                    await publish_many(fresh, "h1", {"late": b"%d" % turn})
                await until(lambda turn=turn: recorder.documents.get("late") == b"%d" % turn)
            assert len(recorder.documents) == 2001
            pairs = [(delivery.document, delivery.revision) for delivery in recorder.deliveries]
            assert len(pairs) == len(set(pairs))
            assert (recorder.begun, recorder.completed) == (1, 1)


async def test_documents_that_the_handler_could_not_take_come_again_in_order(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    recorder.fail_next = 2
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {f"d{i}": b"1" for i in range(500)})
        async with running(make_bus(server, recorder, lines)):
            await until(lambda: recorder.completed == 1)
            assert [delivery.document for delivery in recorder.deliveries] == [f"d{i}" for i in range(500)]
            assert any("the handler is unwell" in text for text in lines.texts())


async def test_a_redelivered_message_is_not_delivered_twice(server: NatsServer) -> None:
    """The handler takes longer than the consumer waits, so the server sends the message again."""
    recorder = Recorder()
    async with client_of(server) as client:

        async def sent() -> int:
            return (await client.jetstream().consumer_info(streams.CONFIG_STREAM, "h1")).delivered.consumer_seq

        async def slowly(batch: object) -> None:
            recorder.deliver = fast  # type: ignore[method-assign]
            while await sent() < 2:  # noqa: ASYNC110 -- the server sends no event
                await asyncio.sleep(0.05)
            await fast(batch)  # type: ignore[arg-type]

        fast, recorder.deliver = recorder.deliver, slowly  # type: ignore[method-assign]
        await make_streams(client)
        await publish_many(client, "h1", {"a": b"1"})
        async with running(make_bus(server, recorder, Lines())):
            await until(lambda: recorder.completed == 1)
            await publish_many(client, "h1", {"b": b"1"})
            await until(lambda: "b" in recorder.documents)
            assert await sent() >= 3
            assert [delivery.document for delivery in recorder.deliveries] == ["a", "b"]


async def test_a_subject_that_names_no_document_is_logged_and_never_comes_again(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(server) as client:
        await make_streams(client)
        await client.jetstream().publish("droplet.v1.h1.config.NOT-A-NAME", b"x")
        await publish_many(client, "h1", {"a": b"\xff" * 100})
        async with running(make_bus(server, recorder, lines)):
            await until(lambda: recorder.completed == 1)
            assert recorder.documents == {"a": b"\xff" * 100}
            assert any("NOT-A-NAME" in text for text in lines.texts())
            await all_acknowledged(client, "h1")


async def test_a_recreated_stream_is_a_new_snapshot(server: NatsServer) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {f"d{i}": b"1" for i in range(20)})
        async with running(make_bus(server, recorder, lines)):
            await until(lambda: recorder.completed == 1)
            await client.jetstream().delete_stream(streams.CONFIG_STREAM)
            await client.jetstream().delete_stream(streams.ACK_STREAM)
            await make_streams(client)
            await publish_many(client, "h1", {"d3": b"again"})
            await until(lambda: recorder.documents["d3"] == b"again")
            await until(lambda: (recorder.begun, recorder.completed) == (2, 2))


async def test_a_delivery_under_way_when_the_connection_is_lost_is_finished_once(server: NatsServer) -> None:
    recorder = Recorder()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slowly(batch: object) -> None:
        entered.set()
        await leave.wait()
        await fast(batch)  # type: ignore[arg-type]

    fast, recorder.deliver = recorder.deliver, slowly  # type: ignore[method-assign]
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {"a": b"1"})
    async with running(make_bus(server, recorder, Lines())) as bus:
        await entered.wait()
        server.kill()
        await until(lambda: not bus.connected)
        server.start()
        assert recorder.deliveries == []
        leave.set()
        await until(lambda: recorder.completed == 1)
        assert [delivery.document for delivery in recorder.deliveries] == ["a"]
        assert recorder.begun == 1


async def test_a_handler_that_fails_at_the_end_of_the_snapshot_is_called_again(server: NatsServer) -> None:
    recorder = Recorder()
    begin, complete, reset_reason = recorder.begin_snapshot, recorder.snapshot_complete, [1, 1]

    async def failing_begin() -> None:
        if reset_reason[0]:
            reset_reason[0] -= 1
            raise RuntimeError("cannot begin")
        await begin()

    async def failing_complete() -> None:
        if reset_reason[1]:
            reset_reason[1] -= 1
            raise RuntimeError("cannot complete")
        await complete()

    recorder.begin_snapshot = failing_begin  # type: ignore[method-assign]
    recorder.snapshot_complete = failing_complete  # type: ignore[method-assign]
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", {"a": b"1"})
        async with running(make_bus(server, recorder, Lines())):
            await until(lambda: recorder.completed == 1)
            assert (recorder.begun, recorder.documents) == (1, {"a": b"1"})
