"""The real applier and the real store over the fake kernel, and the ways to send documents to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog
from agent_worlds import World, body
from fake_kernel import FakeKernel

from agent.applier import Applier
from agent.bus.documents import Delivery
from agent.core.paths import KnownPaths
from agent.core.registry import Verdict
from agent.faults import FaultReporter
from agent.settings import Settings
from agent.store import Store

SETTINGS = Settings(host="h1", interfaces=("eth0", "bond0"), instance="test")


class Agent:
    """One life of an agent after another, on one kernel and one folder."""

    def __init__(self, folder: Path, kernel: FakeKernel | None = None) -> None:
        self.kernel = kernel or FakeKernel()
        self.told: dict[str, Verdict] = {}
        self.told_at: dict[str, float] = {}
        self.repaired: list[str] = []
        self.known: KnownPaths = {}
        """What the next agent to start is told of paths."""
        self._folder = folder
        self._store: Store | None = None
        self.applier: Applier

    async def start(self) -> None:
        """Start, or die without a word and start again."""
        self.stop()
        self._store = Store(self._folder, "h1")
        quiet = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.faults = FaultReporter(lambda _kind, _lines: None, quiet)  # type: ignore[arg-type]
        self.applier = Applier(
            SETTINGS,
            self.kernel,
            self._store,
            self._tell,
            self.repaired.extend,
            quiet,  # type: ignore[arg-type]
            known=self.known,
            report=self.faults.report,
        )
        await self.applier.start()
        await self.applier.begin_snapshot()

    def stop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _tell(self, verdict: Verdict, now: float) -> None:
        self.told[verdict.name] = verdict
        self.told_at[verdict.name] = now

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        await self.applier.deliver(deliveries)

    async def complete(self) -> None:
        await self.applier.snapshot_complete()

    def verdicts(self) -> dict[str, tuple[str, int, int]]:
        """Return what stands for each document: the state, its revision, and the one in force."""
        documents = self.applier.desired.documents
        found = (self.applier.desired.verdict(name) for name in documents.names())
        return {v.name: (v.state.value, v.revision, v.in_force) for v in found}


class Stream:
    """What the controller published: revisions counted over all documents, as one stream does."""

    def __init__(self) -> None:
        self.sequence = 0
        self.now: dict[str, tuple[bytes, ...]] = {}
        self.newest: dict[str, Delivery] = {}
        """The stream's content, for a replay: removals stay in it as markers."""

    def lead_to(self, world: World) -> list[Delivery]:
        """Return the messages that lead from the world as it was published to another one."""
        deliveries: list[Delivery] = []
        for name in [name for name in self.now if name not in world]:
            deliveries.append(self._publish(name, None))
            del self.now[name]
        known_first = sorted(world.items(), key=lambda item: (len(item[1]) > 1, item[0] not in self.now))
        for name, contents in known_first:
            bodies = tuple(body(content) for content in contents)
            have = self.now.get(name, ())
            missing = bodies[len(have) :] if bodies[: len(have)] == have else bodies
            deliveries += [self._publish(name, one) for one in missing]
            self.now[name] = bodies
        return deliveries

    def _publish(self, name: str, content: bytes | None) -> Delivery:
        self.sequence += 1
        delivery = Delivery(name, self.sequence, content)
        self.newest[name] = delivery
        return delivery

    def replay(self) -> list[Delivery]:
        return sorted(self.newest.values(), key=lambda delivery: delivery.revision)


def one_by_one(deliveries: Iterable[Delivery]) -> list[list[Delivery]]:
    return [[delivery] for delivery in deliveries]
