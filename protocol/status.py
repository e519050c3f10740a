"""Messages that a host publishes by itself: heartbeat, events and telemetry. Readers ignore fields they do not know."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

ATTACHED = ("native", "generic", "offload", "none")
"""How transit XDP can run for an uplink."""
UPLINK_HOOKS = ("xdp", "tcx", "clsact", "none")
"""Where the program for an uplink can run: at XDP, or at tc in one of two ways."""
ENDPOINT_HOOKS = ("xdp", "tcx", "clsact", "")
"""Where the program for endpoints can belong; empty if an older agent does not say."""
EVENTS = {
    "repaired": "the agent found a change in the kernel that another program made, and repaired it",
    "fault": "a standing fault began, changed or ended",
    "droplet_down": "another droplet no longer answers probes, or there is no route to it",
    "droplet_up": "that droplet answers again",
    "narrow_path": "a path carries less than its interface's MTU",
    "path_restored": "that path carries its interface's MTU again",
    "stopping": "the agent is stopping on request; forwarding continues",
}
"""Kinds of event, and what each means."""


class AgentState(StrEnum):
    """The state of an agent."""

    STARTING = "starting"
    """Before the first complete snapshot of its documents; nothing is removed yet."""
    IN_SYNC = "in_sync"
    DEGRADED = "degraded"
    """In sync, but some documents are pending, rejected or failed, a next hop is unresolved, a droplet does not answer
    probes any more, a path carries less than its interface, the kernel could not be read, or another fault stands."""
    STOPPING = "stopping"


class DocumentCounts(msgspec.Struct, frozen=True):
    """The number of documents in each state."""

    realized: int = 0
    pending: int = 0
    rejected: int = 0
    failed: int = 0


class ObjectCounts(msgspec.Struct, frozen=True):
    """How many objects of each kind are in force, and how many endpoints live on this host."""

    droplets: int = 0
    vpcs: int = 0
    networks: int = 0
    endpoints: int = 0
    local_endpoints: int = 0
    functions: int = 0


class NarrowPath(msgspec.Struct, frozen=True):
    """A path that carries less than it should, in bytes of the outer IP packet.

    `droplet` and `address` are the other end's, `by` is this host's droplet that it starts from; `configured` is that
    one's MTU.
    """

    droplet: str
    address: str
    configured: int
    carries: int
    by: str = ""


class UnresolvedNextHops(msgspec.Struct, frozen=True):
    """Droplets that packets cannot be sent to now for one reason: how many, and the addresses of the first hundred."""

    reason: str
    droplets: int
    addresses: tuple[str, ...] = ()


class UplinkStatus(msgspec.Struct, frozen=True):
    """One of the host's uplinks, and the droplets that it carries: one for each address.

    `hook` says where the program for its frames runs now: `xdp`, `tcx`, `clsact` or `none`. `attach_mode` says how it
    runs at XDP: `native`, `generic`, `offload`, or `none` if it does not. `vlan` is the 802.1Q id of its frames, 0 for
    none.
    """

    interface: str
    droplets: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    attach_mode: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ATTACHED})] = "none"
    mtu: int = 0
    vlan: int = 0
    hook: Annotated[str, msgspec.Meta(extra_json_schema={"enum": UPLINK_HOOKS})] = "none"


class Fault(msgspec.Struct, frozen=True):
    """A condition that persists and keeps a host from working as its documents ask, or from knowing whether it does.

    `kind` is one of those that docs/operations.md lists, `subject` names what it concerns (an interface, a consumer, a
    droplet), `detail` says what is wrong and `remedy` what to do. `since` is in seconds since the epoch.
    """

    kind: str
    subject: str
    detail: str
    remedy: str = ""
    since: float = 0.0


SocketMode = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["", "copy", "zero_copy"]})]


class ServedFunction(msgspec.Struct, frozen=True):
    """A function whose packets reach a process now: by how many queues, and how their sockets are bound."""

    function: str
    point: str
    queues: int
    mode: SocketMode


class Status(msgspec.Struct, frozen=True):
    """The heartbeat. Times are seconds since the epoch, `uptime` is in seconds.

    `revision` is the newest stream sequence that was handled, `digest` that of what is realized (`protocol.digest`);
    `uplinks` are in the order of the settings. `down_droplets` are the ids of those that answered probes and do not any
    more. `unreadable` says why the kernel could not be compared with what is wanted, empty when it could. `faults`
    are all other standing conditions, sorted by kind and subject. `attach_mode` says how this host's programs at XDP
    are to run, and `attach_reason` why in generic mode. `losses_unknown` says why frames that the kernel drops after a
    program's verdict are not counted on this host, empty where they are; `losses_at_tc` names the uplinks and endpoints
    whose programs run at tc: what is dropped after their verdict is never counted. `endpoint_hook` says where the
    programs of endpoints belong: `xdp`, `tcx` or `clsact`; `endpoint_hook_reason` says why. `endpoint_hooks` is the
    number of this host's endpoints by the hook at which their program was last seen, or `none`. `gso_refused` says why
    endpoints may not send GSO packets although their programs belong at tc, empty if they may. `processes` are the
    functions in processes whose packets reach one; the others are among the faults.
    """

    host: str
    version: str
    boot: str
    at: float
    uptime: float
    state: AgentState
    revision: int
    digest: str
    documents: DocumentCounts
    objects: ObjectCounts
    uplinks: tuple[UplinkStatus, ...] = ()
    unresolved_next_hops: tuple[UnresolvedNextHops, ...] = ()
    unreadable: str = ""
    down_droplets: tuple[str, ...] = ()
    narrow_paths: tuple[NarrowPath, ...] = ()
    repairs: int = 0
    memory_bytes: int = 0
    faults: tuple[Fault, ...] = ()
    attach_mode: str = ""
    attach_reason: str = ""
    losses_unknown: str = ""
    losses_at_tc: str = ""
    endpoint_hook: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ENDPOINT_HOOKS})] = ""
    endpoint_hook_reason: str = ""
    endpoint_hooks: dict[str, int] = {}
    gso_refused: str = ""
    processes: tuple[ServedFunction, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """Something that happened once: its subject carries the kind, `detail` says what in one line per thing."""

    host: str
    kind: Annotated[str, msgspec.Meta(extra_json_schema={"enum": tuple(EVENTS)})]
    at: float
    detail: tuple[str, ...] = ()


class Traffic(msgspec.Struct, frozen=True, array_like=True):
    """Packets and bytes since the maps were made."""

    packets: int
    bytes: int


class EndpointTraffic(msgspec.Struct, frozen=True):
    """One local endpoint's counters; bytes are those of the inner Ethernet frames."""

    endpoint: str
    sent: Traffic
    direct: Traffic
    delivered: Traffic
    dropped: Traffic


class FunctionTraffic(msgspec.Struct, frozen=True):
    """One function's counters since it got its slot; bytes are those of the frames that it received.

    `received` is the sum of packets by verdict and of `faults`: packets for which it returned no verdict that is valid
    at its point, or which it made unusable. `reasons` counts drops by the function's own reason, 0 to 15, those that
    occurred. `samples` is the number of frames whose time was measured, `mean_ns` the mean of these times. `queues` is
    the number of queues by which packets reach a process now, 0 for a program and while no process takes any; `mode`
    says how its sockets are bound: `copy` or `zero_copy`. `rolled_back` is the revision of its document whose version
    failed, so that the one before runs; 0 if none did.
    """

    function: str
    point: str
    received: Traffic
    went_on: int = 0
    dropped: int = 0
    sent_back: int = 0
    sent_to: int = 0
    handed_over: int = 0
    faults: int = 0
    reasons: dict[str, int] = {}
    samples: int = 0
    mean_ns: float = 0.0
    queues: int = 0
    mode: SocketMode = ""
    rolled_back: int = 0


class Probes(msgspec.Struct, frozen=True):
    """Probes of other droplets since the agent's start.

    `lost` were not answered in time, `refused` did not fit somewhere on the way; `icmp_errors` quoted a tunnel packet
    of this host.
    """

    sent: int = 0
    answered: int = 0
    lost: int = 0
    refused: int = 0
    icmp_errors: int = 0


class LostFrames(msgspec.Struct, frozen=True):
    """Frames that the kernel dropped after a program had forwarded or answered them, since the maps were made.

    `reason` is one of those that docs/operations.md lists, `interface` the uplink's or endpoint's name where they were
    to leave.
    """

    reason: str
    interface: str
    frames: int


class Counters(msgspec.Struct, frozen=True):
    """Telemetry of kind `counters`: outcomes of packets by name, traffic of endpoints and functions, and probes.

    `lost` are frames that count as forwarded or answered in `outcomes` and were dropped by the kernel afterwards: what
    really left is the one less the other. `lost_unknown` says why that is not counted on this host, empty where it is;
    `lost` has then what the uplinks' drivers tell, which is not all, and not only of the agent's programs.
    `lost_at_tc` names the uplinks and endpoints whose programs run at tc: what the kernel dropped after these is never
    in `lost`; the devices count it as that of other programs.
    """

    host: str
    at: float
    outcomes: dict[str, Traffic]
    endpoints: tuple[EndpointTraffic, ...] = ()
    probes: Probes = Probes()
    lost: tuple[LostFrames, ...] = ()
    lost_unknown: str = ""
    lost_at_tc: str = ""
    functions: tuple[FunctionTraffic, ...] = ()
