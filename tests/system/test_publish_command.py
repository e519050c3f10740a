"""`droplet-lab keys` and `publish`: a controller for hosts that the lab did not make, against a real server."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from lab.bus import free_port

from controller_sim.cli.droplet_lab import main
from controller_sim.cli.publish import documents_of, publish_topology
from controller_sim.control.bus import Access, BusError, connected, read_stream
from controller_sim.lab import nats_server
from controller_sim.lab.nats_server import CONTROLLER, ServerFiles
from controller_sim.topology.file import read_topology
from controller_sim.topology.model import Topology
from protocol import codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, State

TOPOLOGY = Path(__file__).parents[2] / "docker" / "topology.yaml"


@pytest.fixture
def topology() -> Topology:
    return read_topology(TOPOLOGY)


@pytest.fixture
def files(tmp_path: Path) -> ServerFiles:
    return ServerFiles(tmp_path / "bus")


@pytest.fixture
def access(files: ServerFiles, topology: Topology) -> Iterator[Access]:
    port = free_port()
    nats_server.configure(files, ("127.0.0.1",), port, list(topology.droplets))
    with (files.directory / "log").open("wb") as log:
        server = subprocess.Popen(nats_server.command(files), stdout=log, stderr=log)
    try:
        yield Access(f"tls://127.0.0.1:{port}", files.seed(CONTROLLER), files.authority)
    finally:
        server.terminate()
        server.wait()


async def stored_documents(access: Access) -> dict[tuple[str, str], tuple[int, bytes]]:
    async with connected(access) as client:
        stored = await read_stream(client, streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS)
    return {tuple(subjects.parse_config(s.subject)): (s.sequence, s.body) for s in stored}


async def answer_as(files: ServerFiles, access: Access, host: str) -> None:
    """Say of every document of a host, by the host's own key, that it is realized."""
    documents = await stored_documents(access)
    async with connected(Access(access.server, files.seed(host), access.authority)) as client:
        for (to, name), (revision, _) in documents.items():
            if to == host:
                answer = Acknowledgement(name, revision, State.REALIZED, time.time(), revision)
                await client.publish(subjects.ack(host, name), codec.encode(answer))
        await client.flush()


async def test_all_documents_are_in_the_stream_and_a_silent_host_is_reported(access, topology):
    report = await publish_topology(topology, access, timeout=0.2, retry=10)
    assert not report.converged
    assert {host: found.unacknowledged for host, found in report.hosts.items()} == {
        host: len(documents) for host, documents in documents_of(topology).items()
    }
    assert {key: body for key, (_, body) in (await stored_documents(access)).items()} == {
        (host, name): codec.encode(document)
        for host, documents in documents_of(topology).items()
        for name, document in documents.items()
    }


async def test_publishing_again_changes_nothing_and_reports_earlier_acknowledgements(files, access, topology):
    await publish_topology(topology, access, timeout=0.1, retry=10)
    before = await stored_documents(access)
    for host in topology.droplets:
        await answer_as(files, access, host)
    report = await publish_topology(topology, access, timeout=10)
    assert report.converged
    assert set(report.hosts) == set(topology.droplets)
    assert await stored_documents(access) == before


async def test_a_server_that_is_away_is_an_error_when_patience_ends(files, access, topology):
    away = Access(f"tls://127.0.0.1:{free_port()}", access.seed, access.authority)
    with pytest.raises(BusError, match=r": connection refused; start the server$"):
        await publish_topology(topology, away, timeout=1, retry=0.1)


async def test_a_server_with_a_certificate_of_another_authority_is_named_in_plain_words(tmp_path, access, topology):
    await publish_topology(topology, access, timeout=0.1, retry=10)
    other = ServerFiles(tmp_path / "other")
    nats_server.configure(other, ("127.0.0.1",), free_port(), list(topology.droplets))
    with pytest.raises(BusError, match=r"the server's certificate is not trusted: [^_]*$"):
        await publish_topology(topology, Access(access.server, access.seed, other.authority), timeout=1, retry=0.1)


def test_keys_that_exist_are_kept(files):
    """A second run must not lock out hosts that run."""
    made = []
    for _ in range(2):
        done = CliRunner().invoke(main, ["keys", str(TOPOLOGY), str(files.directory)])
        assert done.exit_code == 0, done.output
        secrets = [files.certificate, *sorted((files.directory / "keys").iterdir())]
        made.append({path.name: path.read_bytes() for path in secrets})
    assert made[0] == made[1]
    assert set(made[0]) - {files.certificate.name} == {"controller.nk", "operator.nk", "h1.nk", "h2.nk", "h3.nk"}
