"""What is the same in every test: droplets, and tenants with one endpoint on the agent's host and one elsewhere.

Elsewhere no agent runs: there a Geneve device of the kernel's is the endpoint's interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.documents import Attachment, Document, Droplet, Endpoint, Network, Vpc
from tests.kernels.inside.host import NAME
from tests.kernels.inside.talk import converse
from tests.kernels.inside.wires import ip

PORT = 6081
DEVICE_MAC = "02:00:00:00:01:00"
DEVICE_MTU = 1400
MANY = 100
"""Packets that a talk has at least, each way."""


@dataclass(frozen=True)
class Tenant:
    """A VPC with an endpoint on droplet `here` of the agent's host, and one on droplet `there`, in namespace `outside`.

    Where the bouncer is `here` the agent is told of the other endpoint, else it has to ask that host.
    """

    name: str
    vni: int
    here: str
    there: str
    outside: str
    bouncer: str

    @property
    def inside(self) -> str:
        """The namespace of the endpoint here."""
        return f"t-{self.name}"

    @property
    def address(self) -> str:
        """The endpoint's here."""
        return f"10.0.{self.vni}.1"

    @property
    def other(self) -> str:
        """The address of the endpoint elsewhere."""
        return f"10.0.{self.vni}.2"

    def documents(self) -> dict[str, Document]:
        """Return what the agent is told about it."""
        cidr, mac = (f"10.0.{self.vni}.0/24",), f"02:00:00:00:00:{self.vni:02x}"
        network = Network(self.name, self.name, cidr, bouncers=(self.bouncer,), gateways=(f"10.0.{self.vni}.254",))
        here = Endpoint(f"{self.name}-here", self.name, self.here, (self.address,), mac, Attachment(self.inside))
        there = Endpoint(f"{self.name}-there", self.name, self.there, (self.other,), DEVICE_MAC)
        documents = {
            f"vpc.{self.name}": Document(vpcs=(Vpc(self.name, self.vni, cidr),), networks=(network,)),
            f"endpoint.{self.name}": Document(endpoints=(here,)),
        }
        if self.bouncer == self.here:
            documents[f"network.{self.name}"] = Document(endpoints=(there,))
        return documents

    def add_device(self, remote: str, *settings: str) -> None:
        """Make the Geneve device of the endpoint elsewhere, which encapsulates for this VNI and one host alone."""
        device = f"name {self.name} address {DEVICE_MAC} mtu {DEVICE_MTU}"
        tunnel = f"geneve id {self.vni} remote {remote} dstport {PORT} {' '.join(settings)}"
        ip(self.outside, f"link add {device} type {tunnel}", f"link set {self.name} up")
        ip(self.outside, f"address add {self.other}/24 dev {self.name}")

    def talk(self) -> None:
        """Have both endpoints converse in every way."""
        converse(self.inside, self.address, self.outside, self.other)


def documents(here: Mapping[str, str], elsewhere: Mapping[str, str], tenants: Iterable[Tenant]) -> dict[str, Document]:
    """Return all documents of the agent's host; droplets are given as addresses by name."""
    droplets = [Droplet(name, NAME, address) for name, address in here.items()]
    droplets += [Droplet(name, name, address) for name, address in elsewhere.items()]
    wanted = {"substrate": Document(droplets=tuple(droplets))}
    for tenant in tenants:
        wanted |= tenant.documents()
    return wanted


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by how much counters grew, where they did."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}
