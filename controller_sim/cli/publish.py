"""droplet-lab keys and publish: the simulated controller for hosts that this lab did not create, such as containers.

Both commands use a directory that `keys` creates: the NATS server's configuration, certificates,
and the nkey seeds of all its users. They create no namespaces and start no processes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from controller_sim.cli import screen
from controller_sim.cli.parameters import Seconds, timeout_option, topology_argument
from controller_sim.control.bus import Access, BusError, connected, ensure_consumers, ensure_streams
from controller_sim.control.compiler import Documents, compile_documents
from controller_sim.control.convergence import Report, watching
from controller_sim.control.publisher import publish_difference
from controller_sim.lab import nats_server
from controller_sim.lab.nats_server import CONTROLLER, ServerFiles
from controller_sim.lab.state import NATS_PORT, LabError
from controller_sim.topology.file import read_topology
from controller_sim.topology.ipam import allocate
from controller_sim.topology.model import Topology
from controller_sim.topology.placement import place

keys_option = click.option(
    "--keys",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory that `droplet-lab keys` created.",
)


@click.command("keys")
@topology_argument
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def keys_command(topology: Path, directory: Path) -> None:
    """Write the files of a nats-server for TOPOLOGY.

    Creates in DIRECTORY its configuration, certificates, and a key for every host.

    Start it with `nats-server --config DIRECTORY/nats-server.json`. Existing files are kept, so it is safe to run this
    again.
    """
    known = read_topology(topology)
    nats_server.configure(ServerFiles(directory), known.underlay.servers, NATS_PORT, known.hosts)


@click.command("publish")
@topology_argument
@keys_option
@timeout_option
@click.option(
    "--retry",
    type=Seconds(zero=True),
    default=30.0,
    show_default=True,
    help="Seconds to retry while the server does not answer.",
)
def publish_command(topology: Path, directory: Path, timeout: float, retry: float) -> None:
    """Publish TOPOLOGY to hosts outside this lab.

    Waits until they have realized it.

    Publishes only the documents that differ from those on the server. On its host, an endpoint's interface is created
    in the network namespace that has the endpoint's name; that namespace must exist.
    """
    known = read_topology(topology)
    files = ServerFiles(directory)
    access = Access(
        f"tls://{nats_server.in_url(known.underlay.server)}:{NATS_PORT}", files.seed(CONTROLLER), files.authority
    )
    report = asyncio.run(publish_topology(known, access, timeout=timeout, retry=retry))
    screen.console.print(screen.report_table(report))
    if not report.converged:
        raise LabError("\n".join([report.headline, *report.problems[:20]]))


def documents_of(topology: Topology) -> Documents:
    """Return the documents of all hosts, with every endpoint in the namespace of its own name."""
    return compile_documents(topology, allocate(topology), place(topology), str)


async def publish_topology(topology: Topology, access: Access, *, timeout: float, retry: float = 0.0) -> Report:  # noqa: ASYNC109 - its end is a report, no error
    """Publish the documents that differ and report their states after at most `timeout` seconds.

    `retry` is for how many seconds to retry a server that does not answer; then BusError is raised.
    """
    await _answering(access, retry)
    async with connected(access) as client, watching(client) as watcher:
        await ensure_streams(client)
        await ensure_consumers(client, topology.hosts)
        documents = documents_of(topology)
        watcher.tracker.holds(documents)
        await publish_difference(client, documents, watcher.tracker.expect)
        await watcher.expect_stored()
        await watcher.wait(timeout)
        return watcher.tracker.report()


async def _answering(access: Access, seconds: float) -> None:
    """Wait until the server answers; BusError when it does not for so long."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with connected(access):
                return
        except BusError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(0.5)
