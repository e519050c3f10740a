"""Which way a packet of a local endpoint would go: the transit agent's decision, followed over the same maps' entries.

Pure: the caller hands in the lookups. `bpf/transit_agent.c` and `bpf/route.h` are what it follows.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from agent.core.layout import DIRECT_LIFETIME, NETWORK_BOUNCED_HERE, VPC_DIVIDED_HERE, AddressSet, Endpoint, unmapped
from protocol.addresses import format_address
from protocol.rpc import PathReply


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
    def bouncers(self) -> AddressSet:
        """Return its flags and bouncers."""


class Lookups(NamedTuple):
    """What the maps say of one source and one destination in one VPC."""

    direct: Learnt | None
    destination: Endpoint | None
    source_network: Known | None
    destination_network: Known | None
    vpc: AddressSet | None


def way(found: Lookups) -> PathReply:
    """Return the way, or why there is none."""
    direct = found.direct
    if direct is not None and direct.age < DIRECT_LIFETIME:
        return PathReply("direct", _hosts((direct.host,)), learnt=True, age=round(direct.age, 3))
    if found.destination is not None:
        if found.destination.ifindex:
            return PathReply("same_host")
        return PathReply("direct", _hosts((found.destination.host,)))
    if found.source_network is None:
        return PathReply("none", reason="no_network")
    flags, bouncers = found.source_network.bouncers
    if flags & NETWORK_BOUNCED_HERE:
        return _as_bouncer(found)
    if not bouncers:
        return PathReply("none", reason="no_bouncer")
    return PathReply("bouncer", _hosts(bouncers))


def _as_bouncer(found: Lookups) -> PathReply:
    """Go on as the source's own bouncer, which this host is."""
    if found.vpc is None:
        return PathReply("none", reason="no_vpc")
    network = found.destination_network
    if network is not None and network.bouncers.flags & NETWORK_BOUNCED_HERE:
        return PathReply("none", reason="no_endpoint")
    if found.vpc.flags & VPC_DIVIDED_HERE:
        if network is None:
            return PathReply("none", reason="no_network")
        if not network.bouncers.members:
            return PathReply("none", reason="no_bouncer")
        return PathReply("bouncer", _hosts(network.bouncers.members))
    if not found.vpc.members:
        return PathReply("none", reason="no_divider")
    return PathReply("divider", _hosts(found.vpc.members))


def _hosts(addresses: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(format_address(unmapped(address)) for address in addresses)
