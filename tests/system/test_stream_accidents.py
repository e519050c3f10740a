"""Accidents of stream and consumer in a whole lab, under traffic in both families: nothing is lost, nothing swept."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lab.bus import Lines, Recorder
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import unbroken_flow
from lab.waiting import until
from nats.aio.client import Client

from agent.bus.bus import Bus
from agent.bus.connection.settings import BusSettings
from controller_sim.control.bus import BusError
from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.namespaces import run_coroutine_in, run_in
from controller_sim.lab.state import access
from protocol import codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Document, Endpoint
from protocol.errors import DocumentError
from protocol.rpc import SweepReply, SweepRequest
from protocol.status import AgentState, Fault, Status

HOST = "h1"
DUAL = topology_text("one_bouncer").replace("10.0.0.0/16", '[10.0.0.0/16, "fd10::/48"]')
DUAL = DUAL.replace("cidr: 10.0.1.0/24", 'cidr: [10.0.1.0/24, "fd10:0:0:1::/64"]')
FAR = codec.encode(Document(endpoints=(Endpoint("far", "web", "h2", ("10.0.1.70",), "02:00:00:00:00:70"),)))

LATER = codec.encode(Document(endpoints=(Endpoint("later", "web", "h2", ("10.0.1.72",), "02:00:00:00:00:72"),)))


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("accidents", DUAL) as lab:
        yield lab


@contextlib.contextmanager
def nothing_swept(lab: SystemLab) -> Iterator[None]:
    """Have traffic flow in both families during a block; no packet may be lost, no interface or entry of h1 go."""
    made, endpoints = lab.made(HOST), lab.entries(HOST, "endpoints")
    with unbroken_flow(lab, "web-1", "web-2", 4), unbroken_flow(lab, "web-1", "web-2", 6):
        yield
        assert lab.made(HOST) == made
        assert lab.entries(HOST, "endpoints") == endpoints


def status(lab: SystemLab) -> Status | None:
    """Return h1's status, None when it does not answer, or its clone answers instead."""
    with contextlib.suppress(BusError, DocumentError):
        return lab.status(HOST)
    return None


def fault(lab: SystemLab, kind: str) -> Fault:
    """Wait until h1 reports a fault of a kind, and is not in sync."""

    def look() -> Fault | None:
        found = status(lab)
        if found is None or found.state is AgentState.IN_SYNC:
            return None
        return next((one for one in found.faults if one.kind == kind), None)

    found = until(look, kind)
    assert found is not None
    return found


def well(lab: SystemLab) -> Status:
    """Wait until h1 is in sync without any fault."""

    def look() -> Status | None:
        found = status(lab)
        return found if found is not None and found.state is AgentState.IN_SYNC and not found.faults else None

    found = until(look, "h1 in sync without a fault")
    assert found is not None
    return found


def request(lab: SystemLab, subject: str, body: bytes) -> bytes:
    async def work(client: Client) -> bytes:
        return (await client.request(subject, body, timeout=10)).data

    return lab.with_client(work)


def pause(lab: SystemLab, body: bytes) -> None:
    assert b"error" not in request(lab, f"$JS.API.CONSUMER.PAUSE.{streams.CONFIG_STREAM}.{HOST}", body)


def check(lab: SystemLab) -> str:
    """Return what `droplet-agent --check` prints on h1."""
    command = [str(Path(sys.executable).parent / "droplet-agent"), "--config", str(lab.lab.paths.settings(HOST))]
    return run_in(lab.names.droplet(HOST), [*command, "--check"]).stdout


def test_an_agent_that_starts_with_its_consumer_paused_waits_and_sweeps_nothing(lab):
    before = well(lab)
    with nothing_swept(lab):
        pause(lab, b'{"pause_until":"2099-01-01T00:00:00Z"}')
        try:
            lab.kill_agent(HOST)
            lab.lab.start_agent(HOST)
            found = fault(lab, "snapshot_incomplete")
            count = before.documents.realized
            assert f"{count} documents are pending and not delivered" in found.detail
            assert lab.status(HOST).state is AgentState.STARTING
            checked = check(lab)
            assert "warning bus: tls://172.18.0.1:4222, nats-server 2." in checked
            assert f"{count} documents are pending and not delivered: the consumer is paused until 2099" in checked
            beats = lab.status(HOST).uptime
            until(lambda: lab.status(HOST).uptime > beats + 5, "more than two idle heartbeats")
            assert lab.status(HOST).state is AgentState.STARTING
        finally:
            pause(lab, b"{}")
        assert well(lab).digest == before.digest
        assert "ok      bus: tls://" in check(lab)


def stored_acknowledgement(lab: SystemLab, document: str) -> Acknowledgement:
    """Return the newest acknowledgement of one of h1's documents, as the server stores it."""

    async def read(client: Client) -> bytes:
        message = await client.jetstream().get_last_msg(streams.ACK_STREAM, subjects.ack(HOST, document))
        assert message.data is not None
        return message.data

    return codec.decode(lab.with_client(read), Acknowledgement)


@contextlib.contextmanager
def duplicate_agent(lab: SystemLab) -> Iterator[Lines]:
    """Run the bus's end of another agent with h1's name and credentials, as on a machine that was cloned."""
    way = access(lab.lab.paths, lab.topology, HOST)
    settings = BusSettings((way.server,), nkey_seed_file=str(way.seed), tls_ca_file=str(way.authority))
    lines, stop = Lines(), threading.Event()

    async def work() -> None:
        bus = Bus(HOST, settings, Recorder(), lines.report, boot="a clone")
        task = asyncio.create_task(bus.run())
        while not stop.is_set():
            bus.publish(subjects.status(HOST), said)
            bus.acknowledge(Acknowledgement("underlay", 1, State.PENDING, 1.0))
            await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    said = codec.encode(msgspec.structs.replace(lab.status(HOST), boot="a clone"))
    thread = threading.Thread(target=lambda: run_coroutine_in(lab.names.fabric, work), name="clone")
    thread.start()
    try:
        yield lines
    finally:
        stop.set()
        thread.join()


def test_two_agents_with_one_name_remove_nothing_and_the_host_recovers_when_one_stops(lab):
    before = well(lab)
    with nothing_swept(lab):
        with duplicate_agent(lab) as lines, lab.events(HOST, "fault") as events:
            fault(lab, "consumer_shared")
            until(lambda: lines.standing("consumer_shared"), "the clone's own word")
            lab.kill_agent(HOST)
            lab.lab.start_agent(HOST)
            found = fault(lab, "consumer_shared")
            assert "another agent runs under this host's name" in found.detail
            assert any("consumer_shared" in line for event in events() for line in event.detail)
            until(lambda: stored_acknowledgement(lab, "underlay").state is State.PENDING, "the clone's acknowledgement")
        assert well(lab).digest == before.digest
        until(
            lambda: stored_acknowledgement(lab, "underlay").state is State.REALIZED,
            "the host's own acknowledgement in the place of the clone's",
        )


def test_a_recreated_stream_removes_nothing_until_documents_are_removed_by_name(lab):
    before = well(lab)

    async def delete(client: Client) -> None:
        for stream in (streams.CONFIG_STREAM, streams.ACK_STREAM):
            await client.jetstream().delete_stream(stream)

    with nothing_swept(lab):
        lab.with_client(delete)
        fault(lab, "consumer_missing")
        prepare(lab.lab)
        found = fault(lab, "documents_missing")
        assert found.detail.startswith(f"{before.documents.realized} documents of this host")
        lab.kill_agent(HOST)
        lab.lab.start_agent(HOST)
        fault(lab, "documents_missing")
        assert lab.status(HOST).documents == before.documents
        assert converge(lab.lab).converged
        well(lab)
    for host in lab.hosts:
        lab.wait_in_sync(host)


def test_a_sweep_request_without_names_is_refused_and_logs_no_sweep(lab):
    well(lab)
    log = lab.lab.paths.log(HOST)
    before, logged = lab.made(HOST), log.stat().st_size
    for body in (b"", codec.encode(SweepRequest()), codec.encode({"document": ["far"]}), codec.encode(["far"])):
        with pytest.raises(BusError, match=r"documents.*objects"):
            lab.ask(HOST, "sweep", body)
    assert "swept" not in log.read_bytes()[logged:].decode()
    assert lab.made(HOST) == before
    well(lab)


def test_the_controller_removes_what_only_a_host_holds(lab):
    """A host that was away for longer than removals last finds neither the document nor its removal."""
    lab.answer(HOST, "far", lab.publish(HOST, "far", FAR), State.REALIZED)
    request(lab, f"$JS.API.STREAM.PURGE.{streams.CONFIG_STREAM}", b'{"filter":"droplet.v1.h1.config.far"}')
    with nothing_swept_but_far(lab):
        lab.kill_agent(HOST)
        lab.lab.start_agent(HOST)
        assert "1 document of this host is not in the stream" in fault(lab, "documents_missing").detail
        assert converge(lab.lab).converged
        well(lab)
        answer = lab.newest(HOST, "far")
        assert answer is not None
        assert answer.removed


@contextlib.contextmanager
def nothing_swept_but_far(lab: SystemLab) -> Iterator[None]:
    """Hold that no packet is lost, and that one entry fewer is all that changes."""
    endpoints = lab.entries(HOST, "endpoints")
    with unbroken_flow(lab, "web-1", "web-2", 4), unbroken_flow(lab, "web-1", "web-2", 6):
        yield
    left = lab.entries(HOST, "endpoints")
    assert left.items() < endpoints.items()
    assert len(left) == len(endpoints) - 1


def test_a_server_restored_from_a_backup_reverts_nothing_silently(lab, tmp_path):
    """What was published after the backup is kept and named; what is published after the restore is realized."""
    well(lab)
    store = lab.lab.paths.server.directory / "store"
    with unbroken_flow(lab, "web-1", "web-2", 4):
        lab.lab.stop_server()
        shutil.copytree(store, tmp_path / "backup")
        lab.lab.start_server()
        until(lambda: lab.in_sync(HOST), "h1 after the backup")
        lab.answer(HOST, "later", lab.publish(HOST, "later", LATER), State.REALIZED)
        lab.lab.stop_server()
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "backup", store)
        lab.lab.start_server()
        assert fault(lab, "documents_missing").detail.endswith(": later")
        moved = Document(endpoints=(Endpoint("further", "web", "h2", ("10.0.1.71",), "02:00:00:00:00:71"),))
        lab.answer(HOST, "further", lab.publish(HOST, "further", codec.encode(moved)), State.REALIZED)
        assert lab.newest(HOST, "further") is not None
        answer = codec.decode(lab.ask(HOST, "sweep", codec.encode(SweepRequest(("later",)))), SweepReply)
        assert answer.documents == ("later",)
        with pytest.raises(BusError, match="not among the documents that are missing"):
            lab.ask(HOST, "sweep", codec.encode(SweepRequest(("further",))))
        assert lab.publish_and_wait(HOST, "further", None, State.REALIZED).removed
        well(lab)
    for host in lab.hosts:
        lab.wait_in_sync(host)
