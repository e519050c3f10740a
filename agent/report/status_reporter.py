"""Composes the agent's status and counters from its parts, and sends them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent import __version__
from agent.core.faults.function_faults import FailingFunction, FunctionWatch
from agent.core.faults.lost_frames import LossWatch, lost_frames, unsent_frames
from agent.core.functions.stages import Point
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.bpf.map_queries import FunctionCounters
from agent.datapath.kernel import Kernel
from agent.probe.prober import Prober
from agent.reconcile.function_versions import rolled_back
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.resync import Resync
from agent.report.outlet import Outlet
from agent.report.status_messages import DataPlane, counters, heartbeat, losses_at_tc, slots
from agent.settings import Settings
from agent.telemetry.fault_reporter import FaultReporter
from protocol.status import AgentState, Counters, Status

DRAIN = 5.0
"""Seconds that a stopping agent waits for its acknowledgements to be stored."""


class StatusReporter:
    """One agent's status messages and counters."""

    def __init__(
        self,
        settings: Settings,
        boot: str,
        reconciler: Reconciler,
        resync: Resync,
        kernel: Kernel,
        prober: Prober,
        faults: FaultReporter,
        outlet: Outlet,
    ) -> None:
        """`boot` distinguishes this agent's messages from those of another one with the same host name."""
        self._settings = settings
        self._boot = boot
        self._started = time.monotonic()
        self._reconciler = reconciler
        self._resync = resync
        self._kernel = kernel
        self._prober = prober
        self._faults = faults
        self._outlet = outlet
        self._losses = LossWatch()
        self._failing = FunctionWatch()

    def status(self) -> Status:
        """Return the host's status now."""
        self._report_data_plane()
        modes, hooks, seen = self._kernel.modes, self._kernel.transit_hooks(), self._endpoint_hooks()
        return heartbeat(
            self._settings,
            self._reconciler,
            self._resync,
            self._kernel.neighbours.unresolved(),
            boot=self._boot,
            now=time.time(),
            uptime=time.monotonic() - self._started,
            memory=_resident_bytes(),
            modes=self._kernel.transit_modes(),
            hooks=hooks,
            down=self._prober.down_droplets(),
            narrow=self._prober.narrow_paths(),
            faults=self._faults.standing(),
            plane=DataPlane(
                *(modes.running, modes.decision.reason),
                *(self._kernel.failures.unavailable, losses_at_tc(hooks, seen)),
                *(self._kernel.agents.belongs_at, self._kernel.hook_choice.reason),
                endpoint_hooks=seen,
                processes=tuple(one for _, one in sorted(self._kernel.served_functions().items())),
            ),
        )

    def counters(self) -> Counters:
        """Return the host's counters now."""
        kernel, places = self._kernel, slots(self._reconciler.desired)
        endpoints, outcomes = kernel.queries.read_endpoint_counters(places.values()), kernel.queries.read_outcomes()
        unknown = kernel.failures.unavailable
        lost = lost_frames(kernel.failures.read(), self._name_of)
        if unknown:
            lost += unsent_frames(kernel.read_device_losses())
        host, now = self._settings.host, time.time()
        at_tc = losses_at_tc(kernel.transit_hooks(), self._endpoint_hooks())
        counts, functions = self._prober.counts, self._function_counters()
        desired, served = self._reconciler.desired, kernel.served_functions()
        back = {one.place: one.revision for one in rolled_back(desired, desired.resolved.host_state.histories)}
        return counters(host, now, outcomes, endpoints, places, counts, lost, unknown, at_tc, functions, served, back)

    async def send_status(self) -> None:
        """Publish the status."""
        self._outlet.status(self.status())

    async def send_counters(self) -> None:
        """Publish the counters."""
        self._outlet.counters(self.counters())

    async def say_goodbye(self) -> None:
        """Publish that the agent is stopping, and wait until its acknowledgements are stored."""
        if self._outlet.connected:
            self._outlet.event("stopping", (__version__,))
            self._outlet.status(msgspec.structs.replace(self.status(), state=AgentState.STOPPING))
            await self._outlet.drain(DRAIN)

    def _report_data_plane(self) -> None:
        """Report missing features of the uplinks, other owners' programs, and frames dropped after a verdict."""
        self._faults.report("attachment", self._kernel.modes.decision.faults)
        self._faults.report("unanswered_probes", self._prober.faults(self._kernel.modes.hints))
        needed = self._reconciler.desired.resolved.carriers()
        foreign = self._kernel.foreign.items()
        blocked = [fault for index, fault in foreign if index in needed or index >= IFINDEX_BASE]
        self._faults.report("foreign_programs", blocked)
        self._faults.report("function_processes", self._kernel.process_faults())
        self._losses.look(self._kernel.failures.read(), time.monotonic())
        self._faults.report("losses", self._losses.faults(self._name_of))
        self._failing.look(self._function_faults(), time.monotonic())
        self._faults.report("functions", self._failing.faults())

    def _function_counters(self) -> dict[tuple[str, int], FunctionCounters]:
        """Return the counters of the functions in force, by id and stage point."""
        resolved = self._reconciler.desired.resolved
        indexes = {place: index for place, index in resolved.stage_indexes.items() if place[0] in resolved.functions}
        found = self._kernel.queries.read_function_counters(indexes.values())
        return {place: found[index] for place, index in indexes.items() if index in found}

    def _function_faults(self) -> dict[FailingFunction, int]:
        """Return how often each program of a function in force failed; processes have faults of their own."""
        functions = self._reconciler.desired.resolved.functions
        return {
            FailingFunction(id_, Point(point).label, functions[id_].on_fault == "closed"): one.faults
            for (id_, point), one in self._function_counters().items()
            if functions[id_].program.process is None
        }

    def _endpoint_hooks(self) -> Mapping[str, int]:
        """Return the number of this host's endpoints by the hook at which their program was last seen, or `none`."""
        seen = self._kernel.agents.seen
        return Counter(seen.get(veth.ifindex, "none") for veth in self._reconciler.desired.veths.values())

    def _name_of(self, ifindex: int) -> str:
        """Return the name of the uplink or endpoint with an ifindex."""
        desired = self._reconciler.desired
        for uplink in desired.resolved.host_state.uplinks:
            if ifindex in (uplink.carrier, *uplink.ingress):
                return uplink.name
        slot = ifindex - IFINDEX_BASE
        by_slot = {place: endpoint for endpoint, place in slots(desired).items()} if slot >= 0 else {}
        return by_slot.get(slot, f"interface {ifindex}")


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
