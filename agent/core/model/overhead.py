"""Tunnel overhead and MTU: how long an endpoint's packet may be to fit into its tunnel.

Geneve and VXLAN have the same overhead. An uplink's MTU counts the outer IP header and everything after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.model.features import Family, family_of
from protocol.addresses import parse_address

TUNNEL_HEADERS: dict[Family, int] = {"ipv4": 20 + 8 + 8 + 14, "ipv6": 40 + 8 + 8 + 14}
"""Bytes of outer IP, UDP, Geneve (or VXLAN) and inner Ethernet header, by the underlay's family."""
RETURN_TO_SENDER: dict[Family, int] = {"ipv4": 4 + 8, "ipv6": 4 + 20}
"""Bytes of the return-to-sender option, which the first packets of a conversation carry."""
LABEL = 4 + 4
"""Bytes of the option with the sender's label, which may stand beside it."""
MIN_MTU: dict[Family, int] = {"ipv4": 576, "ipv6": 1280}
"""The MTU that every host may expect, by the overlay's family: RFC 791 (section 3.1), RFC 8200 (section 5)."""


def overhead(underlay: Family) -> int:
    """Return the bytes by which an endpoint's MTU is smaller than its uplink's."""
    return TUNNEL_HEADERS[underlay] + RETURN_TO_SENDER[underlay]


def min_mtu(addresses: Iterable[str]) -> int:
    """Return the smallest MTU that the families of an endpoint's addresses require."""
    return max(MIN_MTU[family_of(parse_address(text))] for text in addresses)


def path_mtu_for_ipv6(droplet: bytes) -> int:
    """Return the path MTU to a packed address at which endpoints' IPv6 packets of the minimum MTU, 1280 bytes, fit."""
    return uplink_mtu(MIN_MTU["ipv6"], family_of(droplet))


def label_bytes(label: int) -> int:
    """Return the bytes by which a label makes an endpoint's MTU smaller: any network may ask for it at any time."""
    return LABEL if label else 0


def uplink_mtu(endpoint: int, underlay: Family, label: int = 0) -> int:
    """Return the uplink MTU that gives an endpoint an MTU of `endpoint` bytes: the inverse of `endpoint_mtu`."""
    return endpoint + overhead(underlay) + label_bytes(label)


def endpoint_mtu(uplink: int, underlay: Family, label: int = 0) -> int:
    """Return an endpoint's MTU, from its uplink's MTU, its droplet's family and its label, 0 for none; at least 0."""
    return max(0, uplink - overhead(underlay) - label_bytes(label))
