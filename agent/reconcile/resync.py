"""Compares the kernel with the documents in force while others are applied, and repairs foreign changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from agent.core.faults.tracker import ReportFaults
from agent.core.plan.actions import Action
from agent.core.plan.diff import KernelDiff
from agent.core.plan.observed import ObservationError, Observed
from agent.core.plan.planner import describe
from agent.core.plan.remedies import Step
from agent.errors import OperatorError, explain_error
from agent.reconcile.kernel_diff import diff_kernel
from agent.reconcile.kernel_port import KernelPort
from agent.reconcile.reconciler import Reconciler
from agent.store.process_bindings import BoundProcesses
from protocol.status import Fault

log = structlog.get_logger()


class Resync:
    """Resyncs with the kernel, one diff at a time. An unreadable kernel is a fault, and nothing is changed."""

    def __init__(
        self,
        reconciler: Reconciler,
        kernel: KernelPort,
        processes: BoundProcesses,
        publish_repair: Callable[[Sequence[str]], None],
        report: ReportFaults,
    ) -> None:
        """Pass a description of each repair to `publish_repair`, one action a line."""
        self.unreadable = ""
        """Why the last observation of the kernel failed; empty if it did not."""
        self.repairs = 0
        """The number of repairs of foreign changes."""
        self._reconciler = reconciler
        self._kernel = kernel
        self._processes = processes
        self._publish_repair = publish_repair
        self._report = report
        self._diff_lock = asyncio.Lock()
        """Held during a diff, to keep only one observed state in memory. The reconciler never waits for it."""

    async def repair(self) -> None:
        """Read the uplinks, compare the kernel with the desired entries, and repair the differences."""
        try:
            await self._reconciler.look_at_uplinks()
            with self._reconciler.applied_meanwhile() as meanwhile:
                diff = await self._diff(tend=True)
                repaired = await self._reconciler.repair(diff, meanwhile)
        except (ObservationError, OSError) as error:
            self._report_unreadable(error)
            return
        self.unreadable = ""
        self._report("kernel", [])
        self._forget_processes()
        self._report_repairs(repaired)

    async def plan(self) -> list[str]:
        """Return what `repair` would change now, one action a line. Changes nothing. Raises ObservationError."""
        with self._reconciler.applied_meanwhile() as meanwhile:
            diff = await self._diff(tend=False)
            return [describe(action) for action in await self._reconciler.recheck(diff, meanwhile)]

    async def retry(self, names: Collection[str]) -> None:
        """Retry what the kernel refused of the named documents; refused removals need a resync."""
        try:
            complete = await self._reconciler.retry(names)
        except (ObservationError, OSError) as error:
            self._report_unreadable(error)
            return
        if not complete:
            await self.repair()

    async def reattach(self) -> None:
        """Attach transit XDP again where another process detached it: nothing passes that uplink until then."""
        self._report_repairs(await self._reconciler.reattach())

    async def namespaces_appeared(self, appeared: Collection[str]) -> None:
        """Repair endpoints in namespaces that are new or were recreated under the same name."""
        try:
            repaired = await self._reconciler.repair_namespaces(appeared)
        except (ObservationError, OSError) as error:
            self._report_unreadable(error)
            return
        self._report_repairs(repaired)

    async def _diff(self, *, tend: bool) -> KernelDiff:
        """Compare while documents are applied: the reconciler verifies the differences found."""
        async with self._diff_lock:
            diff = await diff_kernel(self._kernel, self._reconciler.desired)
            if tend:
                self._tend(diff.observed)
            return diff

    def _tend(self, observed: Observed) -> None:
        """Maintain objects of no document. Pins that cannot be maintained are a fault, and do not stop repairs."""
        try:
            self._kernel.tend(observed)
        except OperatorError as error:
            remedy = "correct the cause named above; traffic is not affected, but an agent may not start until then"
            self._report("pins", [Fault("pins_not_maintained", self._host, error.strerror or str(error), remedy)])
        else:
            self._report("pins", [])

    @property
    def _host(self) -> str:
        return self._reconciler.desired.resolved.host_state.host

    def _forget_processes(self) -> None:
        """Forget the processes of endpoints' namespaces that no document names any more."""
        if self._reconciler.in_sync:
            desired = self._reconciler.desired
            self._processes.forget_unless(lambda endpoint: desired.owner_of_veth(endpoint) is not None)

    def _report_unreadable(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self.unreadable = explain_error(error, Step.READ, "this host's interfaces")
        else:
            self.unreadable = str(error)
        remedy = "correct the cause named above; nothing is changed in the kernel until it can be read"
        self._report("kernel", [Fault("kernel_unreadable", self._host, self.unreadable, remedy)])

    def _report_repairs(self, actions: Sequence[Action]) -> None:
        if not actions:
            return
        repaired = [describe(action) for action in actions]
        self.repairs += 1
        log.warning("kernel_repaired", actions=repaired)
        self._publish_repair(repaired)
