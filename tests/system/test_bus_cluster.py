"""Streams that three servers keep: one of them dies while documents are published, and none is lost or swept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from lab.bus import Lines, NatsServer, Recorder, make_cluster, make_streams, running, until
from lab.waiting import PATIENCE
from nats.aio.client import Client
from nats.errors import Error as NatsError

from agent.bus.bus import Bus
from agent.bus.connection.settings import BusSettings
from protocol import binding, codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, State

DOCUMENTS = 200


class AcknowledgingRecorder(Recorder):
    """A host that acknowledges each document as soon as it has it."""

    bus: Bus

    async def deliver(self, batch):
        await super().deliver(batch)
        for one in batch:
            self.bus.acknowledge(Acknowledgement(one.document, one.revision, State.REALIZED, 1.0, one.revision))


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[dict[str, NatsServer], Client]]:
    """Run three servers with JetStream and streams of three replicas, and connect to whichever is there."""
    servers = make_cluster(folder)
    for server in servers.values():
        server.start()
    client = await nats.connect([server.url for server in servers.values()], max_reconnect_attempts=-1)
    try:
        await persistently(lambda: make_streams(client, replicas=3))
        yield servers, client
    finally:
        await client.close()
        for server in servers.values():
            server.kill()


async def persistently(action):
    """Do something until the cluster takes it: while it elects a leader, it answers nothing or an error."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return await action()
        except (NatsError, TimeoutError):
            await asyncio.sleep(0.1)
    raise AssertionError("the cluster never took it")


async def publish(client: Client, document: str, body: bytes) -> int:
    """Publish a document as a controller does: again, when it cannot know whether it was stored."""
    subject, js = subjects.config("h1", document), client.jetstream(timeout=2)
    stored = await persistently(lambda: js.publish(subject, body, headers=binding.bound(subject)))
    return stored.seq


async def leader(client: Client) -> str:
    """Return the name of the server that leads h1's consumer."""
    info = await persistently(lambda: client.jetstream().consumer_info(streams.CONFIG_STREAM, "h1"))
    return info.cluster.leader


@pytest.mark.parametrize("own", [True, False], ids=["the agent's own server", "another server than the agent's"])
async def test_no_document_is_lost_or_swept_when_the_consumers_leader_dies(tmp_path: Path, own: bool) -> None:
    async with cluster(tmp_path) as (servers, client):
        before = {f"old{number}": b"1" for number in range(20)}
        for name, body in before.items():
            await publish(client, name, body)
        victim = await leader(client)
        order = sorted(servers, key=lambda name: (name == victim) is not own)
        handler, lines = AcknowledgingRecorder(), Lines()
        settings = BusSettings(tuple(servers[name].url for name in order))
        handler.bus = bus = Bus("h1", settings, handler, lines.report)
        async with running(bus):
            await until(lambda: handler.completed == 1)
            wanted = dict(before)
            for number in range(DOCUMENTS):
                if number == DOCUMENTS // 4:
                    servers[victim].kill()
                wanted[f"d{number}"] = b"%d" % number
                last = await publish(client, f"d{number}", wanted[f"d{number}"])
            await until(lambda: handler.documents == wanted, 60)
            await until(lambda: not handler.reading and not lines.faults.standing(), 60)
            assert max(one.revision for one in handler.deliveries) == last
            assert all(one.body is not None for one in handler.deliveries), "nothing was removed"
            assert set(handler.at_complete) <= {len(before), len(wanted)}
            assert await bus.drain(60)
        stored = await persistently(lambda: newest(client))
        assert stored == {one.document: one.revision for one in handler.deliveries}


async def newest(client: Client) -> dict[str, int]:
    """Return the acknowledged revision of each document, as the surviving servers have it."""
    found = {}
    js = client.jetstream()
    info = await js.stream_info(streams.ACK_STREAM, subjects_filter=streams.ACK_SUBJECTS)
    for subject in info.state.subjects or {}:
        message = await js.get_last_msg(streams.ACK_STREAM, subject)
        found[subjects.parse_ack(subject).document] = codec.decode(message.data or b"", Acknowledgement).revision
    return found
