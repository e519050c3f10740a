"""Which way a packet of a local endpoint would go: the transit agent's decision, followed over the same maps' entries.

Pure: the caller hands in the lookups. `bpf/transit_agent.c` and `bpf/route.h` are what it follows.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from agent.core.layout import (
    DIRECT_LIFETIME,
    ENDPOINT_PINNED,
    ENDPOINT_VXLAN,
    INTERFACE_PINNED,
    NETWORK_BOUNCED_HERE,
    NEXT_HOP_DOWN,
    VPC_DIVIDED_HERE,
    AddressSet,
    Endpoint,
    unmapped,
)
from protocol.addresses import format_address
from protocol.rpc import PathReply

GENEVE, VXLAN = "geneve", "vxlan"


class Learnt(Protocol):
    """A direct path as the map holds it: `host` of 16 bytes, `age` in seconds."""

    @property
    def host(self) -> bytes:
        """Return the droplet's address."""

    @property
    def age(self) -> float:
        """Return the seconds since it was confirmed."""


class Known(Protocol):
    """A network as the map holds it."""

    @property
    def gateway(self) -> bytes:
        """Return the gateway's address, of 16 bytes: no two networks of a VPC share it."""

    @property
    def bouncers(self) -> AddressSet:
        """Return its flags and bouncers."""


class Lookups(NamedTuple):
    """What the maps say of one source and one destination (16 bytes) in one VPC.

    `sender` are the source's flags in `interfaces`. `learnt_hop` and `host_hop` are the flags of the next hops to the
    host of `direct` and to that of `destination`, by the interface that the source sends by; None where there is none.
    """

    to: bytes
    sender: int
    direct: Learnt | None
    learnt_hop: int | None
    destination: Endpoint | None
    host_hop: int | None
    source_network: Known | None
    destination_network: Known | None
    vpc: AddressSet | None


def way(found: Lookups) -> PathReply:
    """Return the way, or why there is none."""
    if _is_pinned(found) and not (found.vpc and found.vpc.flags & VPC_DIVIDED_HERE):
        return _by_divider(found.vpc)
    if found.direct is not None and found.direct.age < DIRECT_LIFETIME and _leads(found.learnt_hop):
        hosts = _hosts((found.direct.host,))
        age = round(found.direct.age, 3)
        return PathReply("direct", hosts, learnt=True, age=age, encapsulation=_encapsulation(found.destination))
    if found.destination is not None and found.destination.ifindex:
        return PathReply("same_host")
    if found.destination is not None and _leads(found.host_hop):
        hosts = _hosts((found.destination.host,))
        return PathReply("direct", hosts, encapsulation=_encapsulation(found.destination))
    return _by_network(found)


def _is_pinned(found: Lookups) -> bool:
    """Say whether the packet passes between networks of which one is reached through a divider only."""
    own, other = found.source_network, found.destination_network
    if own is not None and other is not None and own.gateway == other.gateway:
        return False
    pinned = found.destination is not None and bool(found.destination.flags & ENDPOINT_PINNED)
    return pinned or bool(found.sender & INTERFACE_PINNED)


def _leads(hop: int | None) -> bool:
    """Say whether a next hop is there and answers."""
    return hop is not None and not hop & NEXT_HOP_DOWN


def _encapsulation(destination: Endpoint | None) -> str:
    return VXLAN if destination is not None and destination.flags & ENDPOINT_VXLAN else GENEVE


def _by_network(found: Lookups) -> PathReply:
    """Go on without a direct path: the source's own network knows more."""
    if found.source_network is None:
        return PathReply("none", reason="no_network")
    if found.to == found.source_network.gateway:
        return PathReply("gateway")
    if found.source_network.bouncers.flags & NETWORK_BOUNCED_HERE:
        return _as_bouncer(found)
    return _by_bouncer(found.source_network)


def _as_bouncer(found: Lookups) -> PathReply:
    """Go on as the source's own bouncer, which this host is."""
    if found.vpc is None:
        return PathReply("none", reason="no_vpc")
    network = found.destination_network
    if network is not None and network.bouncers.flags & NETWORK_BOUNCED_HERE:
        return PathReply("none", reason="no_endpoint" if found.destination is None else "no_next_hop")
    if found.vpc.flags & VPC_DIVIDED_HERE:
        return PathReply("none", reason="no_network") if network is None else _by_bouncer(network)
    return _by_divider(found.vpc)


def _by_bouncer(network: Known) -> PathReply:
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
