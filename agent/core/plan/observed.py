"""Observed state: what the kernel holds, always read back and never remembered. The plan compares it with the desired.

Plain data; `agent/datapath/observe.py` fills it. An incomplete observation raises ObservationError instead of returning
a smaller `Observed`: the plan could not distinguish what is gone from what was not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.model.desired_entries import FunctionBuild, FunctionPlace
from agent.core.model.map_layout import MapName
from agent.core.model.offloads import Offload
from agent.core.model.uplinks import Uplink


class ObservationError(Exception):
    """The kernel could not be read completely; nothing may be concluded from what was seen."""


@dataclass(frozen=True, slots=True)
class ObservedVeth:
    """The host side of an endpoint's veth that carries our mark, and what was read of its peer.

    `complete` is false if the agent died between creating the pair and marking it complete. `peer` is None if the
    peer's namespace does not exist or has no such interface. `peer_known` is false if the namespace could not be
    read: then nothing may be concluded about the peer. `mtu` is the host side's own: see `desired_entries.Veth`.
    """

    endpoint: str
    ifname: str
    ifindex: int
    complete: bool
    up: bool
    mtu: int
    transit_agent: bool
    peer: ObservedPeer | None
    peer_known: bool = True


@dataclass(frozen=True, slots=True)
class ObservedPeer:
    """The endpoint's side, as read in the tenant's namespace.

    `longest` is the MTU that the tenant can set there, `gso_max_size` the most bytes of its GSO packets of either
    family. `offloads` are those that `agent.core.model.offloads` has a rule for, by the kernel's names.
    """

    name: str
    mac: bytes
    mtu: int
    up: bool
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    longest: int = 0
    gso_max_size: int = 0
    offloads: Mapping[str, Offload] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObservedFunction:
    """A function's program as its pins and marks show it; the fields are those of `desired_entries.Function`.

    `complete` is false if its slot lacks a program at either hook, or has one that is not linked to this agent's own.
    """

    id: str
    point: int
    slot: int
    content: str
    configuration: bytes = b""
    on_fault_closed: bool = False
    complete: bool = True
    vpc: str = ""
    older: frozenset[FunctionBuild] = frozenset()
    """Whole builds that are pinned beside it."""

    @property
    def place(self) -> FunctionPlace:
        """See `desired_entries.Function`."""
        return self.id, self.point


@dataclass(frozen=True, slots=True)
class Observed:
    """One observation of the kernel: a complete one, or only of the objects that were asked for."""

    uplinks: tuple[Uplink, ...]
    veths: Mapping[str, ObservedVeth] = field(default_factory=dict)
    maps: Mapping[MapName, dict[bytes, bytes]] = field(default_factory=dict)
    functions: Mapping[FunctionPlace, ObservedFunction] = field(default_factory=dict)
