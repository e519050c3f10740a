"""A prober of the near host with what it hands on, and helpers for tests of probes over real links."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import pytest
from lab.waiting import PATIENCE

from agent.core.faults.tracker import ReportFaults
from agent.core.model.local_droplets import IngressAddress
from agent.core.model.map_layout import mapped
from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import PathFindings, Peer, Senders
from agent.core.nexthop.peers import Droplets
from agent.core.probe.paths import Path, Rules
from agent.probe.path_events import PathEvents
from agent.probe.path_memory import PathMemory
from agent.probe.prober import Prober
from agent.telemetry.fault_reporter import FaultReporter
from agent.telemetry.loop_errors import LoopErrors
from protocol.documents import Droplet

from .conftest import _libc, enter
from .routed import PORT, V4, V6, Addresses, Reflector, Routed, routed

NONCE = b"8 bytes!"
QUICK = Rules(interval=0.1, deadline=0.2, check_every=1.0, narrow_every=0.5)
both = pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])


@contextmanager
def in_near_host() -> Iterator[Routed]:
    """Create two hosts with a router between them, and have this thread enter the near one."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        with routed() as made:
            enter(made.near)
            yield made
            _libc.setns(home, 0x40000000)
    finally:
        _libc.setns(home, 0x40000000)
        os.close(home)


class Heard(list[object]):
    """The arguments of a callback's calls, and a means to wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def take(self, *what: object) -> None:
        self.append(what)
        self._more.set()

    async def come(self, number: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self) < number:
                self._more.clear()
                await self._more.wait()


def path_of(family: Addresses) -> Path:
    return Path(family.packed(family.near), family.packed(family.far))


def errors(report: ReportFaults = lambda _source, _faults: None) -> LoopErrors:
    return LoopErrors(report)


def prober(
    rules: Rules,
    ports: tuple[int, ...],
    set_peers: Callable[[str, tuple[str, ...]], None] = lambda _kind, _lines: None,
    report: ReportFaults = lambda _source, _faults: None,
    memory: PathMemory | None = None,
) -> Prober:
    events = PathEvents(set_peers)
    return Prober(rules, ports, frozenset, memory or PathMemory(), events, errors(report), report)


class ProbeSetup:
    """A prober with all that it hands on: peers for the neighbour watch, events for the bus."""

    def __init__(self, net: Routed, family: Addresses, rules: Rules) -> None:
        near, far = family.packed(family.near), family.packed(family.far)
        index = socket.if_nametoindex("eth0")
        self.uplink = Uplink("eth0", index, bytes(6), 1500, (near,), (index,), index, index)
        self.family = family
        self.far = far
        self.peers: dict[bytes, Peer] = {}
        self.senders: dict[tuple[int, int], int] = {}
        self.events: list[tuple[str, tuple[str, ...]]] = []
        self.faults = FaultReporter(lambda _kind, _lines: None)
        self.prober = prober(rules, (PORT, 4789), self._tell, self.faults.report)
        self.prober.peers.subscribe("watch", lambda found: self.watch(*found), errors(self.faults.report))
        self.task = asyncio.create_task(self.prober.run())
        self.follow()

    def follow(self, **others: Droplet) -> None:
        droplets = {
            "near": Droplet("near", "h1", self.family.near),
            "far": Droplet("far", "h2", self.family.far),
            **others,
        }
        own = {"near": droplets["near"]}
        places = {IngressAddress(mapped(self.uplink.addresses[0]), self.uplink.ifindex): 2}
        topo = ResolvedState(
            HostState("h1", "h1", (self.uplink,)), {"droplets": droplets}, own=own, numbers={"droplets": places}
        )
        peers = {self.family.packed(one.address): Peer() for one in droplets.values() if one.host != "h1"}
        self.prober.follow(Droplets(topo, peers))

    def watch(self, peers: Mapping[bytes, Peer], senders: Senders) -> None:
        self.peers, self.senders = dict(peers), dict(senders)

    def _tell(self, kind: str, lines: tuple[str, ...]) -> None:
        self.events.append((kind, lines))

    @property
    def found(self) -> PathFindings:
        return self.peers[self.far].by.get(self.uplink.ifindex, PathFindings())

    def state(self) -> tuple[str, int]:
        view = next(view for _, _, view in self.prober.views())
        return view.liveness.value, view.usable

    def standing(self) -> list[tuple[str, str]]:
        return [(fault.kind, fault.subject) for fault in self.faults.standing()]

    async def more_probes(self, number: int = 10) -> None:
        """Wait until so many more have been tried than it takes to lose a peer."""
        before = self.prober.counts.sent
        await self.until(lambda: self.prober.counts.sent > before + number)

    async def until(self, wanted: Callable[[], bool], seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds):
            while not wanted():  # noqa: ASYNC110 -- another task's state changes at no known moment
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def probing(net: Routed, family: Addresses, rules: Rules = QUICK) -> AsyncIterator[tuple[Reflector, ProbeSetup]]:
    """Have the near host probe the far one, which reflects."""
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, rules)
    try:
        yield reflector, setup
    finally:
        await setup.close()
        reflector.close()
