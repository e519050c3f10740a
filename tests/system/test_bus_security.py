"""Credentials, permissions and TLS hold against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from lab.bus import (
    Lines,
    NatsServer,
    Recorder,
    User,
    all_acknowledged,
    client_of,
    make_streams,
    publish_many,
    running,
    serving,
    settings_of,
    until,
)

from agent.bus.bus import Bus
from agent.bus.connection.settings import BusSettings
from protocol import permissions, streams, subjects
from protocol.acknowledgements import Acknowledgement, State


async def test_the_permissions_of_a_host_are_enough_for_all_that_an_agent_does(
    guarded: NatsServer, users: dict[str, User]
) -> None:
    recorder, lines = Recorder(), Lines()
    async with client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller:
        await make_streams(controller, ["h1", "h2"])
        await publish_many(controller, "h1", {f"d{i}": b"1" for i in range(600)})
        await publish_many(controller, "h2", {"other": b"1"})
        async with (
            client_of(guarded, users["operator"], permissions.OPERATOR_INBOX) as operator,
            running(Bus("h1", settings_of(guarded, users["h1"]), recorder, lines.report)) as bus,
        ):
            await until(lambda: recorder.completed == 1)
            assert len(recorder.documents) == 600
            bus.acknowledge(Acknowledgement("d1", 1, State.REALIZED, 1.0))
            assert await bus.drain(20)
            await serving(operator, "h1")
            for verb in subjects.RPC_VERBS:
                answer = await operator.request(subjects.rpc("h1", verb), b"", timeout=10)
                assert answer.data.startswith(b"answer")
            assert b'"h1"' in (await operator.request("$SRV.PING.droplet", timeout=10)).data
            status = await operator.subscribe("droplet.v1.*.status")
            await operator.request(subjects.rpc("h1", "status"), timeout=10)
            assert bus.publish(subjects.status("h1"), b"alive")
            assert (await status.next_msg(timeout=10)).data == b"alive"
            await all_acknowledged(controller, "h1")
            assert not any("ermission" in text for text in lines.texts())


@pytest.mark.parametrize(
    "subject",
    [
        subjects.config("h1", "mine"),
        subjects.config("h2", "a"),
        subjects.ack("h2", "a"),
        subjects.status("h2"),
        subjects.rpc("h2", "get"),
        streams.next_subject("h2"),
        streams.reset_subject("h2"),
        f"$JS.ACK.{streams.CONFIG_STREAM}.h2.1.1.1.1.0",
        f"$JS.API.CONSUMER.CREATE.{streams.CONFIG_STREAM}",
        f"$JS.API.CONSUMER.CREATE.{streams.CONFIG_STREAM}.h1",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{streams.CONFIG_STREAM}.h1",
        f"$JS.API.CONSUMER.DELETE.{streams.CONFIG_STREAM}.h1",
        f"$JS.API.STREAM.MSG.GET.{streams.CONFIG_STREAM}",
        f"$JS.API.DIRECT.GET.{streams.CONFIG_STREAM}",
        f"$JS.API.STREAM.PURGE.{streams.CONFIG_STREAM}",
        "_INBOX_host_h2.guess",
    ],
)
async def test_a_host_cannot_publish_to(guarded: NatsServer, users: dict[str, User], subject: str) -> None:
    async with client_of(guarded, users["h1"], permissions.inbox("h1")) as client:
        await client.publish(subject, b"{}")
        await until(lambda: client.seen)
        assert "permissions violation for publish" in str(client.seen[0])


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "droplet.v1.h2.>",
        "droplet.v1.*.ack.>",
        "_INBOX_host_h2.>",
        "_INBOX.>",
        "$JS.>",
        "droplet.v1.h1.>",
        streams.pause_subject("h2"),
        streams.pause_subject("*"),
        "$JS.EVENT.>",
    ],
)
async def test_a_host_cannot_subscribe_to(guarded: NatsServer, users: dict[str, User], subject: str) -> None:
    async with client_of(guarded, users["h1"], permissions.inbox("h1")) as client:
        await client.subscribe(subject)
        await until(lambda: client.seen)
        assert "permissions violation for subscription" in str(client.seen[0])


@pytest.mark.parametrize("subject", [subjects.config("h1", "a"), subjects.ack("h1", "a"), streams.next_subject("h1")])
async def test_an_operator_cannot_write(guarded: NatsServer, users: dict[str, User], subject: str) -> None:
    async with client_of(guarded, users["operator"], permissions.OPERATOR_INBOX) as client:
        await client.publish(subject, b"{}")
        await until(lambda: client.seen)
        assert "permissions violation" in str(client.seen[0])


@pytest.mark.parametrize("subject", [subjects.rpc("h1", "status"), subjects.config("h1", "a"), "_INBOX_operator.x"])
async def test_a_monitor_cannot_publish(guarded: NatsServer, users: dict[str, User], subject: str) -> None:
    async with client_of(guarded, users["monitor"]) as client:
        await client.publish(subject, b"{}")
        await until(lambda: client.seen)
        assert "permissions violation for publish" in str(client.seen[0])


@pytest.mark.parametrize("subject", [">", subjects.config("h1", "a"), "_INBOX_controller.>", "$JS.>"])
async def test_a_monitor_cannot_subscribe_to(guarded: NatsServer, users: dict[str, User], subject: str) -> None:
    async with client_of(guarded, users["monitor"]) as client:
        await client.subscribe(subject)
        await until(lambda: client.seen)
        assert "permissions violation for subscription" in str(client.seen[0])


async def test_a_monitor_hears_what_hosts_say(guarded: NatsServer, users: dict[str, User]) -> None:
    said = [
        subjects.status("h1"),
        subjects.event("h1", "fault"),
        subjects.telemetry("h1", "counters"),
        subjects.ack("h1", "a"),
    ]
    async with (
        client_of(guarded, users["monitor"]) as monitor,
        client_of(guarded, users["h1"], permissions.inbox("h1")) as host,
    ):
        heard = [await monitor.subscribe(subject) for subject in permissions.of_monitor().subscribe]
        await monitor.flush()
        for subject in said:
            await host.publish(subject, b"x")
        assert {(await one.next_msg(timeout=10)).subject for one in heard} == set(said)
        assert not monitor.seen
        assert not host.seen


def refusals(server: NatsServer) -> int:
    """Return how many connections a server has refused for their credentials."""
    return (server.folder / "server.log").read_text().count("authentication error")


async def test_wrong_credentials_are_one_fault_that_does_not_show_the_seed(
    guarded: NatsServer, users: dict[str, User]
) -> None:
    lines = Lines()
    async with running(Bus("h1", settings_of(guarded, users["stranger"]), Recorder(), lines.report)) as bus:
        await until(lambda: "credentials" in lines.detail("bus_disconnected"))
        await until(lambda: refusals(guarded) > 3)
        assert not bus.connected
        assert lines.began("bus_disconnected") == 1
        seed = users["stranger"].seed_file.read_text()
        assert not any(seed in text for text in lines.texts())
        users["stranger"].seed_file.write_bytes(users["h1"].seed_file.read_bytes())
        await until(lambda: bus.connected)


@pytest.mark.parametrize(("content", "reason"), [(None, "no such file"), (b"not a seed", "no valid seed")])
async def test_a_seed_file_that_cannot_be_used_is_named(
    guarded: NatsServer, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.nk"
    if content is not None:
        path.write_bytes(content)
    lines = Lines()
    async with running(Bus("h1", BusSettings((guarded.url,), nkey_seed_file=str(path)), Recorder(), lines.report)):
        await until(lambda: reason in lines.detail("bus_disconnected"))
        assert not any("not a seed" in text for text in lines.texts())


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[NatsServer, Path]]:
    """A server that uses TLS from the first byte, and its CA."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = NatsServer(tmp_path)
    server.tls = (
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem", handshake_first: true, timeout: 5 }}'
    )
    server.start()
    yield server, tmp_path / "ca.pem"
    server.stop()


async def test_tls_from_the_first_byte_works(tls: tuple[NatsServer, Path]) -> None:
    server, ca = tls
    async with running(Bus("h1", BusSettings((server.url,), tls_ca_file=str(ca)), Recorder())) as bus:
        await until(lambda: bus.connected)


async def test_a_certificate_of_an_unknown_authority_is_refused(tls: tuple[NatsServer, Path], tmp_path: Path) -> None:
    server, _ = tls
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    lines = Lines()
    settings = BusSettings((server.url,), tls_ca_file=str(tmp_path / "another.pem"))
    async with running(Bus("h1", settings, Recorder(), lines.report)) as bus:
        await until(lambda: "not trusted" in lines.detail("bus_disconnected"))
        assert not bus.connected


async def test_a_tls_url_never_gives_a_clear_text_server_a_password() -> None:
    """A server that answers in clear text receives a TLS hello and nothing else."""
    heard = bytearray()

    async def eavesdrop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.14.0","auth_required":true,"headers":true}\r\n')
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    listener = await asyncio.start_server(eavesdrop, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    lines = Lines()
    settings = BusSettings((f"tls://me:password@127.0.0.1:{port}",))
    async with listener, running(Bus("h1", settings, Recorder(), lines.report)):
        await until(lambda: "TLS" in lines.detail("bus_disconnected"))
    assert heard[:1] == b"\x16", "a TLS handshake record"
    assert b"CONNECT" not in heard
    assert b"password" not in heard
    assert not any("password" in text for text in lines.texts())


def test_a_server_url_that_makes_no_sense_is_refused_without_showing_its_password() -> None:
    for url in ("http://h:1", "127.0.0.1:4222", "nats://", "tls://u:hidden@h:port"):
        with pytest.raises(ValueError, match="is not a server") as caught:
            BusSettings((url,))
        assert "hidden" not in str(caught.value)
    with pytest.raises(ValueError):
        BusSettings(())
