"""Consumers that a host cannot use, or that do not exist: a fault that names the reason, and nothing is removed."""

from __future__ import annotations

import json

import pytest
from lab.bus import (
    NatsServer,
    make_consumer,
    make_streams,
    publish_many,
    until,
)
from lab.bus_hosts import (
    SIX,
    check,
    consumer_config,
    host_in_sync,
    host_of,
    replace_consumer,
    six_documents,
)
from nats.js.api import DeliverPolicy, ReplayPolicy

from protocol import streams, subjects

BROKEN = {
    "last_per_subject": (consumer_config(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT), "deliver_policy"),
    "new": (consumer_config(deliver_policy=DeliverPolicy.NEW), "deliver_policy"),
    "headers_only": (consumer_config(headers_only=True), "headers_only"),
    "another host's filter": (consumer_config(filter_subject=subjects.config_of("h2")), "its filter is"),
    "no filter": (consumer_config(filter_subject=None), "its filter is"),
    "a part of the filter": (consumer_config(filter_subject=subjects.config("h1", "d1")), "its filter is"),
    "original replay": (consumer_config(replay_policy=ReplayPolicy.ORIGINAL), "replay_policy"),
    "push": (consumer_config(deliver_subject="somewhere.else"), "deliver_subject"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_an_unusable_consumer_is_reported_and_every_revision_is_validated_again(
    server: NatsServer, kind: str
) -> None:
    config, reason = BROKEN[kind]
    async with host_in_sync(server) as (client, host):
        await replace_consumer(client, config)
        await until(lambda: host.kinds == {"consumer_unusable"})
        fault = host.lines.standing("consumer_unusable")
        assert fault is not None
        assert reason in fault.detail
        found = await check(server)
        assert not found.ok
        assert reason in found.detail
        assert len(host.recorder.deliveries) == 6, "nothing came of it"
        await replace_consumer(client, consumer_config(max_ack_pending=4096))
        await until(lambda: host.recorder.completed == 2)
        assert [delivery.revision for delivery in host.recorder.deliveries[6:]] == [1, 2, 3, 4, 5, 6]
        assert host.recorder.documents == SIX
        await until(lambda: not host.kinds)


@pytest.mark.parametrize("change", [{"headers_only": True}, {"filter_subject": subjects.config_of("h2")}])
async def test_a_consumer_that_is_changed_in_place_is_noticed(
    server: NatsServer, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_POLL", "LONGEST_POLL", "IDLE_POLL"):
        monkeypatch.setattr(f"agent.bus.consumer.polling.{name}", 1.0)
    usual = {"ack_wait": 2, "max_ack_pending": 4096}
    async with host_in_sync(server) as (client, host):
        await client.jetstream().add_consumer(streams.CONFIG_STREAM, consumer_config(**usual, **change))
        await publish_many(client, "h1", {"d1": b"2"})
        await until(lambda: host.kinds == {"consumer_unusable"})
        assert host.recorder.documents == SIX
        await client.jetstream().add_consumer(streams.CONFIG_STREAM, consumer_config(**usual))
        await until(lambda: host.recorder.documents["d1"] == b"2")
        await until(lambda: not host.kinds)


async def test_a_consumer_that_refuses_requests_of_this_size_is_unusable(server: NatsServer) -> None:
    async with six_documents(server) as client:
        await client.jetstream().delete_consumer(streams.CONFIG_STREAM, "h1")
        config = {
            "durable_name": "h1",
            "filter_subject": subjects.config_of("h1"),
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "max_batch": 10,
        }
        body = json.dumps({"stream_name": streams.CONFIG_STREAM, "config": config}).encode()
        subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{streams.CONFIG_STREAM}.h1"
        assert "error" not in json.loads((await client.request(subject, body, timeout=10)).data)
        async with host_of(server) as host:
            await until(lambda: host.kinds == {"consumer_unusable"})
            fault = host.lines.standing("consumer_unusable")
            assert fault is not None
            assert "Exceeded MaxRequestBatch of 10" in fault.detail
            assert host.recorder.completed == 0
            await replace_consumer(client, consumer_config(max_ack_pending=4096))
            await until(lambda: host.recorder.completed == 1)
            await until(lambda: not host.kinds)


@pytest.mark.parametrize("stream", [False, True], ids=["consumer", "stream"])
async def test_a_deleted_consumer_or_stream_removes_nothing_and_is_named(server: NatsServer, stream: bool) -> None:
    async with host_in_sync(server) as (client, host):
        if stream:
            await client.jetstream().delete_stream(streams.CONFIG_STREAM)
            await client.jetstream().delete_stream(streams.ACK_STREAM)
        else:
            await client.jetstream().delete_consumer(streams.CONFIG_STREAM, "h1")
        await until(lambda: "consumer_missing" in host.kinds)
        fault = host.lines.standing("consumer_missing")
        assert fault is not None
        assert fault.detail == ("stream not found" if stream else "consumer not found")
        assert not (await check(server)).ok
        assert fault.detail in (await check(server)).detail
        if stream:
            await make_streams(client)
        else:
            await make_consumer(client, "h1")
        await until(lambda: host.recorder.completed == 2)
        await until(lambda: not host.kinds)
        assert len(host.recorder.deliveries) == (6 if stream else 12)
        assert host.recorder.documents == SIX
