"""How long a packet of an endpoint may be, so that it fits into the tunnel by which it leaves.

Geneve and VXLAN take the same room. What an uplink's MTU counts is the outer IP header and all behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.model.features import Family, family_of
from protocol.addresses import parse_address

TUNNEL_HEADERS: dict[Family, int] = {"ipv4": 20 + 8 + 8 + 14, "ipv6": 40 + 8 + 8 + 14}
"""Bytes of outer IP, UDP, Geneve (or VXLAN) and inner Ethernet header, by the substrate's family."""
RETURN_TO_SENDER: dict[Family, int] = {"ipv4": 4 + 8, "ipv6": 4 + 20}
"""Bytes of the return-to-sender option, which the first packets of a conversation carry."""
MIN_MTU: dict[Family, int] = {"ipv4": 576, "ipv6": 1280}
"""The MTU that every host may expect, by the overlay's family: RFC 791 (section 3.1), RFC 8200 (section 5)."""


def overhead(substrate: Family) -> int:
    """Return how much shorter than its uplink's MTU an endpoint's is."""
    return TUNNEL_HEADERS[substrate] + RETURN_TO_SENDER[substrate]


def min_mtu(addresses: Iterable[str]) -> int:
    """Return what the families of an endpoint's addresses ask for."""
    return max(MIN_MTU[family_of(parse_address(text))] for text in addresses)


def path_mtu_for_ipv6(droplet: bytes) -> int:
    """Return what a path to a packed address must carry, so that IPv6 packets of endpoints, which never shrink, fit."""
    return uplink_mtu(MIN_MTU["ipv6"], family_of(droplet))


def uplink_mtu(endpoint: int, substrate: Family) -> int:
    """Return the MTU of an uplink that leaves an endpoint one of so many bytes: the inverse of `endpoint_mtu`."""
    return endpoint + overhead(substrate)


def endpoint_mtu(uplink: int, substrate: Family) -> int:
    """Return the MTU that an endpoint gets from its uplink's and the family of its droplet's address; at least 0."""
    return max(0, uplink - overhead(substrate))
