"""What a real server does to a host's documents: paused, shared, restored and purged consumers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.bus import (
    NatsServer,
    Recorder,
    User,
    client_of,
    make_streams,
    make_user,
    publish_many,
    running,
    settings_of,
    until,
    user_block,
)
from lab.bus_hosts import (
    SIX,
    check,
    heartbeats,
    host_in_sync,
    host_of,
    pause,
    purge,
    six_documents,
)
from lab.waiting import PATIENCE
from nats.aio.client import Client

from agent.bus.bus import Bus
from agent.bus.consumer.snapshot import ConsumerConflicts
from protocol import codec, permissions, streams, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.status import AgentState, DocumentCounts, ObjectCounts, Status


async def test_a_paused_consumer_keeps_the_snapshot_incomplete_and_reports_pending_messages(server: NatsServer) -> None:
    async with six_documents(server) as client:
        await pause(client)
        async with host_of(server) as host:
            await until(lambda: host.lines.standing("snapshot_incomplete"))
            fault = host.lines.standing("snapshot_incomplete")
            assert fault is not None
            assert "6 documents are pending and not delivered" in fault.detail
            assert "paused until 2099" in fault.detail
            assert fault.subject == "DROPLET_CONFIG/h1"
            found = await check(server)
            assert not found.ok
            assert "6 documents are pending and not delivered: the consumer is paused" in found.detail
            beats = await heartbeats(client)
            await until(lambda: len(beats) > 2)
            assert (host.recorder.begun, host.recorder.completed, host.recorder.deliveries) == (1, 0, [])
            await pause(client, b"{}")
            await until(lambda: host.recorder.completed == 1)
            assert host.recorder.documents == SIX
            await until(lambda: not host.kinds)
            assert (await check(server)).ok


async def test_a_consumer_that_is_paused_later_is_noticed_without_any_message(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_POLL", "LONGEST_POLL", "IDLE_POLL"):
        monkeypatch.setattr(f"agent.bus.consumer.polling.{name}", 1.0)
    async with host_in_sync(server) as (client, host):
        await pause(client)
        await until(lambda: host.kinds == {"consumer_paused"})
        await publish_many(client, "h1", {"late": b"1"})
        await until(lambda: host.kinds == {"documents_waiting"})
        fault = host.lines.standing("documents_waiting")
        assert fault is not None
        assert "1 document is pending and not delivered" in fault.detail
        await pause(client, b"{}")
        await until(lambda: host.recorder.documents.get("late") == b"1")
        await until(lambda: not host.kinds)
        assert (host.recorder.begun, host.recorder.completed) == (1, 1)


async def test_a_pause_and_its_end_are_noticed_when_the_server_tells_of_them(
    guarded: NatsServer, users: dict[str, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked for by itself, and the host's own permissions are enough."""
    for name in ("FIRST_POLL", "LONGEST_POLL", "IDLE_POLL"):
        monkeypatch.setattr(f"agent.bus.consumer.polling.{name}", 86_400.0)
    async with client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as client:
        await make_streams(client, ["h1", "h2"])
        async with host_of(guarded, users["h1"]) as host:
            await until(lambda: host.recorder.completed == 1)
            await pause(client)
            await until(lambda: host.kinds == {"consumer_paused"})
            await pause(client, b"{}")
            await until(lambda: not host.kinds)
            assert host.lines.began("permission_violation") == 0


async def test_a_host_that_may_not_hear_of_pauses_asks_by_itself_and_has_no_fault_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_POLL", "LONGEST_POLL", "IDLE_POLL"):
        monkeypatch.setattr(f"agent.bus.consumer.polling.{name}", 1.0)
    server = NatsServer(tmp_path)
    controller, host_user = make_user(tmp_path, "controller"), make_user(tmp_path, "h1")
    allowed = permissions.of_host("h1")
    left = tuple(one for one in allowed.subscribe if one != streams.pause_subject("h1"))
    less = permissions.Permissions(allowed.publish, left)
    server.users = [user_block(controller, permissions.of_controller()), user_block(host_user, less)]
    server.start()
    try:
        async with client_of(server, controller, permissions.CONTROLLER_INBOX) as client:
            await make_streams(client)
            async with host_of(server, host_user) as host:
                await until(lambda: any(one["event"] == "pause_advisories_not_permitted" for one in host.lines.lines))
                await until(lambda: host.recorder.completed == 1)
                await pause(client)
                await until(lambda: host.kinds == {"consumer_paused"})
                await pause(client, b"{}")
                await until(lambda: not host.kinds)
                assert host.lines.began("permission_violation") == 0
    finally:
        server.stop()


class ResetByAnother(Recorder):
    """A host whose consumer another agent of its name resets, once, before this one pulls for the first time."""

    def __init__(self, client: Client, sequence: int) -> None:
        super().__init__()
        self._client, self._sequence = client, sequence

    async def begin_snapshot(self) -> None:
        await super().begin_snapshot()
        if self.begun == 1:
            body = json.dumps({"seq": self._sequence}).encode()
            answer = await self._client.request(streams.reset_subject("h1"), body, timeout=10)
            assert "error" not in json.loads(answer.data)


async def test_a_snapshot_is_not_complete_when_another_agent_resets_the_consumer_before_the_first_delivery(
    server: NatsServer,
) -> None:
    async with client_of(server) as client:
        await make_streams(client)
        last = await publish_many(client, "h1", SIX)
        recorder = ResetByAnother(client, last - 1)
        async with running(Bus("h1", settings_of(server), recorder)):
            await until(lambda: recorder.completed)
            assert recorder.at_complete == [len(SIX)]


async def test_messages_that_are_deleted_or_superseded_during_the_snapshot_do_not_hold_it_up(
    server: NatsServer,
) -> None:
    async with six_documents(server) as client:
        await pause(client)
        async with host_of(server) as host:
            await until(lambda: host.lines.standing("snapshot_incomplete"))
            await purge(client, "d5")
            await purge(client, "d0")
            await publish_many(client, "h1", {"d1": b"2"})
            await pause(client, b"{}")
            await until(lambda: host.recorder.completed == 1)
            assert host.recorder.documents == {"d1": b"2", "d2": b"1", "d3": b"1", "d4": b"1"}
            await purge(client, "d4")


async def test_a_snapshot_whose_messages_are_all_deleted_meanwhile_completes(server: NatsServer) -> None:
    async with six_documents(server) as client:
        await pause(client)
        async with host_of(server) as host:
            await until(lambda: host.lines.standing("snapshot_incomplete"))
            await purge(client, None)
            await until(lambda: host.recorder.completed == 1)
            assert host.recorder.documents == {}
            await until(lambda: host.kinds == {"consumer_paused"})


async def test_two_agents_with_one_name_say_so_lose_nothing_and_recover(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read one consumer: what one gets the other one misses, and neither may take that for the whole."""
    monkeypatch.setattr(ConsumerConflicts, "LONGEST_PAUSE", 1.0)
    monkeypatch.setattr(ConsumerConflicts, "CALM", 4.0)
    documents = {f"d{number}": b"1" for number in range(50)}

    def status(boot: str) -> bytes:
        counts = (DocumentCounts(), ObjectCounts())
        return codec.encode(Status("h1", "1", boot, 0.0, 0.0, AgentState.IN_SYNC, 0, "", *counts))

    async with client_of(server) as client:
        await make_streams(client)
        await publish_many(client, "h1", documents)
        async with host_of(server, boot="one") as first:
            await until(lambda: first.recorder.completed == 1)
            async with host_of(server, boot="two") as second:
                newest: dict[str, bytes] = {}
                for turn in range(20):
                    newest = {f"d{number}": b"turn %d" % turn for number in range(50)}
                    await publish_many(client, "h1", newest)
                    first.bus.publish(subjects.status("h1"), status("one"))
                    second.bus.publish(subjects.status("h1"), status("two"))
                    await asyncio.sleep(0.1)
                for host in (first, second):
                    await until(lambda host=host: "consumer_shared" in host.kinds)
            await until(lambda: first.recorder.documents == newest, 40)
            await publish_many(client, "h1", {"d7": b"after"})
            await until(lambda: first.recorder.documents["d7"] == b"after", 40)
            await until(lambda: not first.kinds and not first.recorder.reading, 60)
            assert all(count == 50 for count in first.recorder.at_complete), "no snapshot was complete without all"


async def test_another_client_that_pulls_from_the_consumer_is_noticed_and_nothing_is_missed(server: NatsServer) -> None:
    async with client_of(server) as client:
        await make_streams(client)
        async with host_of(server) as host:
            await until(lambda: host.recorder.completed == 1)
            for turn in range(3):
                inbox = client.new_inbox()
                stolen = await client.subscribe(inbox)
                await client.publish(streams.next_subject("h1"), b'{"batch":1,"expires":100000000000}', reply=inbox)
                await client.flush()
                await publish_many(client, "h1", {f"d{turn}-{number}": b"1" for number in range(10)})
                assert (await stolen.next_msg(timeout=PATIENCE)).data == b"1"
            await until(lambda: host.lines.began("consumer_shared") > 0)
            await until(lambda: len(host.recorder.documents) == 30)
            assert (host.recorder.begun, host.recorder.completed) == (1, 1)


@contextlib.contextmanager
def restored_from_a_backup(server: NatsServer, backup: Path) -> Iterator[None]:
    """Kill the server, put an older store in place of its own, and start it."""
    server.kill()
    shutil.rmtree(server.folder / "store")
    shutil.copytree(backup, server.folder / "store")
    yield
    server.start()


@pytest.mark.parametrize("published", [0, 2, 5, 8], ids="{} new messages".format)
async def test_a_server_restored_from_a_backup_begins_a_new_snapshot(
    server: NatsServer, tmp_path: Path, published: int
) -> None:
    """New messages have the sequences of those that were lost, or greater ones."""
    async with host_in_sync(server) as (_, host):
        server.kill()
        shutil.copytree(server.folder / "store", tmp_path / "backup")
        server.start()
        async with client_of(server) as client:
            await publish_many(client, "h1", {f"lost{number}": b"1" for number in range(5)})
        await until(lambda: len(host.recorder.documents) == 11)
        with restored_from_a_backup(server, tmp_path / "backup"):
            pass
        async with client_of(server) as client:
            bodies = {f"after{number}": b"1" for number in range(published)}
            if bodies:
                await publish_many(client, "h1", bodies)
            await until(lambda: host.recorder.completed == 2)
            await until(lambda: all(host.recorder.documents.get(name) == b"1" for name in bodies))
            if bodies:
                revision = await publish_many(client, "h1", {"d0": b"newer"})
                await until(lambda: host.recorder.documents["d0"] == b"newer")
                assert host.recorder.deliveries[-1].revision == revision


async def test_a_restart_of_the_server_is_no_new_snapshot(server: NatsServer) -> None:
    async with host_in_sync(server) as (_, host):
        server.kill()
        server.start()
        async with client_of(server) as client:
            await publish_many(client, "h1", {"d5": b"2"})
            await until(lambda: host.recorder.documents["d5"] == b"2")
        assert (host.recorder.begun, host.recorder.completed) == (1, 1)


async def test_messages_purged_while_the_agent_is_away_are_a_new_snapshot_without_them(server: NatsServer) -> None:
    async with host_in_sync(server) as (_, host):
        server.kill()
        server.start()
        async with client_of(server) as client:
            await purge(client, None)
        await until(lambda: host.recorder.completed >= 1 and host.bus.connected)
        server.kill()
        server.start()
        await until(lambda: host.recorder.completed == 2)
        assert len(host.recorder.deliveries) == 6, "nothing was delivered as removed"


@pytest.mark.parametrize("name", ["UPPER", "a.b.c.d.e.f.g.h.i", "with:colon"])
async def test_a_subject_that_can_be_no_documents_is_an_event_and_a_fault_while_it_stands(
    server: NatsServer, name: str
) -> None:
    subject = subjects.config("h1", name)
    async with client_of(server) as client:
        await make_streams(client)
        heard = await client.subscribe(subjects.event("h1", "refused_subject"))
        await publish_many(client, "h1", SIX)
        async with host_of(server) as host:
            await until(lambda: host.recorder.completed == 1)
            await publish_many(client, "h1", {name: b"1", "good": b"1"})
            await until(lambda: host.recorder.documents.get("good"))
            await until(lambda: host.kinds == {"refused_subject"})
            assert host.lines.faults.standing()[0].subject == subject
            event = codec.decode((await heard.next_msg(timeout=10)).data, dict)
            assert (event["kind"], event["detail"]) == ("refused_subject", [subject])
            await client.jetstream().publish(subject, b"", headers=streams.DELETE_HEADERS)
            await until(lambda: not host.kinds)


async def test_a_permission_that_is_missing_is_named_with_its_subject(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    controller, host_user = make_user(tmp_path, "controller"), make_user(tmp_path, "h1")
    allowed = permissions.of_host("h1")
    left = tuple(one for one in allowed.publish if ".ack." not in one and one != streams.info_subject("h1"))
    less = permissions.Permissions(left, allowed.subscribe)
    server.users = [user_block(controller, permissions.of_controller()), user_block(host_user, less)]
    server.start()
    try:
        async with client_of(server, controller, permissions.CONTROLLER_INBOX) as client:
            await make_streams(client)
            found = await check(server, host_user)
            assert not found.ok
            assert f"publish to {streams.info_subject('h1')}" in found.detail
            async with host_of(server, host_user) as host:
                await until(lambda: host.recorder.completed == 1)
                host.bus.acknowledge(Acknowledgement("d1", 1, State.REALIZED, 1.0))
                await until(lambda: host.kinds == {"permission_violation"})
                fault = host.lines.standing("permission_violation")
                assert fault is not None
                assert fault.subject == subjects.ack("h1", "d1")
                assert f"publish to {subjects.ack('h1', 'd1')}" in fault.detail
    finally:
        server.stop()


async def test_a_check_disturbs_no_agent_that_runs(server: NatsServer) -> None:
    async with host_in_sync(server) as (client, host):
        for turn in range(5):
            assert (await check(server)).ok
            await publish_many(client, "h1", {"d1": b"%d" % turn})
        await until(lambda: host.recorder.documents["d1"] == b"4")
        assert host.lines.began("consumer_shared") == 0
        assert not host.kinds
