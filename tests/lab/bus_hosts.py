"""One agent's end of the bus beside a real server, and what others do to its consumer and its stream."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from agent.bus.bus import Bus
from agent.bus.check import BusCheck, check_servers
from lab.bus import (
    Lines,
    NatsServer,
    Recorder,
    User,
    client_of,
    make_streams,
    publish_many,
    running,
    settings_of,
    until,
)
from protocol import streams, subjects

NEVER = b'{"pause_until":"2099-01-01T00:00:00Z"}'
SIX = {f"d{number}": b"1" for number in range(6)}
PURGE_BY_SUBJECT = f"$JS.API.STREAM.PURGE.{streams.CONFIG_STREAM}"


class Host:
    """One agent's end of the bus, with what it was given and what it reported."""

    def __init__(self, server: NatsServer, user: User | None = None, boot: str = "") -> None:
        self.recorder, self.lines = Recorder(), Lines()
        self.bus = Bus("h1", settings_of(server, user), self.recorder, self.lines.report, boot)

    @property
    def kinds(self) -> set[str]:
        return {fault.kind for fault in self.lines.faults.standing()}


@contextlib.asynccontextmanager
async def host_of(server: NatsServer, user: User | None = None, boot: str = "") -> AsyncIterator[Host]:
    host = Host(server, user, boot)
    async with running(host.bus):
        yield host


@contextlib.asynccontextmanager
async def six_documents(server: NatsServer) -> AsyncIterator[Client]:
    """Have streams, h1's consumer and six documents of h1, for the time of a controller's connection."""
    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", SIX)
        yield client


@contextlib.asynccontextmanager
async def host_in_sync(server: NatsServer) -> AsyncIterator[tuple[Client, Host]]:
    """Have a host that has got six documents, and the controller's connection."""
    async with six_documents(server) as client, host_of(server) as host:
        await until(lambda: host.recorder.completed == 1)
        yield client, host


async def pause(client: Client, body: bytes = NEVER) -> None:
    answer = await client.request(f"$JS.API.CONSUMER.PAUSE.{streams.CONFIG_STREAM}.h1", body, timeout=10)
    assert "error" not in json.loads(answer.data)


async def heartbeats(client: Client) -> list[Msg]:
    """Return a list to which every heartbeat is added that the server sends to anybody from now on."""
    heard: list[Msg] = []

    async def keep(message: Msg) -> None:
        if (message.headers or {}).get("Description") == "Idle Heartbeat":
            heard.append(message)

    await client.subscribe(">", cb=keep)
    return heard


async def purge(client: Client, document: str | None) -> None:
    """Delete messages without a word to anybody: one document's, or all."""
    wanted = {"filter": subjects.config("h1", document)} if document else {}
    answer = await client.request(PURGE_BY_SUBJECT, json.dumps(wanted).encode(), timeout=10)
    assert json.loads(answer.data)["success"]


async def replace_consumer(client: Client, config: ConsumerConfig) -> None:
    await client.jetstream().delete_consumer(streams.CONFIG_STREAM, "h1")
    await client.jetstream().add_consumer(streams.CONFIG_STREAM, config)


def consumer_config(**changes: object) -> ConsumerConfig:
    return ConsumerConfig(**{"durable_name": "h1", "filter_subject": subjects.config_of("h1"), **changes})


async def check(server: NatsServer, user: User | None = None) -> BusCheck:
    return (await check_servers("h1", settings_of(server, user)))[0]
