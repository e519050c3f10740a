"""A real nats-server on a free loopback port, which a test can kill and start again, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import nats
import nkeys
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, StorageType, StreamConfig
from nats.js.errors import ServerError

from agent.bus.bus import Bus
from agent.bus.connection.settings import BusSettings
from agent.bus.connection.tasks import end
from agent.bus.rpc import RpcError
from agent.core.config.delivery import Delivery
from agent.telemetry.fault_reporter import FaultReporter
from lab.waiting import PATIENCE
from protocol import binding, permissions, streams, subjects
from protocol.status import Fault

CANNOT_CREATE_STORE = 10049
"""The server's code for a stream whose folder it cannot make yet (JSStreamCreateErrF of nats-server)."""


def server_binary() -> str:
    """Return the nats-server of this environment."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server") or "nats-server"


def free_port() -> int:
    """Return a free port below those that the kernel gives to clients, which could take it before a server does."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class User:
    """A client's nkey: the seed's file, and the public key that the server knows."""

    seed_file: Path
    public: str


def make_user(folder: Path, name: str) -> User:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    path = folder / f"{name}.nk"
    path.write_bytes(seed)
    path.chmod(0o600)
    return User(path, nkeys.from_seed(bytearray(seed)).public_key.decode())


def _quoted(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def user_block(user: User, allowed: permissions.Permissions) -> str:
    """Return one user of a server's configuration."""
    publish = f"allow: {_quoted(allowed.publish)}" if allowed.publish else 'deny: [">"]'
    return (
        f"{{ nkey: {user.public}, permissions: {{ publish: {{ {publish} }},"
        f" subscribe: {{ allow: {_quoted(allowed.subscribe)} }} }} }}"
    )


@dataclass
class NatsServer:
    """A nats-server with JetStream on files in `folder`."""

    folder: Path
    port: int = field(default_factory=free_port)
    users: list[str] = field(default_factory=list)
    tls: str = ""
    sync: str = "always"
    cluster: str = ""
    """The server's name and its block `cluster`, where it is one of several."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'tls' if self.tls else 'nats'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.folder / "server.conf"
        users = f"authorization {{ users: [ {', '.join(self.users)} ] }}" if self.users else ""
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/store", sync_interval: {self.sync} }}\n'
            f"{users}\n{self.tls}\n{self.cluster}\n"
        )
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen([server_binary(), "-c", str(config)], stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text())
            time.sleep(0.02)

    def freeze(self) -> None:
        """Have it answer nothing any more, until it is killed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=20)
            self.process = None


def make_users(folder: Path) -> dict[str, User]:
    """Create the users that `guarded_server` knows, and one that it does not."""
    names = ("h1", "h2", "operator", "controller", "monitor", "rogue", "stranger")
    return {name: make_user(folder, name) for name in names}


def guarded_server(folder: Path, users: dict[str, User]) -> NatsServer:
    """Return a server of two hosts, an operator, a monitor, the controller, and a rogue.

    The rogue may publish whatever the controller may; nothing that it signs is trusted.
    """
    allowed = {
        "h1": permissions.of_host("h1"),
        "h2": permissions.of_host("h2"),
        "operator": permissions.of_operator(),
        "controller": permissions.of_controller(),
        "monitor": permissions.of_monitor(),
        "rogue": permissions.of_controller(),
    }
    return NatsServer(folder, users=[user_block(users[name], may) for name, may in allowed.items()])


def make_cluster(folder: Path, size: int = 3) -> dict[str, NatsServer]:
    """Return servers, by name, that will form a cluster once they are started."""
    ports = {f"n{number}": free_port() for number in range(1, size + 1)}
    routes = _quoted([f"nats://127.0.0.1:{port}" for port in ports.values()])
    made = {}
    for name, port in ports.items():
        (folder / name).mkdir()
        block = f'server_name: {name}\ncluster {{ name: lab, listen: "127.0.0.1:{port}", routes: {routes} }}'
        made[name] = NatsServer(folder / name, cluster=block)
    return made


async def make_streams(client: Client, hosts: Sequence[str] = ("h1",), replicas: int = 1) -> None:
    """Make what the controller makes: both streams, and a consumer per host."""
    await add_stream(
        client,
        StreamConfig(
            name=streams.CONFIG_STREAM,
            subjects=[streams.CONFIG_SUBJECTS],
            max_msgs_per_subject=1,
            storage=StorageType.FILE,
            num_replicas=replicas,
            allow_rollup_hdrs=True,
            allow_direct=True,
        ),
    )
    await add_stream(
        client,
        StreamConfig(
            name=streams.ACK_STREAM,
            subjects=[streams.ACK_SUBJECTS],
            max_msgs_per_subject=1,
            storage=StorageType.FILE,
            num_replicas=replicas,
            allow_direct=True,
        ),
    )
    for host in hosts:
        await make_consumer(client, host)


async def add_stream(client: Client, config: StreamConfig) -> None:
    """Make a stream; the server may still be busy to remove the files of one of that name."""
    for attempt in range(100):
        try:
            await client.jetstream().add_stream(config)
        except ServerError as error:
            if error.err_code != CANNOT_CREATE_STORE or attempt == 99:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def make_consumer(client: Client, host: str) -> None:
    config = ConsumerConfig(
        durable_name=host, filter_subject=subjects.config_of(host), ack_wait=2, max_ack_pending=4096
    )
    await client.jetstream().add_consumer(streams.CONFIG_STREAM, config)


async def publish_many(client: Client, host: str, bodies: dict[str, bytes]) -> int:
    """Publish documents without awaiting each; return the last one's revision."""
    js = client.jetstream()
    futures = []
    for name, body in bodies.items():
        subject = subjects.config(host, name)
        futures.append(await js.publish_async(subject, body, headers=binding.bound(subject)))
    return max(ack.seq for ack in await asyncio.gather(*futures))


async def remove(client: Client, host: str, name: str) -> None:
    """Publish the removal of a document."""
    subject = subjects.config(host, name)
    await client.jetstream().publish(subject, b"", headers={**streams.DELETE_HEADERS, **binding.bound(subject)})


class Recorder:
    """A handler that writes down what it is given."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.deliveries: list[Delivery] = []
        self.batches: list[int] = []
        self.begun = 0
        self.completed = 0
        self.reading = False
        """Whether a snapshot has begun that is not complete."""
        self.at_complete: list[int] = []
        self.fail_next = 0
        self.asked: list[tuple[str, bytes]] = []

    async def begin_snapshot(self) -> None:
        self.begun += 1
        self.reading = True

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        if self.fail_next:
            self.fail_next -= 1
            raise RuntimeError("the handler is unwell")
        self.batches.append(len(batch))
        for delivery in batch:
            self.deliveries.append(delivery)
            if delivery.refusal is not None:
                continue
            if delivery.body is None:
                self.documents.pop(delivery.document, None)
            else:
                self.documents[delivery.document] = delivery.body

    async def snapshot_complete(self) -> None:
        self.completed += 1
        self.reading = False
        self.at_complete.append(len(self.documents))

    async def ask(self, verb: str, body: bytes) -> bytes:
        self.asked.append((verb, body))
        if body == b"wrong":
            raise RpcError(404, "no such thing")
        if body == b"two lines":
            raise RpcError(400, "first line\r\nX-Second: line " + "a" * 100_000)
        if body == b"bug":
            raise KeyError("secret inside")
        return b"answer to " + verb.encode() + b" " + body


LOGGED: list[MutableMapping[str, Any]] = []
"""The log lines of the running test (`keep_log_lines`)."""


@contextlib.contextmanager
def keep_log_lines() -> Iterator[None]:
    """Keep the log lines of this process in `LOGGED` for the time of a block."""
    LOGGED.clear()

    def keep(_logger: object, level: str, event: MutableMapping[str, Any]) -> NoReturn:
        LOGGED.append({"level": level, **event})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep])
    try:
        yield
    finally:
        structlog.configure(**before)


class Lines:
    """The log lines of the running test, and the faults of one agent in it."""

    def __init__(self) -> None:
        self.lines = LOGGED
        self.events: list[tuple[str, tuple[str, ...]]] = []
        self.faults = FaultReporter(lambda kind, detail: self.events.append((kind, detail)))
        self.report = self.faults.report

    def standing(self, kind: str) -> Fault | None:
        """Return the fault of a kind that stands."""
        return next((fault for fault in self.faults.standing() if fault.kind == kind), None)

    def detail(self, kind: str) -> str:
        """Return the detail of the fault of a kind that stands, empty if there is none."""
        fault = self.standing(kind)
        return fault.detail if fault is not None else ""

    def began(self, kind: str) -> int:
        """Return how often a fault of a kind began."""
        return len(self.published("began", kind))

    def published(self, state: str, kind: str) -> list[str]:
        """Return the published lines about faults of a kind that `began`, `changed` or `ended`."""
        lines = [line for event, detail in self.events if event == "fault" for line in detail]
        return [line for line in lines if line.startswith(f"{state}: {kind} ")]

    def texts(self) -> list[str]:
        return [" ".join(str(value) for value in line.values()) for line in self.lines]


async def until(condition: object, seconds: float = PATIENCE) -> None:
    """Wait until a function says yes; fail after many seconds, which only bounds a broken run."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.01)


async def all_acknowledged(client: Client, host: str) -> None:
    """Wait until a host's consumer has nothing to deliver, and waits for no acknowledgement of a delivery."""
    deadline, left = time.monotonic() + PATIENCE, None
    while left != (0, 0):
        assert time.monotonic() < deadline, f"{left} messages are unacknowledged or undelivered"
        info = await client.jetstream().consumer_info(streams.CONFIG_STREAM, host)
        left = info.num_ack_pending, info.num_pending
        await asyncio.sleep(0.01)


async def serving(client: Client, host: str) -> None:
    """Wait until the running bus client of the agent answers all requests: it connects before it subscribes."""
    wanted = {subjects.rpc(host, verb) for verb in subjects.RPC_VERBS}
    found: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    while found != wanted:
        assert time.monotonic() < deadline, f"only {found} are answered"
        with contextlib.suppress(NatsError):
            info = json.loads((await client.request("$SRV.INFO.droplet", timeout=5)).data)
            found = {endpoint["subject"] for endpoint in info["endpoints"]}
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Bus]:
    """Run a bus for the time of a block."""
    task = asyncio.create_task(bus.run())
    try:
        yield bus
        if task.done():
            task.result()
    finally:
        await end([task])


@contextlib.asynccontextmanager
async def client_of(server: NatsServer, user: User | None = None, inbox: str = "_INBOX") -> AsyncIterator[Client]:
    """A plain client that keeps its errors in `client.seen`."""
    seen: list[Exception] = []

    async def keep(error: Exception) -> None:
        seen.append(error)

    options = {"nkeys_seed": str(user.seed_file)} if user else {}
    client = await nats.connect(server.url, error_cb=keep, allow_reconnect=True, inbox_prefix=inbox, **options)
    client.seen = seen
    try:
        yield client
    finally:
        await client.close()


def settings_of(server: NatsServer, user: User | None = None) -> BusSettings:
    return BusSettings((server.url,), nkey_seed_file=str(user.seed_file) if user else None)
