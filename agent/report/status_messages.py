"""Builds the messages of the bus from the agent's state: heartbeat, counters, paths, faults of documents. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from agent import __version__
from agent.core.config.desired_state import Desired
from agent.core.config.truncation import first, listed
from agent.core.functions.stages import Point
from agent.core.kinds import catalogue
from agent.core.model.hooks import Hook
from agent.core.model.resolved_state import ResolvedState
from agent.core.model.uplinks import Uplink
from agent.core.probe.paths import Counts, View
from agent.datapath.bpf.map_queries import EndpointCounters, FunctionCounters, Traffic
from agent.datapath.nexthop.neighbours import Unresolved
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.resync import Resync
from agent.settings import Settings
from protocol import status
from protocol.addresses import format_address, parse_address
from protocol.documents import Droplet
from protocol.rpc import PeerPath
from protocol.status import (
    UPLINK_HOOKS,
    AgentState,
    Counters,
    Fault,
    FunctionTraffic,
    LostFrames,
    NarrowPath,
    ObjectCounts,
    ServedFunction,
    Status,
    UnresolvedNextHops,
    UplinkStatus,
)
from protocol.subjects import config_of

NO_HOOKS: Mapping[str, int] = MappingProxyType({})
NO_FUNCTIONS: Mapping[tuple[str, int], FunctionCounters] = MappingProxyType({})
NOT_SERVED: Mapping[tuple[str, int], ServedFunction] = MappingProxyType({})
NONE_ROLLED_BACK: Mapping[tuple[str, int], int] = MappingProxyType({})
AT_TC = frozenset(UPLINK_HOOKS) - {Hook.XDP, "none"}
"""The ways in which programs are attached at tc."""
MOST_ADDRESSES = 100
"""Addresses listed for each reason of unresolved next hops: a heartbeat has to stay well below 1 MiB."""


def documents_missing(host: str, absent: Iterable[str]) -> list[Fault]:
    """Return the fault of documents that are kept although the stream does not list them, with the first names."""
    names = sorted(absent)
    if not names:
        return []
    if len(names) == 1:
        detail = f"1 document of this host is not in the stream, and nothing removed it; it stays in force: {names[0]}"
        remedy = f"have the controller publish or remove it, or run `dropletctl sweep {host}`"
    else:
        detail = (
            f"{len(names)} documents of this host are not in the stream, and nothing removed them; "
            f"they stay in force: {listed(names)}"
        )
        remedy = f"have the controller publish or remove each of them, or run `dropletctl sweep {host}`"
    return [Fault("documents_missing", config_of(host), detail, remedy)]


def objects_unexplained(host: str, count: int) -> list[Fault]:
    """Return the fault of interfaces and map entries that stay although no document explains them."""
    if not count:
        return []
    objects = "1 object of an earlier agent stays" if count == 1 else f"{count} objects of an earlier agent stay"
    detail = f"{objects} in the kernel: no documents were kept here, and none in the stream explains them"
    remedy = f"have the controller publish the host's documents, or run `dropletctl sweep {host} --objects`"
    return [Fault("objects_unexplained", config_of(host), detail, remedy)]


class DataPlane(NamedTuple):
    """How programs run: see the fields of the same names in `protocol.status.Status`."""

    attach_mode: str = ""
    attach_reason: str = ""
    losses_unknown: str = ""
    losses_at_tc: str = ""
    endpoint_hook: str = ""
    endpoint_hook_reason: str = ""
    endpoint_hooks: Mapping[str, int] = NO_HOOKS
    processes: tuple[ServedFunction, ...] = ()


UNKNOWN_PLANE = DataPlane()


def heartbeat(
    settings: Settings,
    reconciler: Reconciler,
    resync: Resync,
    unresolved: Sequence[Unresolved],
    *,
    boot: str,
    now: float,
    uptime: float,
    memory: int,
    modes: Mapping[str, str],
    hooks: Mapping[str, str],
    down: tuple[str, ...] = (),
    narrow: tuple[NarrowPath, ...] = (),
    faults: tuple[Fault, ...] = (),
    plane: DataPlane = UNKNOWN_PLANE,
) -> Status:
    """Return the host's status; times in seconds, memory in bytes.

    `modes` and `hooks` say how and where the program of each uplink runs now, by the uplink's name.

    `down` are droplets that no longer answer probes, `narrow` the paths that carry less than their full size, `faults`
    all other standing conditions.
    """
    desired, tracker = reconciler.desired, reconciler.acknowledgements.tracker
    resolved, counts = desired.resolved, tracker.counts
    not_realized = counts.pending or counts.rejected or counts.failed
    trouble = not_realized or unresolved or resync.unreadable or down or narrow or faults
    once_in_sync = AgentState.DEGRADED if trouble else AgentState.IN_SYNC
    return Status(
        host=settings.host,
        version=__version__,
        boot=boot,
        at=now,
        uptime=uptime,
        state=once_in_sync if reconciler.in_sync else AgentState.STARTING,
        revision=reconciler.revision,
        digest=tracker.digest,
        documents=counts,
        objects=_object_counts(desired),
        uplinks=tuple(_uplink(uplink, resolved.own_droplets(), modes, hooks) for uplink in resolved.host_state.uplinks),
        unresolved_next_hops=unresolved_next_hops(unresolved),
        unreadable=resync.unreadable,
        down_droplets=down,
        narrow_paths=narrow,
        repairs=resync.repairs,
        memory_bytes=memory,
        faults=first(faults, lambda left: Fault("more", f"{left} more", "the first ones are named")),
        attach_mode=plane.attach_mode,
        attach_reason=plane.attach_reason,
        losses_unknown=plane.losses_unknown,
        losses_at_tc=plane.losses_at_tc,
        endpoint_hook=plane.endpoint_hook,
        endpoint_hook_reason=plane.endpoint_hook_reason,
        endpoint_hooks=dict(plane.endpoint_hooks),
        processes=plane.processes,
        gso_refused=gso_refused(resolved),
    )


def _object_counts(desired: Desired) -> ObjectCounts:
    counted = {
        kind.name: desired.count(kind) for kind in catalogue.KINDS if kind.name in ObjectCounts.__struct_fields__
    }
    return ObjectCounts(**counted, local_endpoints=len(desired.resolved.local_slots()))


def unresolved_next_hops(unresolved: Iterable[Unresolved]) -> tuple[UnresolvedNextHops, ...]:
    """Return the status of unreachable droplets by reason, the most frequent reason first."""
    by_reason: dict[str, list[str]] = {}
    for one in unresolved:
        by_reason.setdefault(one.reason, []).append(one.address)
    found = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(UnresolvedNextHops(why, len(all_), tuple(all_[:MOST_ADDRESSES])) for why, all_ in found)


def gso_refused(resolved: ResolvedState) -> str:
    """Return why endpoints at tc may not send GSO packets; empty if they may, or are not at tc."""
    summed = resolved.summed_droplets()
    if resolved.host_state.endpoint_hook is not Hook.TC or not summed:
        return ""
    return f"a UDP checksum over IPv6 covers one packet, and such checksums are sent from {listed(summed)}"


def losses_at_tc(uplinks: Mapping[str, str], endpoints: Mapping[str, int]) -> str:
    """Name what has its program at tc, where the agent does not count the frames that are lost afterwards.

    `uplinks`: the hook of each uplink by name; `endpoints`: the number of endpoints by hook.
    """
    names = [f"{name} ({hook})" for name, hook in uplinks.items() if hook in AT_TC]
    at_tc = {hook: number for hook, number in sorted(endpoints.items()) if hook in AT_TC and number}
    names += [f"{number} endpoint{'' if number == 1 else 's'} ({hook})" for hook, number in at_tc.items()]
    return ", ".join(names)


def _uplink(uplink: Uplink, own: Iterable[Droplet], modes: Mapping[str, str], hooks: Mapping[str, str]) -> UplinkStatus:
    """Return the status of one uplink; if it has no droplets, with the addresses that the kernel shows."""
    droplets = [one for one in own if parse_address(one.address) in uplink.addresses]
    return UplinkStatus(
        interface=uplink.name,
        droplets=tuple(one.id for one in droplets),
        addresses=tuple(one.address for one in droplets) or tuple(map(format_address, uplink.addresses)),
        attach_mode=modes.get(uplink.name, "none"),
        mtu=uplink.mtu,
        vlan=uplink.vlan,
        hook=hooks.get(uplink.name, "none"),
    )


def counters(
    host: str,
    now: float,
    outcomes: Mapping[str, Traffic],
    endpoints: Mapping[int, EndpointCounters],
    slots: Mapping[str, int],
    probes: Counts | None = None,
    lost: tuple[LostFrames, ...] = (),
    lost_unknown: str = "",
    lost_at_tc: str = "",
    functions: Mapping[tuple[str, int], FunctionCounters] = NO_FUNCTIONS,
    served: Mapping[tuple[str, int], ServedFunction] = NOT_SERVED,
    rolled_back: Mapping[tuple[str, int], int] = NONE_ROLLED_BACK,
) -> Counters:
    """Return telemetry of kind `counters`; `endpoints` by slot, `slots` by endpoint, the rest by id and point.

    `rolled_back` are the revisions whose version of a function failed.
    """
    return Counters(
        host=host,
        at=now,
        outcomes={name: status.Traffic(*traffic) for name, traffic in outcomes.items()},
        endpoints=tuple(
            status.EndpointTraffic(id_, *(status.Traffic(*traffic) for traffic in endpoints[slot]))
            for id_, slot in sorted(slots.items())
            if slot in endpoints
        ),
        probes=status.Probes(*dataclasses.astuple(probes)) if probes else status.Probes(),
        lost=lost,
        lost_unknown=lost_unknown,
        lost_at_tc=lost_at_tc,
        functions=tuple(
            _function_traffic(place, one, served.get(place), rolled_back.get(place, 0))
            for place, one in sorted(functions.items())
        ),
    )


def _function_traffic(
    place: tuple[str, int], found: FunctionCounters, served: ServedFunction | None, rolled_back: int
) -> FunctionTraffic:
    return FunctionTraffic(
        place[0],
        Point(place[1]).label,
        status.Traffic(*found.received),
        found.went_on,
        found.dropped,
        found.sent_back,
        found.sent_to,
        found.handed_over,
        found.faults,
        reasons={str(reason): packets for reason, packets in found.reasons.items()},
        samples=found.samples,
        mean_ns=round(found.sampled_ns / found.samples, 1) if found.samples else 0.0,
        queues=served.queues if served is not None else 0,
        mode=served.mode if served is not None else "",
        rolled_back=rolled_back,
    )


def peer_path(droplet: str, by: str, view: View, elapsed: float) -> PeerPath:
    """Return the report of one path; `elapsed` added to the prober's times gives seconds since the epoch."""
    return PeerPath(
        droplet=droplet,
        address=format_address(view.path.peer),
        by=by,
        state=view.liveness.value,
        since=view.since + elapsed,
        configured=view.size,
        carries=view.usable,
        round_trip=view.round_trip,
    )


def slots(desired: Desired) -> dict[str, int]:
    """Return the slot of each endpoint on this host."""
    return desired.resolved.local_slots()
