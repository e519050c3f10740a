"""What the kernel holds, read back and never remembered: the other side of the plan's comparison.

Plain data only; `agent/datapath/observe.py` fills it. An observation that could not be completed is an exception, not a
smaller `Observed`: the plan could not tell what is gone from what was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.model.map_layout import MapName
from agent.core.model.offloads import Offload
from agent.core.model.uplinks import Uplink


@dataclass(frozen=True, slots=True)
class ObservedVeth:
    """The host side of an endpoint's veth that carries our mark, and what is seen of its peer.

    `complete` is false when the agent died between making the pair and marking it done. `peer` is None when the
    peer's namespace is not there or holds no such interface. `peer_known` is false when the namespace could not be
    read: nothing may be concluded about the peer then. `mtu` is the host side's own: see `actions.Veth`.
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
    """The endpoint's side: what the tenant's namespace shows.

    `longest` is the MTU that the tenant can set there. `offloads` are those that `agent.core.model.offloads` has a rule
    for, by the kernel's names.
    """

    name: str
    mac: bytes
    mtu: int
    up: bool
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    longest: int = 0
    offloads: Mapping[str, Offload] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at the kernel: a complete one, or one at what was asked for."""

    uplinks: tuple[Uplink, ...]
    veths: Mapping[str, ObservedVeth] = field(default_factory=dict)
    maps: Mapping[MapName, dict[bytes, bytes]] = field(default_factory=dict)
