"""What is the same in every test: droplets, and tenants with one endpoint on the agent's host and one elsewhere.

Elsewhere no agent runs: there a Geneve device of the kernel's is the endpoint's interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.documents import Attachment, Document, Droplet, Endpoint, Network, Vpc
from tests.kernels.inside.host import NAME
from tests.kernels.inside.talk import converse, ping
from tests.kernels.inside.wires import ip

PORT = 6081
DEVICE_MAC = "02:00:00:00:01:00"
DEVICE_MTU = 1400
MANY = 100
"""The minimum number of packets of a conversation in each direction."""


@dataclass(frozen=True)
class Tenant:
    """A VPC with an endpoint on droplet `here` of the agent's host, and one on droplet `there`, in namespace `outside`.

    Where the bouncer is `here` the agent's documents list the other endpoint; otherwise packets go through that host.
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
    def mac(self) -> str:
        """The endpoint's here."""
        return f"02:00:00:00:00:{self.vni:02x}"

    @property
    def cidrs(self) -> tuple[str, str]:
        """Its networks, IPv4 and IPv6."""
        return f"10.0.{self.vni}.0/24", f"fd00:{self.vni}::/64"

    @property
    def addresses(self) -> tuple[str, str]:
        """Those of the endpoint here."""
        return self._addresses(1)

    @property
    def others(self) -> tuple[str, str]:
        """Those of the endpoint elsewhere."""
        return self._addresses(2)

    def _addresses(self, number: int) -> tuple[str, str]:
        return f"10.0.{self.vni}.{number}", f"fd00:{self.vni}::{number}"

    def documents(self) -> dict[str, Document]:
        """Return its document."""
        gateways, attachment = self._addresses(254), Attachment(self.inside)
        network = Network(self.name, self.name, self.cidrs, bouncers=(self.bouncer,), gateways=gateways)
        here = Endpoint(f"{self.name}-here", self.name, self.here, self.addresses, self.mac, attachment)
        there = Endpoint(f"{self.name}-there", self.name, self.there, self.others, DEVICE_MAC)
        documents = {
            f"vpc.{self.name}": Document(vpcs=(Vpc(self.name, self.vni, self.cidrs),), networks=(network,)),
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
        for address, length in zip(self.others, (24, 64), strict=True):
            ip(self.outside, f"address add {address}/{length} dev {self.name} {no_detection(address)}")

    def know_device(self, addresses: Iterable[str]) -> None:
        """Have the endpoint here know the device's Ethernet address.

        A bouncer is believed about it by its option, which a plain device does not send back.
        """
        ip(self.inside, *(f"neighbour add {one} lladdr {DEVICE_MAC} dev eth0 nud permanent" for one in addresses))

    def talk(self) -> None:
        """Exchange echoes, connections and datagrams between both endpoints in both families."""
        for here, there in zip(self.addresses, self.others, strict=True):
            converse(self.inside, here, self.outside, there)

    def is_answered(self) -> bool:
        """Say whether the endpoint elsewhere answers every echo request from here, in both families."""
        return all(ping(self.inside, address) == 3 for address in self.others)

    def is_silent(self) -> bool:
        """Say whether the endpoint here answers no echo request from elsewhere."""
        return all(ping(self.outside, address) == 0 for address in self.addresses)


def no_detection(address: str) -> str:
    """Return the word for ip(8) that makes an address usable at once: no duplicate address detection (RFC 4862)."""
    return "nodad" if ":" in address else ""


def documents(here: Mapping[str, str], elsewhere: Mapping[str, str], tenants: Iterable[Tenant]) -> dict[str, Document]:
    """Return all documents of the agent's host; droplets are given as addresses by name."""
    droplets = [Droplet(name, NAME, address) for name, address in here.items()]
    droplets += [Droplet(name, name, address) for name, address in elsewhere.items()]
    wanted = {"underlay": Document(droplets=tuple(droplets))}
    for tenant in tenants:
        wanted |= tenant.documents()
    return wanted


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by how much counters grew, where they did."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}
