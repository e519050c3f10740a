"""The gateways of a network: those of its document, or the first host address of each CIDR."""

from __future__ import annotations

from protocol.addresses import first_host, parse_address, parse_cidr
from protocol.documents import Network


def gateways(network: Network) -> tuple[bytes, ...]:
    """Return the packed gateway of each CIDR of a network, in their order."""
    if network.gateways:
        return tuple(parse_address(text) for text in network.gateways)
    return tuple(first_host(parse_cidr(text)) for text in network.cidrs)
