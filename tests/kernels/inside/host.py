"""A host with a real agent: its namespace, a nats-server on its loopback, and the controller's side of that."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.client import Client

from controller_sim.control.bus import BusError, ask, ensure_consumers, ensure_streams, read_stream
from controller_sim.control.publisher import publish_difference
from controller_sim.lab.namespaces import call_in, entered, run_coroutine_in
from controller_sim.lab.nats_server import server_program
from protocol import codec, streams
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Document
from protocol.permissions import CONTROLLER_INBOX
from protocol.status import Counters, Status
from tests.kernels.inside.talk import until

NAME = "here"
RECEIVED = ("received_from_underlay", "received_from_endpoint")
SERVER = "127.0.0.1"
PORT = 4222

T = TypeVar("T")


class Host:
    """A running agent in a namespace. Made by `running_host`."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str) -> None:
        """Start a command in the namespace with its output in a log of that name."""
        with (self.folder / f"{name}.log").open("ab") as log:
            line = entered(self.namespace, list(command))
            self.processes.append(subprocess.Popen(line, stdout=log, stderr=log))

    def stop(self) -> None:
        """End everything that was started, the last first."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def is_listening(self) -> bool:
        """Say whether the server takes connections."""
        with contextlib.suppress(OSError):
            call_in(self.namespace, lambda: socket.create_connection((SERVER, PORT), 2)).close()
            return True
        return False

    # The controller's side

    def with_client(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Do something with a connection of the controller's."""

        async def connect_and_work() -> T:
            async with _connected() as client:
                return await work(client)

        return run_coroutine_in(self.namespace, connect_and_work)

    def prepare(self) -> None:
        """Make the streams and the agent's consumer."""

        async def work(client: Client) -> None:
            await ensure_streams(client)
            await ensure_consumers(client, [NAME])

        self.with_client(work)

    def publish(self, documents: Mapping[str, Document]) -> None:
        """Make these all documents that there are; wait until they are realized and all next hops are known."""

        async def work(client: Client) -> dict[str, int]:
            done = await publish_difference(client, {NAME: documents})
            return {one.document: one.revision for one in done}

        revisions = self.with_client(work)
        until(lambda: self.has_realized(revisions), "the realization")
        until(lambda: not self.status().unresolved_next_hops, "the last next hop")

    def has_realized(self, revisions: Mapping[str, int]) -> bool:
        """Say whether revisions of documents are realized; one that is rejected or failed is an error."""
        stored = self.with_client(lambda client: read_stream(client, streams.ACK_STREAM, streams.ACK_SUBJECTS))
        states: dict[str, State] = {}
        for message in stored:
            found = codec.decode(message.body, Acknowledgement)
            name = message.subject.split(".", 4)[4]
            if found.revision == revisions.get(name):
                assert found.state not in (State.REJECTED, State.FAILED), f"{name}: {found}"
                states[name] = found.state
        return all(states.get(name) is State.REALIZED for name in revisions)

    def status(self) -> Status:
        """Ask the agent how it is."""
        return codec.decode(self.ask("status"), Status)

    def counters(self) -> dict[str, int]:
        """Return packets by outcome."""
        return {
            name: traffic.packets for name, traffic in codec.decode(self.ask("counters"), Counters).outcomes.items()
        }

    def is_balanced(self) -> bool:
        """Return whether every received packet has exactly one other outcome."""
        counters = self.counters()
        came = sum(counters.pop(name) for name in RECEIVED)
        return came == sum(counters.values())

    def ask(self, verb: str) -> bytes:
        """Ask the agent; one that is not there yet is waited for."""

        def asked() -> bytes | None:
            with contextlib.suppress(BusError):
                return self.with_client(lambda client: ask(client, NAME, verb, patience=10.0))
            return None

        answer = until(asked, f"the answer to {verb}")
        assert answer is not None
        return answer


@contextlib.asynccontextmanager
async def _connected() -> AsyncIterator[Client]:
    client = await nats.connect(f"nats://{SERVER}:{PORT}", inbox_prefix=CONTROLLER_INBOX, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


@contextlib.contextmanager
def running_host(
    namespace: str,
    interfaces: tuple[str, ...],
    underlay: tuple[str, ...],
    folder: Path,
    cache: Path,
    observe: float = 2.0,
    hook: str = "xdp",
) -> Iterator[Host]:
    """Have an agent run in a namespace that has interfaces in the underlay, with addresses of these families there.

    All its programs run at `hook`, `xdp` or `tc`. It compares with the kernel every `observe` seconds. Its pins go with
    the emulated machine.
    """
    host = Host(namespace, folder)
    server, settings = folder / "nats.json", folder / "agent.toml"
    server.write_text(json.dumps({"listen": f"{SERVER}:{PORT}", "jetstream": {"store_dir": str(folder / "store")}}))
    settings.write_text(_settings(namespace, interfaces, underlay, folder, cache, observe, hook))
    try:
        host.start("nats", server_program(), "--config", str(server))
        until(host.is_listening, "nats-server")
        host.prepare()
        host.start("agent", sys.executable, "-m", "agent", "--config", str(settings))
        yield host
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
        raise
    finally:
        host.stop()


def _settings(
    namespace: str,
    interfaces: tuple[str, ...],
    underlay: tuple[str, ...],
    folder: Path,
    cache: Path,
    observe: float,
    hook: str,
) -> str:
    return f"""host = "{NAME}"
instance = "{namespace}"
interfaces = {json.dumps(interfaces)}
endpoint_hook = "{hook}"
uplink_hook = "{hook}"
state = "{folder}/state"
cache = "{cache}"

[bus]
servers = ["nats://{SERVER}:{PORT}"]

[log]
format = "human"

[data_plane]
underlay = {json.dumps(underlay)}

[interval]
heartbeat = 1.0
observe = {observe}
retry = 1.0
"""
