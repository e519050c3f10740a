"""Address management: gives every endpoint an address of each of its network's families, and a MAC.

Pure and deterministic. An endpoint keeps what it had before (`previous`) while that still fits its network, so that
adding one endpoint moves no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import ip_address, ip_network

from controller_sim.topology.model import Topology, address_in, cidr_of, gateway_of


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an endpoint is known by in its VPC. `addresses` are in the order of its network's CIDRs."""

    addresses: tuple[str, ...]
    mac: str

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]


class ExhaustedError(ValueError):
    """A network has fewer addresses than endpoints."""


def allocate(topology: Topology, previous: Mapping[str, Assignment] | None = None) -> dict[str, Assignment]:
    """Return each endpoint's addresses and MAC by its name; ExhaustedError when a network is full.

    Written addresses come first, then those from before, then the lowest free host address in the file's order.
    """
    previous = previous or {}
    used: dict[str, set[str]] = {network.vpc: set() for network in topology.networks.values()}
    found: dict[tuple[str, str], str] = {}
    """The address of an endpoint in a CIDR of its network."""
    for endpoint in topology.endpoints.values():
        network = topology.networks[endpoint.network]
        for address in endpoint.addresses:
            found[endpoint.name, cidr_of(address, network.cidrs) or ""] = address
            used[network.vpc].add(address)
    for name, cidr, address in _kept(topology, previous):
        taken = used[topology.networks[topology.endpoints[name].network].vpc]
        if (name, cidr) not in found and address not in taken:
            found[name, cidr] = address
            taken.add(address)
    free = {
        (name, cidr): _free(cidr, used[network.vpc])
        for name, network in topology.networks.items()
        for cidr in network.cidrs
    }
    for endpoint in topology.endpoints.values():
        for cidr in topology.networks[endpoint.network].cidrs:
            if (endpoint.name, cidr) not in found:
                found[endpoint.name, cidr] = _next(free[endpoint.network, cidr], endpoint.network, cidr)
    return {name: _assignment(topology, name, found) for name in topology.endpoints}


def _kept(topology: Topology, previous: Mapping[str, Assignment]) -> Iterator[tuple[str, str, str]]:
    """Return endpoint, CIDR and address of what was given before and still fits."""
    for endpoint in topology.endpoints.values():
        before = previous.get(endpoint.name)
        for cidr in topology.networks[endpoint.network].cidrs if before is not None else ():
            for address in before.addresses if before is not None else ():
                if address_in(address, cidr) and address != gateway_of(cidr):
                    yield endpoint.name, cidr, address


def _free(cidr: str, used: set[str]) -> Iterator[str]:
    gateway = gateway_of(cidr)
    for host in ip_network(cidr).hosts():
        text = str(host)
        if text != gateway and text not in used:
            yield text


def _next(free: Iterator[str], network: str, cidr: str) -> str:
    address = next(free, None)
    if address is None:
        raise ExhaustedError(f"network {network} ({cidr}) has no address left")
    return address


def _assignment(topology: Topology, name: str, found: Mapping[tuple[str, str], str]) -> Assignment:
    endpoint = topology.endpoints[name]
    addresses = tuple(found[name, cidr] for cidr in topology.networks[endpoint.network].cidrs)
    return Assignment(addresses, endpoint.mac if endpoint.mac is not None else _mac(addresses))


def _mac(addresses: tuple[str, ...]) -> str:
    """Return the MAC of an endpoint's IPv4 address, or of its IPv6 one where it has no other."""
    return mac_of(min(addresses, key=lambda address: ip_address(address).version))


def mac_of(address: str) -> str:
    """Return the MAC that follows from an address: unique in a VPC, since the address is.

    IPv4: 02:00 and the address's four bytes. IPv6: 06 and five bytes of its hash.
    """
    packed = ip_address(address).packed
    if len(packed) == 4:
        return (b"\x02\x00" + packed).hex(":")
    return (b"\x06" + blake2s(packed, digest_size=5).digest()).hex(":")
