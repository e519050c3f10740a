"""What a lab is made of: hosts, endpoints and their addresses."""

from __future__ import annotations

from functools import cached_property
from ipaddress import ip_address

from controller_sim.lab.lab import Lab
from controller_sim.topology.file import parse_topology
from controller_sim.topology.model import Topology


class LabTopology:
    """A lab's topology, and what was assigned to it."""

    def __init__(self, lab: Lab, text: str) -> None:
        self.lab = lab
        self.text = text
        self.names = lab.names

    @cached_property
    def topology(self) -> Topology:
        return parse_topology(self.text, "the test's topology")

    @cached_property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        return {name: assigned.addresses for name, assigned in self.lab.paths.load().assignments.items()}

    @property
    def hosts(self) -> list[str]:
        return self.topology.hosts

    @property
    def endpoints(self) -> list[str]:
        return list(self.topology.endpoints)

    def address(self, endpoint: str, family: int | None = None) -> str:
        """Return an endpoint's address of a family (4 or 6), its first where none is asked for."""
        return next(a for a in self.addresses[endpoint] if family in (None, ip_address(a).version))

    def families(self, *endpoints: str) -> list[int]:
        """Return the families (4, 6) that all of some endpoints have."""
        found = [{ip_address(address).version for address in self.addresses[name]} for name in endpoints]
        return sorted(set.intersection(*found))

    def mac(self, endpoint: str) -> bytes:
        return bytes.fromhex(self.lab.paths.load().assignments[endpoint].mac.replace(":", ""))

    def host_of(self, endpoint: str) -> str:
        return self.topology.host_of(endpoint)

    def vpc_of(self, endpoint: str) -> str:
        return self.topology.vpc_of(endpoint).name

    def inside(self, endpoint: str) -> str:
        """Return the namespace of an endpoint."""
        return self.names.endpoint(endpoint)

    def pairs(self) -> list[tuple[str, str]]:
        """Return every pair of endpoints of one VPC, each once."""
        names = self.endpoints
        both = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        return [(a, b) for a, b in both if self.vpc_of(a) == self.vpc_of(b) and self.families(a, b)]

    def talks(self) -> list[tuple[str, str, int]]:
        """Return every pair of endpoints of one VPC in each family that both have."""
        return [(a, b, family) for a, b in self.pairs() for family in self.families(a, b)]
