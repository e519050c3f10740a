"""The agent's main program: creates the parts, connects them, and runs their loops until a signal arrives.

`compose` lists the parts from the kernel and the store, over the reconciler and the followers of the droplets in
force, to the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from agent.bus.bus import Bus
from agent.bus.connection.settings import BusSettings
from agent.bus.connection.tasks import end
from agent.core.probe.paths import NO_PATH_RECORDS, Rules
from agent.core.uplinks.hook_choice import HookSettings
from agent.datapath.attach.xdp import AttachMode
from agent.datapath.bpf.maps import MapSizes
from agent.datapath.function_loading import FunctionConfig
from agent.datapath.instance_lock import hold_instance
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.nexthop.announcer import Announcer
from agent.intake import Intake
from agent.loops import Loops
from agent.probe.path_events import PathEvents
from agent.probe.path_memory import PathMemory, load_path_records, saver
from agent.probe.prober import Prober
from agent.reconcile.acknowledgements import Acknowledgements
from agent.reconcile.function_versions import FunctionVersions
from agent.reconcile.kernel_results import KernelResults
from agent.reconcile.program_verdicts import AT_ONCE
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.restore import restore
from agent.reconcile.resync import Resync
from agent.reconcile.retry import Retries
from agent.reconcile.underlay import Underlay
from agent.recording.recorder import Recorder
from agent.report.outlet import Outlet
from agent.report.queries import Queries
from agent.report.status_reporter import StatusReporter
from agent.settings import Settings
from agent.store.last_good import LastGood
from agent.store.process_bindings import BoundProcesses
from agent.store.signed_documents import Publishers
from agent.store.store import Store
from agent.telemetry.fault_reporter import FaultReporter
from agent.telemetry.loop_errors import LoopErrors

log = structlog.get_logger()

COLLECT_AFTER = 100_000
"""Allocations of containers between two collections of the young generation. Documents bring tens of thousands of
objects, none of them in a cycle; with the default of 700, the collector took a fifth of the time of a bulk update."""
UPLINK_PAUSE = 1.0
"""Seconds between two readings of uplinks that keep changing."""
BETWEEN_LOOKS_AT_PROGRAMS = 1.0
"""Seconds between two looks at the uplinks' programs, a few system calls each. The kernel reports no change of tcx."""

BETWEEN_LOOKS_AT_VERSIONS = 1.0
"""Seconds between two looks at the faults of functions' new versions; without such versions it costs nothing."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One agent's parts, each with one job."""

    kernel: Kernel
    errors: LoopErrors
    underlay: Underlay
    retries: Retries
    reconciler: Reconciler
    resync: Resync
    announcer: Announcer
    prober: Prober
    status: StatusReporter
    bus: Bus


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
        hooks=HookSettings(
            *(settings.endpoint_hook, settings.uplink_hook, settings.attach_mode),
            over_ipv6="ipv6" in settings.data_plane.underlay,
        ),
        count_lost_frames=settings.count_lost_frames,
        sizes=MapSizes(
            endpoints=sizes.endpoints,
            direct=sizes.direct,
            droplets=sizes.droplets,
            next_hops=sizes.droplets * len(settings.interfaces),
            networks=sizes.networks,
            vpcs=sizes.vpcs,
        ),
        features=settings.features(),
        functions=FunctionConfig(
            Path(settings.functions.folder) if settings.functions.folder else None,
            settings.functions.max_instructions,
            Path(settings.functions.sockets),
            settings.functions.hang,
        ),
    )


def bus_settings(settings: Settings) -> BusSettings:
    """Return the bus's share of the settings."""
    section = settings.bus
    return BusSettings(
        section.servers, section.nkey_seed_file or None, section.tls_ca_file or None, section.trusted_publishers
    )


async def compose(
    settings: Settings,
    kernel: Kernel,
    store: Store,
    recorder: Recorder | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Parts:
    """Create the parts of an agent, from the last good documents and the kernel as it is. Nothing is changed yet.

    `clock` times the retries of what the kernel refused, in seconds.
    """
    boot = uuid.uuid4().hex
    outlet = Outlet(settings.host)
    faults = FaultReporter(outlet.event)
    report, errors = faults.report, LoopErrors(faults.report)
    kernel.neighbours.report = report
    known = load_path_records(store) if settings.probe.enabled else NO_PATH_RECORDS
    versions = store.load_versions() if settings.bus.trusted_publishers else {}
    # The documents in force, and the results from the kernel.
    processes = BoundProcesses(kernel.bindings, store)
    restored = await restore(settings, kernel, store, processes, known)
    underlay = Underlay(settings, kernel, restored.found, restored.inherited)
    retries = Retries(settings.interval.retry, clock)
    acknowledgements = Acknowledgements(outlet.acknowledge, retries)
    results = KernelResults(restored.desired, LastGood(store, processes, report))
    versions_of_functions = FunctionVersions(kernel, store, report, restored.found.histories, clock)
    reconciler = Reconciler(restored.desired, kernel, underlay, results, acknowledgements, versions_of_functions)
    resync = Resync(reconciler, kernel, processes, outlet.repair, report)
    # Followers of the droplets in force.
    announcer = Announcer(errors)
    memory = PathMemory(known, saver(store, report))
    ports = settings.data_plane.geneve_port, settings.data_plane.vxlan_port
    events = PathEvents(outlet.event)
    prober = Prober(_probe_rules(settings), ports, kernel.neighbours.unreachable, memory, events, errors, report)
    # Messages from and to the bus.
    status = StatusReporter(settings, boot, reconciler, resync, kernel, prober, faults, outlet)
    queries = Queries(reconciler, resync, kernel, prober, status.status, status.counters, time.time)
    intake = Intake(settings.host, Publishers(settings.host, store, report), reconciler, status, queries, report)
    bus = Bus(settings.host, bus_settings(settings), intake, report, boot, versions)
    if recorder is not None:
        recorder.report = report
        bus.record = recorder
    outlet.bus = bus
    return Parts(kernel, errors, underlay, retries, reconciler, resync, announcer, prober, status, bus)


def connect(parts: Parts) -> None:
    """Connect publishers and subscribers. Values flow in one direction; no publisher knows its subscribers."""
    neighbours, errors = parts.kernel.neighbours, parts.errors
    parts.underlay.uplinks.subscribe("neighbours", neighbours.set_uplinks, errors)
    parts.underlay.droplets.subscribe("announcer", lambda droplets: parts.announcer.follow(droplets.resolved), errors)
    parts.underlay.droplets.subscribe("prober", parts.prober.follow, errors)
    parts.prober.peers.subscribe("next hops", lambda peers: neighbours.set_peers(*peers), errors)
    parts.prober.doubtful.subscribe("doubtful next hops", neighbours.revalidate, errors)


def loops(parts: Parts, settings: Settings) -> dict[str, Coroutine[Any, Any, None]]:
    """Return the loops that run as long as the agent, by name."""
    reconciler, resync, retries, status = parts.reconciler, parts.resync, parts.retries, parts.status
    kernel, interval, run = parts.kernel, settings.interval, Loops(parts.errors)

    async def names_freed() -> None:
        retries.hurry(reconciler.desired.documents.blocked_by_names())

    def check() -> Coroutine[Any, Any, None]:
        return run.on_event(reconciler.programs.waiting, reconciler.check_program)

    found = {
        "bus": parts.bus.run(),
        "heartbeat": run.every(interval.heartbeat, status.send_status),
        "telemetry": run.every(interval.telemetry, status.send_counters),
        "repair": run.every(interval.observe, resync.repair),
        "retry": run.on_retry(retries, resync),
        "programs": run.every(BETWEEN_LOOKS_AT_PROGRAMS, resync.reattach),
        "uplinks": run.on_event(kernel.neighbours.uplinks_changed, resync.repair, UPLINK_PAUSE),
        "namespaces": run.on_namespaces(reconciler, resync),
        **{f"programs of functions {number}": check() for number in range(1, 1 + AT_ONCE)},
        "versions of functions": run.every(BETWEEN_LOOKS_AT_VERSIONS, reconciler.watch_versions),
        "freed names": run.on_event(kernel.links.name_watch.freed, names_freed),
        "announcer": parts.announcer.run(),
    }
    if settings.probe.enabled:
        found["prober"] = parts.prober.run()
        found["down"] = parts.prober.down.follow("down", reconciler.exclude_down, parts.errors)
    return found


async def work(parts: Parts, settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop` is set; then publish the end and leave everything that forwards traffic in place."""
    await parts.reconciler.start()
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops(parts, settings).items()]
    waiting = asyncio.create_task(stop.wait(), name="stop")
    log.info("agent_started", host=settings.host, interfaces=settings.interfaces)
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            task.result()
        log.info("agent_stopping")
        await parts.status.say_goodbye()
    finally:
        await end([waiting, *tasks])


async def serve(settings: Settings, recorder: Recorder | None = None) -> None:
    """Run an agent until SIGTERM or SIGINT."""
    if recorder is not None:
        log.info("recording_began", file=str(recorder.path))
    gc.set_threshold(COLLECT_AFTER)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = Store(Path(settings.state), settings.host)
    with contextlib.closing(store), hold_instance(settings.instance):
        kernel = await Kernel.open(kernel_config(settings))
        try:
            await kernel.start()
            parts = await compose(settings, kernel, store, recorder)
            connect(parts)
            await work(parts, settings, stop)
        finally:
            await kernel.close()


def _probe_rules(settings: Settings) -> Rules:
    section = settings.probe
    return Rules(interval=section.interval, misses=section.misses, per_second=section.per_second)
