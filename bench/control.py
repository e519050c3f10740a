"""The control plane, measured with a real nats-server and a real agent: latency of one document, bulk, memory, restart.

Plays the management plane for one host of the lab: publishes documents and watches the acknowledgements. Times are wall
clock from handing a document to the client until its acknowledgement is back. Each has a yardstick in the same minutes:
how long the server takes to store a document, and how long a process takes that decodes the same documents and writes
them into a map (`bench.yardstick`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.datapath.bpf import syscall as bpf
from bench import yardstick
from bench.hosts import Setup, pairs_of
from bench.probe import Probe
from controller_sim.control.bus import connected
from controller_sim.control.compiler import MAX_ENDPOINTS
from controller_sim.control.publisher import Change, bulk_changes, publish
from controller_sim.lab import underlay
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in
from protocol import codec, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Attachment, Document, Endpoint
from protocol.status import AgentState, Status

AGENTS = Setup("ours", "physical", "")
HOST, OTHER, NETWORK = "h1", "h2", "many"
FIRST_ADDRESS = int(IPv4Address("10.128.0.16"))
PATIENCE = 180.0
MILLION = 1_000_000
WARM_UP = 5
YARDSTICK_RUNS = 3

Say = Callable[[str], None]


class NotRealizedError(RuntimeError):
    """A document was acknowledged with another state than `realized`, or not in time."""


class Bulk(NamedTuple):
    """One bulk: seconds until all were realized and acknowledged, the agent's own CPU time, and memory in bytes.

    `yardstick` are runs over the same documents, made right after it.
    """

    endpoints: int
    seconds: float
    cpu_seconds: float
    resident_before: int
    resident_after: int
    kernel_bytes: int
    yardstick: list[yardstick.Run]


class Restart(NamedTuple):
    """A killed agent's return: seconds from its start to in sync, and the requests that went through meanwhile."""

    seconds: float
    sent: int
    answered: int
    yardstick: yardstick.Run


class Latency(NamedTuple):
    """Seconds until the server confirmed a document for no host, and until the agent realized one, in turns."""

    stored: float
    realized: float


@dataclass(frozen=True, slots=True)
class Control:
    """All that was measured, in seconds. `maps_cpu` is the agent's CPU time for one of the documents of `maps`."""

    maps: list[Latency]
    maps_cpu: float
    veths: list[Latency]
    bulks: list[Bulk]
    restarts: list[Restart]
    million: Bulk | None = None


def remote_endpoints(prefix: str, count: int, start: int = 0) -> list[Endpoint]:
    """Return endpoints on the other host."""
    return [
        Endpoint(f"{prefix}-{n}", NETWORK, OTHER, (str(IPv4Address(FIRST_ADDRESS + n)),), _mac(n))
        for n in range(start, start + count)
    ]


def _mac(number: int) -> str:
    return (0x02BE00000000 + number).to_bytes(6, "big").hex(":")


class Acks:
    """The host's acknowledgements as they come, each with the time at which it was seen."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Acknowledgement, float]] = {}
        self._changed = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """Take in one message."""
        now = time.perf_counter()
        ack = codec.decode(message.data, Acknowledgement)
        self._seen[ack.document] = (ack, now)
        self._changed.set()

    def forget(self) -> None:
        """Begin anew."""
        self._seen.clear()

    async def wait(self, documents: Iterable[str], *, removed: bool = False) -> float:
        """Wait until all of these are realized, return when the last was acknowledged; NotRealizedError otherwise."""
        missing = set(documents)
        deadline, last = time.monotonic() + PATIENCE, 0.0
        while missing:
            for name in list(missing & self._seen.keys()):
                ack, at = self._seen[name]
                if ack.removed == removed and ack.state is State.REALIZED:
                    missing.discard(name)
                    last = max(last, at)
            if missing:
                await self._next(missing, deadline)
        return last

    async def _next(self, missing: set[str], deadline: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._changed.wait()
        except TimeoutError:
            name = min(missing)
            found = self._seen.get(name)
            state = found[0].state if found else "not acknowledged"
            raise NotRealizedError(f"{len(missing)} documents are not realized; {name}: {state}") from None


class Bench:
    """The measurements, on one connection."""

    def __init__(self, lab: Lab, client: Client, acks: Acks, folder: Path, say: Say) -> None:
        self._folder = folder
        self._lab = lab
        self._client = client
        self._acks = acks
        self._say = say
        self._kept: list[str] = []

    async def _stored(self, number: int) -> float:
        """Return how long the server takes to confirm one document for no host: the bus and its disk alone."""
        began = time.perf_counter()
        await publish(self._client, [Change("no-such-host", f"bench.{number}", b"x" * 120)])
        return time.perf_counter() - began

    async def one_by_one(self, endpoints: list[Endpoint]) -> list[Latency]:
        """Publish one document for each endpoint, each after the former is acknowledged, and then remove them all."""
        times, names = [], []
        for number, endpoint in enumerate(endpoints):
            stored = await self._stored(number)
            name = f"one.{endpoint.id}"
            body = codec.encode(Document(endpoints=(endpoint,)))
            began = time.perf_counter()
            await publish(self._client, [Change(HOST, name, body)])
            times.append(Latency(stored, await self._acks.wait([name]) - began))
            names.append(name)
        await self._remove(names)
        return times[WARM_UP:]

    async def maps(self, count: int) -> list[Latency]:
        """Return the latencies of endpoints on another host: entries of a map."""
        self._say(f"{count} documents one by one: an endpoint elsewhere")
        return await self.one_by_one(remote_endpoints("elsewhere", count + WARM_UP))

    async def veths(self, count: int) -> list[Latency]:
        """Return the latencies of endpoints on this host: a veth pair into a namespace that is there."""
        self._say(f"{count} documents one by one: an endpoint here, with its veth")
        local = []
        for n in range(count + WARM_UP):
            underlay.add_endpoint(self._lab.names, f"here-{n}")
            place = Attachment(self._lab.names.endpoint(f"here-{n}"))
            address = str(IPv4Address(FIRST_ADDRESS + n))
            local.append(Endpoint(f"here-{n}", NETWORK, HOST, (address,), _mac(n), place))
        return await self.one_by_one(local)

    async def bulk(self, count: int, *, keep: bool) -> Bulk:
        """Publish endpoints in documents as large as the controller makes them; remove them unless they are kept."""
        self._say(f"bulk: {count:,} endpoints")
        changes = list(bulk_changes(HOST, f"bulk.n{count}", remote_endpoints("bulk", count), MAX_ENDPOINTS))
        names = [change.document for change in changes]
        self._kept = names if keep else []
        resident, held, worked = self._resident(), self._map_bytes(), self.cpu_seconds()
        began = time.perf_counter()
        publishing = asyncio.create_task(publish(self._client, changes))
        seconds = await self._acks.wait(names) - began
        worked = self.cpu_seconds() - worked
        await publishing
        await asyncio.sleep(1.0)  # until the agent has given back what it needed on the way
        held = self._map_bytes() - held
        found = Bulk(count, seconds, worked, resident, self._resident(), held, await self._yardstick(changes))
        if not keep:
            await self._remove(names)
        return found

    async def _yardstick(self, changes: list[Change]) -> list[yardstick.Run]:
        """Run the yardstick over the documents of a bulk, which stay in the folder for the restart."""
        self._say("the yardstick: decode and write the same documents")
        shutil.rmtree(self._folder, ignore_errors=True)
        await asyncio.to_thread(yardstick.keep, self._folder, [change.body or b"" for change in changes])
        return [await asyncio.to_thread(yardstick.run, self._folder) for _ in range(YARDSTICK_RUNS)]

    async def million(self) -> Bulk:
        """Publish a million endpoints, in place of the bulk that was kept."""
        await self._remove(self._kept)
        return await self.bulk(MILLION, keep=True)

    async def restart(self, probe: Probe) -> Restart:
        """Kill the agent under traffic, start it again, and wait until it says that it is in sync."""
        self._say("restart: kill -9 under traffic")
        synced = asyncio.Event()

        async def heard(message: Msg) -> None:
            if codec.decode(message.data, Status).state is AgentState.IN_SYNC:
                synced.set()

        with probe.dripping(pairs_of(AGENTS, self._lab.names).two_hosts) as finish:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(self._lab.stop_agent, HOST, signal.SIGKILL)
            subscription = await self._client.subscribe(subjects.status(HOST), cb=heard)
            await self._client.flush()
            began = time.perf_counter()
            await asyncio.to_thread(self._lab.start_agent, HOST)
            async with asyncio.timeout(PATIENCE):
                await synced.wait()
            took = time.perf_counter() - began
            await asyncio.sleep(0.5)
            await subscription.unsubscribe()
            answered = await asyncio.to_thread(finish)
        return Restart(took, *answered, await asyncio.to_thread(yardstick.run, self._folder))

    async def _remove(self, names: list[str]) -> None:
        await publish(self._client, [Change(HOST, name, None) for name in names])
        await self._acks.wait(names, removed=True)
        self._acks.forget()

    def _proc(self, file: str) -> list[str]:
        """Return the words of one of the agent's files in /proc, without its name (proc(5))."""
        pid = self._lab.paths.load().agents[HOST].pid
        return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").rpartition(")")[2].split()

    def _resident(self) -> int:
        return int(self._proc("statm")[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return the CPU time that the agent has used, in user mode and in the kernel."""
        user, system = self._proc("stat")[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _map_bytes(self) -> int:
        """Return what the kernel accounts for all maps of the host."""
        total = 0
        for path in self._lab.paths.pins(HOST).glob("v*/maps/*"):
            fd = bpf.open_pin(path)
            try:
                lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
            finally:
                os.close(fd)
            total += next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))
        return total


@asynccontextmanager
async def _watching_acks(client: Client) -> AsyncIterator[Acks]:
    acks = Acks()
    topic = subjects.ack(HOST, ">")
    subscription = await client.subscribe(topic, cb=acks.take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    try:
        yield acks
    finally:
        await subscription.unsubscribe()


@dataclass(frozen=True, slots=True)
class Share:
    """How much is measured: endpoints of each bulk, documents one by one, restarts, and whether a bulk of a million."""

    bulks: tuple[int, ...]
    documents: int
    veths: int
    restarts: int
    million: bool


def measure(lab: Lab, probe: Probe, share: Share, folder: Path, say: Say) -> Control:
    """Measure everything; the last bulk stays for the restarts, a million comes after them. `folder` is a new one.

    NotRealizedError when a document is not realized.
    """
    access = lab.access()

    async def work() -> Control:
        async with connected(access, "bench") as client, _watching_acks(client) as acks:
            bench = Bench(lab, client, acks, folder, say)
            worked = bench.cpu_seconds()
            maps = await bench.maps(share.documents)
            maps_cpu = (bench.cpu_seconds() - worked) / (share.documents + WARM_UP)
            local = await bench.veths(share.veths)
            found = [await bench.bulk(count, keep=count == share.bulks[-1]) for count in share.bulks]
            restarts = [await bench.restart(probe) for _ in range(share.restarts)]
            million = await bench.million() if share.million else None
            return Control(maps, maps_cpu, local, found, restarts, million)

    return run_coroutine_in(lab.names.fabric, work)
