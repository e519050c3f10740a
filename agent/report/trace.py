"""Traces a packet of a local endpoint: repeats the decision of the transit agent with the entries of the same maps.

Pure: the caller passes in the results of the lookups. It mirrors `bpf/lib/egress_route.h` and `bpf/lib/route.h`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from agent.core.model.map_layout import (
    DIRECT_LIFETIME,
    ENDPOINT_PINNED,
    ENDPOINT_VXLAN,
    INTERFACE_PINNED,
    NETWORK_LOCAL_BOUNCER,
    NEXT_HOP_DOWN,
    PATH_PINNED,
    VPC_LOCAL_DIVIDER,
    AddressSet,
    Endpoint,
    unmapped,
)
from protocol.addresses import format_address
from protocol.rpc import PathReply

GENEVE, VXLAN = "geneve", "vxlan"


class LearntPath(Protocol):
    """A direct path as in the map: `host` of 16 bytes, `age` in seconds."""

    @property
    def host(self) -> bytes:
        """Return the droplet's address."""

    @property
    def age(self) -> float:
        """Return the seconds since it was confirmed."""

    @property
    def flags(self) -> int:
        """Return the entry's flags."""


class TracedNetwork(Protocol):
    """A network as in the map."""

    @property
    def gateway(self) -> bytes:
        """Return the gateway's address, of 16 bytes: no two networks of a VPC share it."""

    @property
    def bouncers(self) -> AddressSet:
        """Return its flags and bouncers."""


class TraceInput(NamedTuple):
    """The map entries for one source and one destination (16 bytes) in one VPC.

    `sender` are the source's flags in `interfaces`. `learnt_hop` and `host_hop` are the flags of the next hops to the
    host of `direct` and to that of `destination`; None if no interface leads there.
    """

    to: bytes
    sender: int
    direct: LearntPath | None
    learnt_hop: int | None
    destination: Endpoint | None
    host_hop: int | None
    source_network: TracedNetwork | None
    destination_network: TracedNetwork | None
    vpc: AddressSet | None


def trace(found: TraceInput) -> PathReply:
    """Return the path, or why there is none."""
    learnt = found.direct if found.direct is not None and found.direct.age < DIRECT_LIFETIME else None
    pinned = _passes_between_networks(found) and _is_pinned(found, learnt)
    if learnt is not None and not pinned and not _is_unreachable(found.learnt_hop):
        return _direct(learnt.host, found.learnt_hop, GENEVE, learnt)
    if pinned and not (found.vpc and found.vpc.flags & VPC_LOCAL_DIVIDER):
        return _by_divider(found.vpc)
    if found.destination is None:
        return _by_network(found)
    if found.destination.ifindex:
        return PathReply("same_host")
    around = _by_network(found) if _is_unreachable(found.host_hop) else None
    if around is not None and around.reason != "no_endpoint":
        return around
    encapsulation = VXLAN if found.destination.flags & ENDPOINT_VXLAN else GENEVE
    return _direct(found.destination.host, found.host_hop, encapsulation)


def _direct(host: bytes, hop: int | None, encapsulation: str, learnt: LearntPath | None = None) -> PathReply:
    if hop is None:
        return PathReply("none", _hosts((host,)), learnt is not None, reason="next_hop_unresolved")
    age = round(learnt.age, 3) if learnt else None
    return PathReply("direct", _hosts((host,)), learnt is not None, age, encapsulation=encapsulation)


def _passes_between_networks(found: TraceInput) -> bool:
    own, other = found.source_network, found.destination_network
    return (own.gateway if own else None) != (other.gateway if other else None)


def _is_pinned(found: TraceInput, learnt: LearntPath | None) -> bool:
    """Return whether one of the networks is reached only through a divider, as far as this host knows."""
    destination = found.destination is not None and bool(found.destination.flags & ENDPOINT_PINNED)
    return destination or bool(found.sender & INTERFACE_PINNED) or bool(learnt and learnt.flags & PATH_PINNED)


def _is_unreachable(hop: int | None) -> bool:
    """Return whether a host has no next hop or does not answer."""
    return hop is None or bool(hop & NEXT_HOP_DOWN)


def _by_network(found: TraceInput) -> PathReply:
    """Continue without a direct path, by the source's own network."""
    if found.source_network is None:
        return PathReply("none", reason="no_network")
    if found.to == found.source_network.gateway:
        return PathReply("gateway")
    if found.source_network.bouncers.flags & NETWORK_LOCAL_BOUNCER:
        return _as_bouncer(found)
    return _by_bouncer(found.source_network)


def _as_bouncer(found: TraceInput) -> PathReply:
    """Continue as a bouncer of the source's network, which this host is."""
    if found.vpc is None:
        return PathReply("none", reason="no_vpc")
    network = found.destination_network
    if network is not None and network.bouncers.flags & NETWORK_LOCAL_BOUNCER:
        return PathReply("none", reason="no_endpoint")
    if found.vpc.flags & VPC_LOCAL_DIVIDER:
        return PathReply("none", reason="no_network") if network is None else _by_bouncer(network)
    return _by_divider(found.vpc)


def _by_bouncer(network: TracedNetwork) -> PathReply:
    members = network.bouncers.members
    if not members:
        return PathReply("none", reason="no_bouncer")
    return PathReply("bouncer", _hosts(members), encapsulation=GENEVE)


def _by_divider(vpc: AddressSet | None) -> PathReply:
    if vpc is None:
        return PathReply("none", reason="no_vpc")
    if not vpc.members:
        return PathReply("none", reason="no_divider")
    return PathReply("divider", _hosts(vpc.members), encapsulation=GENEVE)


def _hosts(addresses: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(format_address(unmapped(address)) for address in addresses)
