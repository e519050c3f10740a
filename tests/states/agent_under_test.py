"""The real reconciler and the real store over the fake kernel, and functions that send documents to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from agent_configurations import Configuration, body
from fake_kernel import FakeKernel
from structlog.testing import capture_logs

from agent.core.config.delivery import Delivery
from agent.core.config.registry import DocumentStatus
from agent.core.plan.slot_guard import SlotGuard
from agent.core.probe.paths import PathRecords
from agent.reconcile.acknowledgements import Acknowledgements
from agent.reconcile.function_versions import FunctionVersions
from agent.reconcile.kernel_results import KernelResults
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.restore import restore
from agent.reconcile.resync import Resync
from agent.reconcile.retry import Retries
from agent.reconcile.underlay import Underlay
from agent.settings import FunctionsSection, Settings
from agent.store.last_good import LastGood
from agent.store.process_bindings import BoundProcesses
from agent.store.store import Store
from agent.telemetry.fault_reporter import FaultReporter
from agent.telemetry.loop_errors import LoopErrors
from protocol.acknowledgements import Acknowledgement

SETTINGS = Settings(
    host="h1",
    interfaces=("eth0", "bond0"),
    instance="test",
    functions=FunctionsSection(accept=("source", "file"), folder="/functions", host_wide=("f_host*",), vpc_slots=8),
)
FIRST_RETRY = 5.0


@contextmanager
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Collect the log lines of a block: tests of states otherwise have none (`conftest.py`)."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    try:
        with capture_logs() as lines:
            yield lines
    finally:
        structlog.configure(**before)


class Agent:
    """One life of an agent after another, on one kernel and one folder."""

    def __init__(self, folder: Path, kernel: FakeKernel | None = None) -> None:
        self.kernel = kernel or FakeKernel()
        self.last_acks: dict[str, Acknowledgement] = {}
        self.acknowledged: dict[str, DocumentStatus] = {}
        self.acknowledged_at: dict[str, float] = {}
        self.repaired: list[str] = []
        self.known: PathRecords = {}
        """The path state that the next agent starts with."""
        self.now = 0.0
        """The clock by which documents are tried again."""
        self._folder = folder
        self._store: Store | None = None
        self.reconciler: Reconciler
        self.resync: Resync
        self.retries: Retries

    @property
    def store(self) -> Store:
        assert self._store is not None
        return self._store

    async def start(self) -> None:
        """Start, or die without a word and start again."""
        self.stop()
        self._store = Store(self._folder, "h1")
        self.faults = FaultReporter(lambda _kind, _lines: None)
        kernel, report = self.kernel, self.faults.report
        kernel.guard = SlotGuard()
        processes = BoundProcesses(kernel.bindings, self._store)
        restored = await restore(SETTINGS, kernel, self._store, processes, self.known)
        self.underlay = underlay = Underlay(SETTINGS, kernel, restored.found, restored.inherited)
        self.errors = LoopErrors(report)
        underlay.droplets.subscribe("peers", kernel.take_droplets, self.errors)
        self.retries = Retries(FIRST_RETRY, lambda: self.now)
        results = KernelResults(restored.desired, LastGood(self._store, processes, report))
        acknowledgements = Acknowledgements(self._on_acknowledgement, self.retries)
        histories = restored.found.histories
        versions = FunctionVersions(kernel, self._store, report, histories, lambda: self.now)
        self.reconciler = Reconciler(restored.desired, kernel, underlay, results, acknowledgements, versions)
        self.resync = Resync(self.reconciler, kernel, processes, self.repaired.extend, report)
        await self.reconciler.start()
        await self.reconciler.begin_snapshot()

    async def retry(self, seconds: float = 1e6) -> None:
        """Let time pass, by default until it is every failed document's turn, and try those whose turn it is."""
        self.now += seconds
        await self.retries.try_due(self.resync.retry)

    def stop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _on_acknowledgement(self, answer: Acknowledgement) -> None:
        self.last_acks[answer.document] = answer
        self.acknowledged[answer.document] = self.reconciler.desired.status(answer.document)
        self.acknowledged_at[answer.document] = answer.at

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Deliver, and have all programs checked that came with it."""
        await self.reconciler.deliver(deliveries)
        while not self.reconciler.programs.are_known:
            await self.reconciler.check_program()

    async def complete(self) -> None:
        await self.reconciler.snapshot_complete()

    def statuses(self) -> dict[str, tuple[str, int, int]]:
        """Return what stands for each document: the state, its revision, and the one in force."""
        documents = self.reconciler.desired.documents
        found = (self.reconciler.desired.status(name) for name in documents.names())
        return {v.name: (v.state.value, v.revision, v.in_force) for v in found}


class Stream:
    """What the controller published: revisions counted over all documents, as one stream does."""

    def __init__(self) -> None:
        self.sequence = 0
        self.now: dict[str, tuple[bytes, ...]] = {}
        self.newest: dict[str, Delivery] = {}
        """The stream's content, for a replay: removals stay in it as markers."""

    def lead_to(self, configuration: Configuration) -> list[Delivery]:
        """Return the messages that lead from the resolved state as it was published to another one."""
        deliveries: list[Delivery] = []
        for name in [name for name in self.now if name not in configuration]:
            deliveries.append(self._publish(name, None))
            del self.now[name]
        known_first = sorted(configuration.items(), key=lambda item: (len(item[1]) > 1, item[0] not in self.now))
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


async def publish(agent: Agent, stream: Stream, configuration: Configuration) -> None:
    """Deliver, one by one, the messages that lead to a configuration."""
    for batch in one_by_one(stream.lead_to(configuration)):
        await agent.deliver(batch)
