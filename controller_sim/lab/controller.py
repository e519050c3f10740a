"""The simulated controller of a lab: publishes the documents of the topology and waits until the hosts realize them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nats.aio.client import Client
from nats.aio.msg import Msg

from controller_sim.control.bus import BusError, ask, connected, ensure_consumers, ensure_streams, read_stream
from controller_sim.control.convergence import Report, Watcher, watching
from controller_sim.control.moves import Move, Moved, in_phases
from controller_sim.control.publisher import Change, Published, held_only_by_hosts, publish, stray_removals
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in
from controller_sim.lab.state import LabError, command_of
from protocol import codec, streams, subjects
from protocol.errors import DocumentError
from protocol.status import AgentState, Status

CONVERGE_TIMEOUT = 60.0
RELEASE_TIMEOUT = 10.0
"""Seconds to wait until a host has released its moving endpoints; then they are published to their new hosts anyway."""
ANSWER_TIMEOUT = 30.0
"""Seconds until an agent that was started, or whose server was, must answer."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a publication is.

    Agents that said that they are there; documents that this publication published, and those that it removed;
    documents that there are, and how many of them are realized.
    """

    agents: int = 0
    published: int = 0
    removed: int = 0
    documents: int = 0
    realized: int = 0


OnProgress = Callable[[Progress], None]


def prepare(lab: Lab) -> None:
    """Create the streams and every host's consumer, before any agent starts."""

    async def work() -> None:
        async with connected(access) as client:
            await ensure_streams(client)
            await ensure_consumers(client, hosts)

    access, hosts = lab.access(), lab.topology().hosts
    run_coroutine_in(lab.names.fabric, work)


def converge(
    lab: Lab,
    on_progress: OnProgress = lambda _: None,
    timeout: float = CONVERGE_TIMEOUT,
    *,
    agents_first: bool = False,
) -> Report:
    """Publish the documents that differ, and report their states once all are realized or after `timeout` seconds.

    `agents_first` waits for every agent's first heartbeat before anything is published. LabError when an agent that
    ran ends meanwhile, BusError when the server does not answer.
    """

    async def work() -> Report:
        async with connected(access) as client, watching(client) as watcher:
            return await _Publication(lab, client, watcher, on_progress).run(timeout, agents_first=agents_first)

    access = lab.access()
    return run_coroutine_in(lab.names.fabric, work)


class _Publication:
    """One round of publishing, with what came back."""

    def __init__(self, lab: Lab, client: Client, watcher: Watcher, on_progress: OnProgress) -> None:
        self.lab = lab
        self.client = client
        self.watcher = watcher
        self.on_progress = on_progress
        self.hosts = set(lab.topology().hosts)
        self.stopped = set(lab.ended_agents())
        self.agents: set[str] = set()
        self.published = 0
        self.removed = 0
        self.released: dict[Move, tuple[float | None, float | None]] = {}

    async def run(self, patience: float, *, agents_first: bool) -> Report:
        deadline = time.monotonic() + patience
        if agents_first:
            self.stopped.clear()  # all were started just now: one that has ended already has failed
        await self.client.subscribe(subjects.status("*"), cb=self._heartbeat)
        while agents_first and self.agents != self.hosts and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            self._check_agents()
            self._report_progress()
        await self._publish()
        await self.watcher.expect_stored()
        while not await self.watcher.wait(0.2) and time.monotonic() < deadline:
            self._report_progress()
            self._check_agents()
        self._report_progress()
        return replace(self.watcher.tracker.report(), moves=self._moved())

    async def _publish(self) -> None:
        """Publish the documents that differ; a moving endpoint only once its old host has released it."""
        documents = self.lab.documents()
        self.watcher.tracker.holds(documents)
        stored = await read_stream(self.client, streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS)
        await publish(self.client, stray_removals(stored), self._removed_stray)
        phases = in_phases(documents, stored)
        forgotten = await held_only_by_hosts(self.client, documents, stored)
        for changes in (forgotten, phases.before, phases.release, phases.rest):
            await publish(self.client, changes, self._published)
        await self._publish_arrivals(phases.arrivals)

    async def _publish_arrivals(self, arrivals: Mapping[Move, Sequence[Change]]) -> None:
        """Publish each moving endpoint to its new host once the old host has released it, or after RELEASE_TIMEOUT."""
        deadline = time.monotonic() + RELEASE_TIMEOUT
        tracker, waiting, published = self.watcher.tracker, dict(arrivals), set[tuple[str, str]]()
        while waiting:
            late = time.monotonic() >= deadline
            ready = [move for move in waiting if late or tracker.realized_at(move.source, move.document)]
            changes: list[Change] = []
            for move in ready:
                self.released[move] = tracker.times_of(move.source, move.document)
                fresh = [one for one in waiting.pop(move) if (one.host, one.document) not in published]
                published |= {(one.host, one.document) for one in fresh}
                changes += fresh
            await publish(self.client, changes, self._published)
            if waiting and not ready:
                await self.watcher.wait_for_acks(0.2)
                self._check_agents()

    def _moved(self) -> tuple[Moved, ...]:
        found = []
        for move, (began, released) in self.released.items():
            arrived = self.watcher.tracker.realized_at(move.destination, move.document)
            seconds = [None if end is None or began is None else end - began for end in (released, arrived)]
            found.append(Moved(move, *seconds))
        return tuple(found)

    def _removed_stray(self, _: Published) -> None:
        """Count a removal that no host acknowledges."""
        self.removed += 1
        self._report_progress()

    def _published(self, published: Published) -> None:
        self.removed += published.removed
        self.published += not published.removed
        self.watcher.tracker.expect(published)
        self._report_progress()

    async def _heartbeat(self, message: Msg) -> None:
        self.agents.add(message.subject.split(".")[2])

    def _report_progress(self) -> None:
        tracker = self.watcher.tracker
        counts = (len(self.agents), self.published, self.removed, tracker.documents, tracker.realized)
        self.on_progress(Progress(*counts))

    def _check_agents(self) -> None:
        ended = {host: log for host, log in self.lab.ended_agents().items() if host not in self.stopped}
        if ended:
            host, log = next(iter(ended.items()))
            raise LabError(f"the agent of {host} exited; the end of its log:\n{log}")


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab at one moment. `heartbeats` holds None for a host that does not answer; without a server, for all.

    `strays` describes the messages of the configuration stream that name no document, one line each.
    """

    server: bool
    agents: dict[str, bool]
    heartbeats: dict[str, Status | None]
    report: Report
    strays: tuple[str, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """Return each problem once, the most important first; empty if there is none."""
        stopped = [host for host, runs in self.agents.items() if not runs]
        silent = [host for host, status in self.heartbeats.items() if status is None and host not in stopped]
        found = [] if self.server else ["nats-server is stopped"]
        if stopped:
            found.append(f"the agent{'s' * (len(stopped) > 1)} of {_listed(stopped)} {_is(len(stopped))} stopped")
        if self.server:
            if silent:
                found.append(f"{_listed(silent)} {'does' if len(silent) == 1 else 'do'} not answer")
            found += troubles({host: status for host, status in self.heartbeats.items() if status is not None})
            found += [] if self.report.hosts else list(self.report.problems) or ["no documents are published"]
        return [*found, *_unrealized(self.report), *self.strays]


def _unrealized(report: Report) -> list[str]:
    hosts = report.hosts.values()
    left, removing = sum(host.documents - host.realized for host in hosts), sum(host.removing for host in hosts)
    found = [f"{left} of {report.documents} documents {_is(left)} not realized"] if left else []
    return found + ([f"{removing} removal{'s' * (removing > 1)} {_is(removing)} not realized"] if removing else [])


def troubles(statuses: Mapping[str, Status]) -> list[str]:
    """Return the problems that hosts report; one that several hosts report is one line with all their names."""
    hosts_by_trouble: dict[tuple[str, str, str], list[str]] = {}
    for host, status in statuses.items():
        for trouble in _troubles(status):
            hosts_by_trouble.setdefault(trouble, []).append(host)
    return [
        f"{_listed(hosts)} {one if len(hosts) == 1 else several} {rest}"
        for (one, several, rest), hosts in hosts_by_trouble.items()
    ]


def _troubles(status: Status) -> Iterator[tuple[str, str, str]]:
    """Yield the problems of one host: the verb for one host, the verb for several, and the rest of the line."""
    for way in _without_next_hop(status):
        yield "has", "have", way
    if status.unreadable:
        yield "could not", "could not", f"read the kernel: {status.unreadable}"
    for droplet in status.down_droplets:
        yield "gets", "get", f"no answer from {droplet}"
    for path in status.narrow_paths:
        to = f"to {path.droplet}"
        yield f"{to} carries", f"{to} carry", f"{path.carries} of {path.configured}"
    for fault in status.faults:
        yield "reports", "report", f"{fault.kind} {fault.subject}: {fault.detail}"


def _without_next_hop(status: Status) -> list[str]:
    return [f"no next hop to {_listed(one.addresses)}: {one.reason}" for one in status.unresolved_next_hops]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def read_status(lab: Lab) -> LabStatus:
    """Return the running processes, the status of each host, and the state of every document."""
    hosts = lab.topology().hosts

    async def work() -> tuple[dict[str, Status | None], Report, tuple[str, ...]]:
        async with connected(access) as client:
            watcher = Watcher(client)
            await watcher.expect_stored()
            answers = await asyncio.gather(*(_ask_status(client, host) for host in hosts))
            return dict(zip(hosts, answers, strict=True)), watcher.tracker.report(), watcher.strays

    access = lab.access()
    try:
        heard = run_coroutine_in(lab.names.fabric, work)
    except BusError as error:
        heard = dict.fromkeys(hosts), Report({}, (str(error),)), ()
    return LabStatus(lab.server_runs(), {host: lab.agent_runs(host) for host in hosts}, *heard)


def wait_for_answers(lab: Lab, hosts: list[str], timeout: float = ANSWER_TIMEOUT) -> dict[str, Status]:
    """Wait until hosts answer and have received their documents; return their status.

    LabError after `timeout` seconds, or as soon as one of the agents ends; BusError when the server does not answer.
    """

    async def work() -> dict[str, Status]:
        found: dict[str, Status] = {}
        deadline = time.monotonic() + timeout
        async with connected(access) as client:
            while left := [host for host in hosts if host not in found]:
                answers = await asyncio.gather(*(_ask_status(client, host) for host in left))
                ready = (AgentState.IN_SYNC, AgentState.DEGRADED)
                found |= {host: s for host, s in zip(left, answers, strict=True) if s is not None and s.state in ready}
                ended = [host for host in left if not lab.agent_runs(host)]
                if ended:
                    raise LabError(f"the agent of {ended[0]} exited; see `{command_of(lab.name)} logs {ended[0]}`")
                if len(found) < len(hosts) and time.monotonic() > deadline:
                    raise LabError(f"no answer within {timeout:.0f} s from {', '.join(set(hosts) - set(found))}")
                await asyncio.sleep(0.1)
        return found

    access = lab.access()
    return run_coroutine_in(lab.names.fabric, work)


def wait_for_next_hops(lab: Lab, timeout: float = ANSWER_TIMEOUT) -> None:
    """Wait until every host knows the Ethernet address that leads to each other one; LabError after `timeout` seconds.

    Each has to report it twice in a row: right after a change of droplets a host may not have looked them up yet.
    """

    async def work() -> None:
        deadline = time.monotonic() + timeout
        well = 0
        async with connected(access) as client:
            while well < 2:
                answers = await asyncio.gather(*(_ask_status(client, host) for host in hosts))
                lost = []
                for host, status in zip(hosts, answers, strict=True):
                    said = ["no answer"] if status is None else _without_next_hop(status)
                    lost += [f"{host}: {line}" for line in said]
                well = 0 if lost else well + 1
                if lost and time.monotonic() > deadline:
                    raise LabError("\n".join(lost))
                await asyncio.sleep(0.15)

    access, hosts = lab.access(), lab.topology().hosts
    run_coroutine_in(lab.names.fabric, work)


async def _ask_status(client: Client, host: str) -> Status | None:
    try:
        return codec.decode(await ask(client, host, "status", patience=1.0), Status)
    except (BusError, DocumentError):
        return None
