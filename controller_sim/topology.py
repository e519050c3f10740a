"""The topology: what a person writes to describe a cloud, as plain data, and the rules that it must keep.

Owns the types, and the expansion of the file's short forms. Reading YAML is in `topology_file.py`; addresses that are
not written are found by `ipam.py`, droplets that are only counted by `placement.py`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeAlias

Members: TypeAlias = int | tuple[str, ...]
"""How many droplets take a role, or which."""


@dataclass(frozen=True, slots=True)
class Droplet:
    """A host with one interface. `address` is its substrate address without prefix length."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Vpc:
    """A tenant's address space."""

    name: str
    vni: int
    cidr: str
    dividers: Members = 1


@dataclass(frozen=True, slots=True)
class Network:
    """A subnet of a VPC."""

    name: str
    vpc: str
    cidr: str
    bouncers: Members = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A tenant's interface on a droplet. Address and MAC are None where they are to be allocated."""

    name: str
    network: str
    droplet: str
    address: str | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Substrate:
    """The network between the droplets. `mtu` in bytes; `server` is the address of the NATS server in it."""

    cidr: str
    mtu: int
    server: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole cloud, checked: every reference is known, every CIDR within its VPC, every name used once."""

    substrate: Substrate
    droplets: dict[str, Droplet]
    vpcs: dict[str, Vpc]
    networks: dict[str, Network]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    seed: int = 0

    def vpc_of(self, endpoint: str) -> Vpc:
        """Return the VPC in which an endpoint lives."""
        return self.vpcs[self.networks[self.endpoints[endpoint].network].vpc]


def gateway_of(cidr: str) -> str:
    """Return the address that a network's gateway has: the first host address."""
    network = ip_network(cidr)
    return str(network[1 if network.num_addresses > 1 else 0])


def address_in(address: str, cidr: str) -> bool:
    """Say whether an address lies in a CIDR."""
    return ip_address(address) in ip_network(cidr)


def default_substrate_cidr(address: str) -> str:
    """Return the network of a droplet's address that is written with its prefix length."""
    return str(ip_interface(address).network)


def free_server_address(cidr: str, taken: set[str]) -> str:
    """Return the first host address of the substrate that no droplet has, or raise ValueError when all are taken."""
    for host in ip_network(cidr).hosts():
        if str(host) not in taken:
            return str(host)
    raise ValueError(f"{cidr} has no address left for the NATS server")
