"""The transit daemon: opens kernel, store and bus, and keeps the loops between them running until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from agent import __version__
from agent.announcer import Announcer
from agent.answers import Answers
from agent.applier import Applier
from agent.bus.bus import Bus
from agent.bus.documents import Delivery
from agent.bus.settings import BusSettings
from agent.core.failures import LossWatch, lost_frames, unsent_frames
from agent.core.faults import ReportFaults
from agent.core.next_hops import Peer
from agent.core.once import Once
from agent.core.paths import KnownPaths, Rules
from agent.core.realize import IFINDEX_BASE
from agent.core.registry import Verdict
from agent.core.shortening import first_lines
from agent.core.world import World
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.maps import MapSizes
from agent.datapath.namespace_watch import NamespaceWatch
from agent.datapath.xdp import AttachMode
from agent.faults import FaultReporter
from agent.loop_errors import LoopErrors
from agent.path_memory import PathMemory, known_paths
from agent.prober import Prober
from agent.publishers import Publishers
from agent.recorder import Recorder
from agent.reports import (
    DataPlane,
    acknowledgement,
    counters,
    documents_missing,
    heartbeat,
    objects_unexplained,
    slots,
)
from agent.settings import Settings
from agent.store import Store
from agent.substrate import InterfaceReplacedError
from protocol import codec, subjects
from protocol.acknowledgements import Acknowledgement
from protocol.status import AgentState, Counters, Event, Status

COLLECT_AFTER = 100_000
"""Containers made before the garbage collector looks at the young ones. Documents bring objects by the ten thousand,
none of them in a cycle; at the usual 700, the collector took a fifth of the time of a bulk update."""
UPLINK_PAUSE = 1.0
"""Seconds between two looks at uplinks that keep changing."""
DRAIN = 5.0
"""Seconds that the end waits for acknowledgements to be confirmed."""


def kernel_config(settings: Settings) -> KernelConfig:
    """Return the kernel's share of the settings."""
    sizes = settings.sizes
    return KernelConfig(
        host=settings.host,
        instance=settings.instance,
        interfaces=settings.interfaces,
        cache=Path(settings.cache),
        bpffs=Path(settings.bpffs),
        attach_mode=AttachMode(settings.attach_mode),
        count_lost_frames=settings.count_lost_frames,
        sizes=MapSizes(
            endpoints=sizes.endpoints,
            direct=sizes.direct,
            droplets=sizes.droplets,
            next_hops=sizes.droplets * len(settings.interfaces),
            networks=sizes.networks,
            vpcs=sizes.vpcs,
        ),
        features=settings.data_plane.features(),
    )


def bus_settings(settings: Settings) -> BusSettings:
    """Return the bus's share of the settings."""
    section = settings.bus
    return BusSettings(
        section.servers, section.nkey_seed_file or None, section.tls_ca_file or None, section.trusted_publishers
    )


def _prober(
    settings: Settings,
    kernel: Kernel,
    memory: PathMemory,
    known: KnownPaths,
    tell: Callable[[str, tuple[str, ...]], None],
    report: ReportFaults,
    log: FilteringBoundLogger,
) -> Prober:
    """Return the prober that the settings ask for. One that does not run tells the peers on as they are."""
    section, ports = settings.probe, (settings.data_plane.geneve_port, settings.data_plane.vxlan_port)
    rules = Rules(interval=section.interval, misses=section.misses, per_second=section.per_second)
    watch = kernel.neighbours
    return Prober(rules, ports, watch.set_peers, tell, log, watch.cut_off, known, memory.keep, watch.ask_again, report)


class Daemon:
    """One agent at work. It is the bus's handler: documents and questions come here."""

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        store: Store,
        log: FilteringBoundLogger,
        recorder: Recorder | None = None,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._log = log
        self._boot = uuid.uuid4().hex
        self._started = time.monotonic()
        self._faults = FaultReporter(self._publish_event, log)
        self._losses = LossWatch()
        self._rejected = Once()
        self._loop_errors = LoopErrors(self._faults.report, log)
        kernel.neighbours.report = self._faults.report
        memory, known = PathMemory(store, self._faults.report), known_paths(store) if settings.probe.enabled else {}
        self._prober = _prober(settings, kernel, memory, known, self._publish_event, self._faults.report, log)
        self._announcer = Announcer(self._loop_errors)
        report = self._faults.report
        self._applier = Applier(
            settings, kernel, store, self._tell, self._tell_repair, log, self._follow, known, report
        )
        self._answers = Answers(self._applier, kernel, self._prober, self._status, self._counters, time.time)
        self._publishers = Publishers(settings.host, store, self._faults.report)
        versions = store.load_versions() if settings.bus.trusted_publishers else {}
        self._bus = Bus(settings.host, bus_settings(settings), self, log, self._faults.report, self._boot, versions)
        if recorder is not None:
            recorder.report = self._faults.report
            self._bus.record = recorder

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then say goodbye and leave all that forwards traffic as it is."""
        await self._kernel.start()
        await self._applier.start()
        interval = self._settings.interval
        loops = [
            asyncio.create_task(self._bus.run(), name="bus"),
            asyncio.create_task(self._every(interval.heartbeat, self._send_status), name="heartbeat"),
            asyncio.create_task(self._every(interval.telemetry, self._send_counters), name="telemetry"),
            asyncio.create_task(self._every(interval.observe, self._applier.repair), name="repair"),
            asyncio.create_task(self._every(interval.retry, self._applier.retry), name="retry"),
            asyncio.create_task(self._follow_uplinks(), name="uplinks"),
            asyncio.create_task(self._follow_namespaces(), name="namespaces"),
            asyncio.create_task(self._follow_freed_names(), name="freed names"),
            asyncio.create_task(self._announcer.run(), name="announcer"),
        ]
        if self._settings.probe.enabled:
            loops.append(asyncio.create_task(self._prober.run(), name="prober"))
            loops.append(asyncio.create_task(self._follow_down(), name="down"))
        waiting = asyncio.create_task(stop.wait(), name="stop")
        self._log.info("agent started", host=self._settings.host, interfaces=self._settings.interfaces)
        try:
            done, _ = await asyncio.wait([waiting, *loops], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()
            await self._say_goodbye()
        finally:
            await _end((waiting, *loops))

    async def begin_snapshot(self) -> None:
        """Take note that every document comes again."""
        self._publishers.begin_snapshot()
        await self._applier.begin_snapshot()

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Take documents in."""
        self._publishers.take(batch)
        await self._applier.deliver(batch)
        self._report_absent()

    async def snapshot_complete(self) -> None:
        """Take note that all documents are here, and tell so at once."""
        self._publishers.snapshot_complete()
        await self._applier.snapshot_complete()
        self._report_absent()
        await self._send_status()

    async def ask(self, verb: str, body: bytes) -> bytes:
        """Answer a question."""
        answer = await self._answers.ask(verb, body)
        self._report_absent()
        return answer

    def _report_absent(self) -> None:
        """Report what is in force here, or in the kernel, and in no message of the stream."""
        applier, host = self._applier, self._settings.host
        absent = documents_missing(host, applier.desired.documents.absent)
        self._faults.report("documents", [*absent, *objects_unexplained(host, applier.unexplained)])

    async def _every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        """Do a job again and again; a failure of one turn is a fault and does not end the loop."""
        while True:
            await asyncio.sleep(seconds)
            await self._try(job)

    async def _try(self, job: Callable[[], Awaitable[None]]) -> None:
        name = getattr(job, "__name__", str(job)).strip("_")
        try:
            await job()
        except InterfaceReplacedError:
            raise
        except Exception as error:
            self._loop_errors.failed(name, error)
        else:
            self._loop_errors.passed(name)

    def _follow(self, world: World, peers: Mapping[bytes, Peer]) -> None:
        """Hand on where this host's droplets are now, and which others there are."""
        self._announcer.follow(world)
        self._prober.follow(world, peers)

    async def _follow_uplinks(self) -> None:
        """Look at once, and not at the next turn, when the kernel tells that an interface is another one now."""
        changed = self._kernel.neighbours.uplinks_changed
        while True:
            await changed.wait()
            changed.clear()
            await self._try(self._applier.repair)
            await asyncio.sleep(UPLINK_PAUSE)

    async def _follow_namespaces(self) -> None:
        """Try at once, and not at the next turn, what waits for a namespace that appears."""
        applier = self._applier
        with contextlib.closing(NamespaceWatch(applier.namespaces)) as watch:
            waiting = asyncio.create_task(applier.waiting_changed.wait())
            appeared = asyncio.create_task(watch.wait())
            try:
                while True:
                    await asyncio.wait((waiting, appeared), return_when=asyncio.FIRST_COMPLETED)
                    if waiting.done():
                        applier.waiting_changed.clear()
                        watch.set_waiting(applier.waiting_for())
                        waiting = asyncio.create_task(applier.waiting_changed.wait())
                    if appeared.done():
                        await self._try(partial(applier.namespaces_appeared, appeared.result()))
                        appeared = asyncio.create_task(watch.wait())
            finally:
                waiting.cancel()
                appeared.cancel()

    async def _follow_freed_names(self) -> None:
        """Try documents again as soon as an interface gives up the name that an endpoint here is to have."""
        freed = self._kernel.links.taken.freed
        while True:
            await freed.wait()
            freed.clear()
            await self._try(self._applier.retry_now)

    async def _follow_down(self) -> None:
        """Have bouncers and dividers left out while they are down."""
        while True:
            await self._prober.down_changed.wait()
            self._prober.down_changed.clear()
            await self._try(self._leave_out_down)

    async def _leave_out_down(self) -> None:
        await self._applier.leave_out(frozenset(self._prober.down_droplets()))

    def _tell(self, verdict: Verdict, now: float) -> None:
        answer = acknowledgement(verdict, now, now + self._settings.interval.retry * self._applier.patience)
        self._bus.acknowledge(answer)
        if not answer.errors:
            self._rejected.ends(verdict.name)
        elif self._rejected.begins(verdict.name, str(answer.errors)):
            self._log_rejected(verdict.name, answer)

    def _log_rejected(self, document: str, answer: Acknowledgement) -> None:
        for error in answer.errors:
            self._log.warning("document rejected", document=document, path=error.path, reason=error.message)

    def _tell_repair(self, mended: Sequence[str]) -> None:
        self._publish_event("repaired", first_lines(mended))

    def _publish_event(self, kind: str, detail: tuple[str, ...]) -> None:
        host = self._settings.host
        self._bus.publish(subjects.event(host, kind), codec.encode(Event(host, kind, time.time(), detail)))

    def _report_data_plane(self) -> None:
        """Report what the uplinks cannot do, and what the kernel drops after the programs' verdicts."""
        self._faults.report("attachment", self._kernel.modes.decision.faults)
        self._faults.report("unanswered_probes", self._prober.faults(self._kernel.modes.hints))
        self._losses.look(self._kernel.failures.read(), time.monotonic())
        self._faults.report("losses", self._losses.faults(self._name_of))

    def _name_of(self, ifindex: int) -> str:
        """Return the name of the uplink or endpoint behind an interface's number."""
        for uplink in self._applier.desired.world.here.uplinks:
            if ifindex in (uplink.carrier, *uplink.arrives):
                return uplink.name
        slot = ifindex - IFINDEX_BASE
        by_slot = {place: endpoint for endpoint, place in slots(self._applier).items()} if slot >= 0 else {}
        return by_slot.get(slot, f"interface {ifindex}")

    def _status(self) -> Status:
        self._report_data_plane()
        modes = self._kernel.modes
        return heartbeat(
            self._settings,
            self._applier,
            self._kernel.neighbours.unresolved(),
            boot=self._boot,
            now=time.time(),
            uptime=time.monotonic() - self._started,
            memory=_resident_bytes(),
            modes=self._kernel.transit_modes(),
            down=self._prober.down_droplets(),
            narrow=self._prober.narrow_paths(),
            faults=self._faults.standing(),
            plane=DataPlane(modes.running, modes.decision.reason, self._kernel.failures.unavailable),
        )

    def _counters(self) -> Counters:
        places = slots(self._applier)
        endpoints = self._kernel.read_endpoint_counters(places.values())
        outcomes = self._kernel.read_outcomes()
        unknown = self._kernel.failures.unavailable
        lost = lost_frames(self._kernel.failures.read(), self._name_of)
        if unknown:
            lost += unsent_frames(self._kernel.read_device_losses())
        return counters(
            self._settings.host, time.time(), outcomes, endpoints, places, self._prober.counts, lost, unknown
        )

    async def _send_status(self) -> None:
        self._bus.publish(subjects.status(self._settings.host), codec.encode(self._status()))

    async def _send_counters(self) -> None:
        self._bus.publish(subjects.telemetry(self._settings.host, "counters"), codec.encode(self._counters()))

    async def _say_goodbye(self) -> None:
        self._log.info("agent stops; traffic flows on")
        if self._bus.connected:
            self._publish_event("stopping", (__version__,))
            last = _replace_state(self._status(), AgentState.STOPPING)
            self._bus.publish(subjects.status(self._settings.host), codec.encode(last))
            await self._bus.drain(DRAIN)


def _replace_state(status: Status, state: AgentState) -> Status:

    return msgspec.structs.replace(status, state=state)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _end(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Cancel tasks until they have ended: a wait_for() that is just over loses a cancellation (before Python 3.12)."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def serve(settings: Settings, log: FilteringBoundLogger, recorder: Recorder | None = None) -> None:
    """Run an agent until SIGTERM or SIGINT."""
    if recorder is not None:
        log.info("recording_began", file=str(recorder.path))
    gc.set_threshold(COLLECT_AFTER)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = Store(Path(settings.state), settings.host)
    with contextlib.closing(store):
        kernel = await Kernel.open(kernel_config(settings))
        try:
            await Daemon(settings, kernel, store, log, recorder).run(stop)
        finally:
            await kernel.close()
