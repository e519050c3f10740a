"""What the agent relies on of nats-py's private members, asked of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from lab.bus import NatsServer, free_port, until

from agent.bus.connection.client import Connection, connect, publish_command
from agent.bus.connection.nats_internals import queue_commands, subscription_id, subscription_of, unsent_bytes
from agent.bus.connection.settings import BusSettings

Message = tuple[bytes, bytes, bytes, bytes | None]


async def ignore(_: Exception) -> None:
    """Take the library's remarks on connections that the tests break."""


async def dial(url: str) -> Connection:
    return await connect(url, BusSettings((url,)), name="contract", inbox_prefix="_INBOX", on_error=ignore)


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Connection]:
    connection = await dial(server.url)
    try:
        yield connection
    finally:
        await connection.close()


class Inbox:
    """Takes raw messages, and remembers which task was running when each came."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.tasks: set[object] = set()

    def __call__(self, subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> None:
        self.messages.append((subject, reply, body, headers))
        self.tasks.add(asyncio.current_task())


async def test_a_function_gets_messages_raw_and_in_order_from_the_reading_task(server: NatsServer) -> None:
    async with connected(server) as connection:
        inbox = Inbox()
        await connection.receive("raw.*", inbox)
        await connection.publish("raw.plain", b"body")
        await connection.publish("raw.reply", b"", reply="back")
        await connection.publish("raw.headers", b"x\r\ny", headers={"A": "b"})
        for number in range(500):
            await connection.publish("raw.many", b"%d" % number)
        await until(lambda: len(inbox.messages) == 503)
        plain, reply, headers, *many = inbox.messages
        assert plain[:3] == (b"raw.plain", b"", b"body")
        assert not plain[3]
        assert reply[:3] == (b"raw.reply", b"back", b"")
        assert headers == (b"raw.headers", b"", b"x\r\ny", b"NATS/1.0\r\nA: b\r\n\r\n")
        assert [body for _, _, body, _ in many] == [b"%d" % number for number in range(500)]
        assert inbox.tasks == {connection._reading_task}


async def test_subscriptions_and_requests_of_the_library_work_beside_it(server: NatsServer) -> None:
    async with connected(server) as connection:
        inbox = Inbox()
        await connection.receive("both", inbox)
        subscription = await connection.subscribe("both")
        await connection.publish("both", b"1", headers={"A": "b"})
        message = await subscription.next_msg(timeout=20)
        assert (message.data, message.headers) == (b"1", {"A": "b"})
        await until(lambda: len(inbox.messages) == 1)
        await connection.receive(
            "question", lambda *one: connection.post([publish_command(one[1], b"answer")]) and None
        )
        assert (await connection.request("question", b"", timeout=20)).data == b"answer"


async def test_a_released_subscription_brings_nothing_more_and_is_forgotten(server: NatsServer) -> None:
    async with connected(server) as connection:
        first, second = Inbox(), Inbox()
        sid = await connection.receive("here", first)
        other = await connection.receive("here", second)
        assert sid != other
        assert subscription_of(connection, sid) is not None
        await connection.release(sid)
        assert subscription_of(connection, sid) is None
        await connection.publish("here", b"1")
        await until(lambda: len(second.messages) == 1)
        assert first.messages == []


async def test_a_subscription_is_found_by_its_number_until_the_client_is_closed(server: NatsServer) -> None:
    connection = await dial(server.url)
    subscription = await connection.subscribe("here")
    sid = subscription_id(connection, subscription)
    assert subscription_of(connection, sid) is subscription
    await connection.close()
    assert subscription_of(connection, sid) is None


async def test_queued_commands_are_counted_and_written_in_order_without_being_awaited(server: NatsServer) -> None:
    async with connected(server) as connection:
        inbox = Inbox()
        await connection.receive("queued", inbox)
        await connection.flush()
        command = publish_command(b"queued", b"1")
        queue_commands(connection, command)
        queue_commands(connection, publish_command(b"queued", b"2"))
        assert unsent_bytes(connection) == 2 * len(command)
        assert inbox.messages == [], "nothing is written before this task waits"
        await until(lambda: len(inbox.messages) == 2)
        assert [body for _, _, body, _ in inbox.messages] == [b"1", b"2"]
        assert unsent_bytes(connection) == 0


async def test_commands_that_were_queued_last_are_sent_before_the_connection_is_closed(server: NatsServer) -> None:
    async with connected(server) as reader:
        inbox = Inbox()
        await reader.receive("last", inbox)
        await reader.flush()
        connection = await dial(server.url)
        assert connection.post([publish_command(b"last", b"words")])
        await connection.close()
        assert not connection.post([publish_command(b"last", b"too late")])
        await until(lambda: len(inbox.messages) == 1)


async def test_a_server_that_dies_ends_the_reading_task_and_the_connection_is_lost(server: NatsServer) -> None:
    async with connected(server) as connection:
        assert not connection.lost.is_set()
        server.kill()
        await asyncio.wait_for(connection.lost.wait(), 60)
        assert not connection.post([publish_command(b"any", b"")])


@pytest.mark.parametrize("task", ["_reading_task", "_flusher_task"])
async def test_a_connection_is_lost_when_either_of_its_tasks_ends(server: NatsServer, task: str) -> None:
    async with connected(server) as connection:
        getattr(connection, task).cancel()
        await asyncio.wait_for(connection.lost.wait(), 60)
        assert connection.is_connected, "the library does not notice by itself: that is why both tasks are watched"


async def test_an_unreachable_server_is_tried_once_and_the_reason_is_given() -> None:
    errors: list[Exception] = []

    async def remember(error: Exception) -> None:
        errors.append(error)

    url = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionRefusedError):
        await connect(url, BusSettings((url,)), name="contract", inbox_prefix="_INBOX", on_error=remember)
    assert [type(error) for error in errors] == [ConnectionRefusedError]
