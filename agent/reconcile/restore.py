"""Restores an agent's initial state: the kernel as an earlier agent left it, and the last good documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from agent.core.config.desired_state import Desired
from agent.core.functions.stages import index_of
from agent.core.kinds import catalogue
from agent.core.kinds.kind import KernelNumbers
from agent.core.model.map_layout import MapName
from agent.core.model.resolved_state import HostState
from agent.core.plan.observed import Observed
from agent.core.probe.paths import NO_PATH_RECORDS, PathRecords, down_at_start
from agent.core.uplinks.lost_addresses import served_before, with_served
from agent.reconcile.function_versions import load_histories
from agent.reconcile.kernel_port import KernelPort
from agent.reconcile.program_verdicts import map_bytes_of, verdicts_of_files
from agent.reconcile.underlay import host_state_of
from agent.settings import Settings
from agent.store.process_bindings import BoundProcesses
from agent.store.store import Store, StoredDocument


class Restored(NamedTuple):
    """The desired state of the saved documents, the host, and the droplets (16 bytes) in the kernel's map."""

    desired: Desired
    found: HostState
    inherited: frozenset[bytes]


async def restore(
    settings: Settings,
    kernel: KernelPort,
    store: Store,
    processes: BoundProcesses,
    known: PathRecords = NO_PATH_RECORDS,
) -> Restored:
    """Read the kernel and the last good documents; nothing is changed. `known`: the path records of the earlier agent.

    Raises ObservationError or OSError.
    """
    observed = await kernel.observe({})
    kernel.tend(observed)
    kept = store.load()
    processes.restore(kept)
    verdicts = await verdicts_of_files(kernel, kept)
    found = host_state_of(settings, observed.uplinks, kernel)
    found = replace(found, verdicts=verdicts, histories=load_histories(store))
    found = replace(found, map_bytes=map_bytes_of(kernel, kept, verdicts))
    inherited = frozenset(observed.maps[MapName.DROPLETS])
    return Restored(restored_state(found, observed, kept, known), found, inherited)


def restored_state(
    host_state: HostState, observed: Observed, kept: Iterable[StoredDocument], known: PathRecords = NO_PATH_RECORDS
) -> Desired:
    """Return the desired state of the saved documents on the observed host, with the numbers of an earlier agent."""
    local = observed.maps[MapName.LOCAL_DROPLETS]
    ifindexes = {id_: seen.ifindex for id_, seen in observed.veths.items()}
    stage_indexes = {(one.id, one.point): index_of(one.point, one.slot) for one in observed.functions.values()}
    earlier = KernelNumbers(observed.maps, ifindexes, stage_indexes)
    numbers = {kind.name: kind.numbers_in(earlier) for kind in catalogue.KINDS.numbered}
    desired = Desired(with_served(host_state, served_before(local, host_state.uplinks)), numbers)
    for name, revision, body in kept:
        desired.documents.restore(name, revision, body)
    desired.resolve()
    desired.set_down(down_at_start(desired.resolved, known))
    desired.resolve()
    return desired
