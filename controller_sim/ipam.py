"""Address management: gives every endpoint an address and a MAC. Pure and deterministic.

An endpoint keeps what it had before (`previous`) while that still fits its network, so that adding one endpoint moves
no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import ip_address, ip_network

from controller_sim.topology import Endpoint, Network, Topology, address_in, gateway_of


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an endpoint is known by in its VPC."""

    address: str
    mac: str


class ExhaustedError(ValueError):
    """A network has fewer addresses than endpoints."""


def allocate(topology: Topology, previous: Mapping[str, Assignment] | None = None) -> dict[str, Assignment]:
    """Return each endpoint's address and MAC by its name; ExhaustedError when a network is full.

    Written addresses come first, then those from before, then the lowest free host address in the file's order.
    """
    previous = previous or {}
    used: dict[str, set[str]] = {network.vpc: set() for network in topology.networks.values()}
    found: dict[str, str] = {}
    for endpoint in topology.endpoints.values():
        if endpoint.address is not None:
            found[endpoint.name] = endpoint.address
            used[topology.networks[endpoint.network].vpc].add(endpoint.address)
    for name in _kept(topology, previous):
        network = topology.networks[topology.endpoints[name].network]
        address = previous[name].address
        if address not in used[network.vpc]:
            found[name] = address
            used[network.vpc].add(address)
    free = {name: _free(network, used[network.vpc]) for name, network in topology.networks.items()}
    for endpoint in topology.endpoints.values():
        if endpoint.name not in found:
            found[endpoint.name] = _next(free[endpoint.network], topology.networks[endpoint.network])
    return {name: Assignment(found[name], _mac(topology, name, found[name])) for name in topology.endpoints}


def _kept(topology: Topology, previous: Mapping[str, Assignment]) -> Iterator[str]:
    for endpoint in topology.endpoints.values():
        before = previous.get(endpoint.name)
        cidr = topology.networks[endpoint.network].cidr
        if endpoint.address is not None or before is None:
            continue
        if address_in(before.address, cidr) and before.address != gateway_of(cidr):
            yield endpoint.name


def _free(network: Network, used: set[str]) -> Iterator[str]:
    gateway = gateway_of(network.cidr)
    for host in ip_network(network.cidr).hosts():
        text = str(host)
        if text != gateway and text not in used:
            yield text


def _next(free: Iterator[str], network: Network) -> str:
    address = next(free, None)
    if address is None:
        raise ExhaustedError(f"network {network.name} ({network.cidr}) has no address left")
    return address


def _mac(topology: Topology, name: str, address: str) -> str:
    endpoint: Endpoint = topology.endpoints[name]
    return endpoint.mac if endpoint.mac is not None else mac_of(address)


def mac_of(address: str) -> str:
    """Return the MAC that follows from an address: unique in a VPC, since the address is.

    IPv4: 02:00 and the address's four bytes. IPv6: 06 and five bytes of its hash.
    """
    packed = ip_address(address).packed
    if len(packed) == 4:
        return (b"\x02\x00" + packed).hex(":")
    return (b"\x06" + blake2s(packed, digest_size=5).digest()).hex(":")
