"""A bus that cannot be reached is one line that an operator can act on, and never a stack trace."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from lab.bus import (
    Lines,
    NatsServer,
    Recorder,
    client_of,
    free_port,
    make_streams,
    make_user,
    running,
    settings_of,
    until,
    user_block,
)

from agent.bus.bus import Bus
from agent.bus.connection import client
from agent.bus.connection.errors import describe
from agent.bus.connection.settings import BusSettings
from agent.bus.consumer import pull
from protocol import permissions
from protocol.status import Fault


class Case(NamedTuple):
    """Settings with which no server lets the agent in, and what happens once it is connected."""

    settings: BusSettings
    then: Callable[[], None] = lambda: None


@contextlib.contextmanager
def started(folder: Path, **fields: object) -> Iterator[NatsServer]:
    server = NatsServer(folder, **fields)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.asynccontextmanager
async def refused(_: Path) -> AsyncIterator[Case]:
    yield Case(BusSettings((f"nats://127.0.0.1:{free_port()}",)))


@contextlib.asynccontextmanager
async def unresolved(_: Path) -> AsyncIterator[Case]:
    yield Case(BusSettings(("nats://bus.invalid:4222",)))


@contextlib.contextmanager
def tls(folder: Path, name: str) -> Iterator[tuple[NatsServer, str]]:
    """Run a server with a certificate for a name; yield it and the file of its CA."""
    authority = trustme.CA()
    certificate = authority.issue_cert(name)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    block = f'tls {{ cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem", handshake_first: true, timeout: 1 }}'
    with started(folder, tls=block) as server:
        yield server, str(folder / "ca.pem")


@contextlib.asynccontextmanager
async def unknown_authority(folder: Path) -> AsyncIterator[Case]:
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    with tls(folder, "127.0.0.1") as (server, _):
        yield Case(BusSettings((server.url,), tls_ca_file=str(folder / "other.pem")))


@contextlib.asynccontextmanager
async def another_name(folder: Path) -> AsyncIterator[Case]:
    with tls(folder, "bus.example") as (server, authority):
        yield Case(BusSettings((server.url,), tls_ca_file=authority))


@contextlib.asynccontextmanager
async def clear_text_to_tls(folder: Path) -> AsyncIterator[Case]:
    with tls(folder, "127.0.0.1") as (server, _):
        yield Case(BusSettings((server.url.replace("tls://", "nats://"),)))


@contextlib.asynccontextmanager
async def tls_to_clear_text(folder: Path) -> AsyncIterator[Case]:
    with started(folder) as server:
        yield Case(BusSettings((server.url.replace("nats://", "tls://"),)))


@contextlib.asynccontextmanager
async def another_key(folder: Path) -> AsyncIterator[Case]:
    known = user_block(make_user(folder, "h1"), permissions.of_host("h1"))
    with started(folder, users=[known]) as server:
        yield Case(settings_of(server, make_user(folder, "stranger")))


@contextlib.asynccontextmanager
async def silent_from_the_start(_: Path) -> AsyncIterator[Case]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Case(BusSettings((f"nats://127.0.0.1:{listener.getsockname()[1]}",)))


@contextlib.asynccontextmanager
async def silent_later(folder: Path) -> AsyncIterator[Case]:
    with started(folder) as server:
        async with client_of(server) as controller:
            await make_streams(controller)
        yield Case(settings_of(server), server.freeze)


@contextlib.asynccontextmanager
async def killed(folder: Path) -> AsyncIterator[Case]:
    with started(folder) as server:
        async with client_of(server) as controller:
            await make_streams(controller)
        yield Case(settings_of(server), server.kill)


CASES: dict[Callable[[Path], contextlib.AbstractAsyncContextManager[Case]], str] = {
    refused: "connection refused",
    unresolved: "the server's name has no address",
    unknown_authority: "certificate is not trusted",
    another_name: "certificate is not trusted",
    clear_text_to_tls: "write tls://",
    tls_to_clear_text: "does not begin with TLS",
    another_key: "refuses our credentials: check bus.nkey_seed_file",
    silent_from_the_start: "no answer within 2 seconds",
    silent_later: f"the server has said nothing for {2 * pull.SILENCE:g} seconds",
    killed: "the connection was lost",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.replace("_", " "))
async def test_a_bus_that_cannot_be_used_is_a_fault_with_server_reason_and_remedy_and_no_trace(
    case: Callable[[Path], contextlib.AbstractAsyncContextManager[Case]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 2)
    monkeypatch.setattr(pull, "MAX_SILENCES", 1)
    lines, recorder = Lines(), Recorder()
    async with case(tmp_path) as (settings, then):
        bus = Bus("h1", settings, recorder, lines.report)
        async with running(bus):
            if case in (silent_later, killed):
                await until(lambda: recorder.completed)
            then()
            await until(lambda: lines.published("began", "bus_disconnected"))
    gc.collect()  # asyncio reports unretrieved exceptions of tasks then
    began = lines.published("began", "bus_disconnected")[0]
    assert began.startswith(f"began: bus_disconnected {settings.servers[0]}: ")
    assert CASES[case] in began
    assert "correct [bus] in the settings" in began
    assert [line for line in lines.lines if "exc_info" in line or line["level"] == "error"] == []
    assert "Traceback" not in "".join(capfd.readouterr())
    assert [record.getMessage() for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('192.0.2.1', 4222)"), "no route to host"),
        (OSError(errno.ENETUNREACH, "Connect call failed ('192.0.2.1', 4222)"), "network is unreachable"),
        (OSError(errno.EACCES, "Permission denied", "/etc/seed.nk"), "/etc/seed.nk: Permission denied"),
    ],
)
def test_a_connection_that_the_system_refuses_is_not_called_refused_by_the_server(error: OSError, reason: str) -> None:
    assert describe(error) == reason


async def test_several_unreachable_servers_are_one_fault_with_the_reason_of_each(tmp_path: Path) -> None:
    """Each try concerns another server, and none of them says anything new."""
    lines, details = Lines(), list[str]()
    async with refused(tmp_path) as one, unresolved(tmp_path) as two:
        servers = one.settings.servers + two.settings.servers

        def report(source: str, faults: Iterable[Fault]) -> None:
            standing = list(faults)
            lines.report(source, standing)
            details.extend(fault.detail for fault in standing if source == "bus")

        async with running(Bus("h1", BusSettings(servers), Recorder(), report)):
            await until(lambda: len(details) >= 6)
        fault = lines.standing("bus_disconnected")
        assert fault is not None
        assert fault.subject == ", ".join(servers)
        assert f"{servers[0]}: connection refused; {servers[1]}: the server's name has no address" in fault.detail
        assert set(details[1:]) == {fault.detail}, "once each server was tried"
