"""The topology: what a person writes to describe a cloud, as plain data, and the rules that it must keep.

Owns the types, and the expansion of the file's short forms. Reading YAML is in `file.py`; addresses that are
not written are found by `ipam.py`, droplets that are only counted by `placement.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal, TypeAlias, cast

from protocol import documents

GENEVE_PORT, VXLAN_PORT = 6081, 4789
"""UDP ports of tunnels, where the file says nothing of them."""

Members: TypeAlias = int | tuple[str, ...]
"""How many droplets take a role, or which."""
Wires: TypeAlias = Literal["physical", "virtual"]
"""What leaves an interface: frames as on a NIC's wire, or also GSO packets and unfinished checksums."""


@dataclass(frozen=True, slots=True)
class Droplet:
    """An interface of a host in the underlay. `address` is without prefix length.

    `queues` is how many receive queues it has; `link_mtu` what its wire carries in bytes, where that is less than the
    interface's own MTU. A droplet with `peer` speaks VXLAN by its kernel, and has no agent.
    """

    name: str
    address: str
    host: str
    interface: str = "eth0"
    subnet: str = ""
    queues: int = 1
    link_mtu: int | None = None
    udp_checksum: Literal["full", "zero"] = "full"
    peer: bool = False


@dataclass(frozen=True, slots=True)
class Vpc:
    """A tenant's address space: one CIDR of each family that it uses."""

    name: str
    vni: int
    cidrs: tuple[str, ...]
    dividers: Members = 1


@dataclass(frozen=True, slots=True)
class Network:
    """A subnet of a VPC, with one CIDR of each family. The other fields are those of the document's network."""

    name: str
    vpc: str
    cidrs: tuple[str, ...]
    bouncers: Members = 1
    encapsulation: Literal["geneve", "vxlan"] = "geneve"
    routing: Literal["direct", "divider"] = "direct"
    labels: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A tenant's interface on a droplet. Addresses that are not written, and a MAC of None, are to be allocated.

    `attachment` `function`: no interface but a function endpoint, so it has no network namespace.
    """

    name: str
    network: str
    droplet: str
    addresses: tuple[str, ...] = ()
    mac: str | None = None
    dscp: int = 0
    attachment: Literal["veth", "function"] = "veth"
    label: int = 0


@dataclass(frozen=True, slots=True)
class Function:
    """A user's program or process at a stage point. The other fields are those of the document's function.

    `form` is how the program is given, `source`, `object`, `file` or `process`; `path` is the file as the topology
    names it, or the user of a process, and `content` what a file holds, empty for a `file`, which only hosts have.
    `scope` has ids by kind. No `hosts`: all that know what it refers to. `queues`, `reasons` and `handed` are of a
    process.
    """

    name: str
    point: str
    form: str
    path: str
    content: bytes
    vpc: str = ""
    scope: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    order: int = 0
    configuration: bytes = b""
    on_fault: str = "open"
    queues: int = 1
    reasons: tuple[str, ...] = ()
    handed: bool = False

    def document(self) -> documents.Function:
        """Return it as documents list it."""
        given: Any = self.path if self.form == "file" else self.content
        if self.form == "source":
            given = self.content.decode()
        elif self.form == "process":
            given = documents.FunctionProcess(self.path, self.queues, self.reasons, self.handed)
        return documents.Function(
            self.name,
            cast(Any, self.point),
            documents.FunctionProgram(**{self.form: given}),
            self.order,
            self.vpc,
            documents.FunctionScope(**self.scope),
            self.configuration,
            cast(Any, self.on_fault),
        )


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """The agents' settings for functions: the forms of programs that they accept, their folder, and whose are free.

    `host_wide` are the names of documents whose functions need not name a VPC.
    """

    accept: tuple[str, ...] = ()
    folder: str = ""
    host_wide: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subnet:
    """Hosts on one bridge. `mtu` in bytes is that of their interfaces, `router_mtu` that of the router's port there."""

    name: str
    cidrs: tuple[str, ...]
    mtu: int = 1500
    router_mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Underlay:
    """The network between the droplets: one subnet, or several with a router between them.

    `servers` are the NATS server's addresses, one of each family, all in one subnet.
    """

    subnets: tuple[Subnet, ...]
    servers: tuple[str, ...]
    wires: Wires = "physical"

    @property
    def cidrs(self) -> tuple[str, ...]:
        """Every subnet's CIDRs."""
        return tuple(cidr for subnet in self.subnets for cidr in subnet.cidrs)

    @property
    def mtu(self) -> int:
        """The MTU of the hosts' interfaces in the first subnet."""
        return self.subnets[0].mtu

    @property
    def server(self) -> str:
        """The first of the NATS server's addresses."""
        return self.servers[0]

    def prefix_of(self, address: str) -> int:
        """Return the prefix length of the CIDR in which an address lies."""
        return next(ip_network(cidr).prefixlen for cidr in self.cidrs if address_in(address, cidr))


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where programs run, `xdp`, `tc` or `auto` (the agent decides): None is the lab's default."""

    endpoint: str | None = None
    uplink: str | None = None


@dataclass(frozen=True, slots=True)
class Agents:
    """The agents' settings that are not their defaults.

    `hooks` are those of hosts that `host_hooks` does not name; `data_plane` has the keys of that section.
    """

    attach_mode: str = "auto"
    hooks: Hooks = Hooks()
    host_hooks: tuple[tuple[str, Hooks], ...] = ()
    data_plane: tuple[tuple[str, int | tuple[str, ...]], ...] = ()
    functions: FunctionSettings = FunctionSettings()


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole cloud, checked: every reference is known, every CIDR within its VPC, every name used once."""

    underlay: Underlay
    droplets: dict[str, Droplet]
    vpcs: dict[str, Vpc]
    networks: dict[str, Network]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    seed: int = 0
    agents: Agents = Agents()
    functions: dict[str, Function] = field(default_factory=dict)

    def vpc_of(self, endpoint: str) -> Vpc:
        """Return the VPC in which an endpoint lives."""
        return self.vpcs[self.networks[self.endpoints[endpoint].network].vpc]

    @property
    def attached(self) -> list[str]:
        """The names of the endpoints that have interfaces."""
        return [name for name, endpoint in self.endpoints.items() if endpoint.attachment == "veth"]

    @property
    def hosts(self) -> list[str]:
        """The hosts with an agent, in the file's order."""
        return list(dict.fromkeys(droplet.host for droplet in self.droplets.values() if not droplet.peer))

    @property
    def files(self) -> dict[str, bytes]:
        """The files beside the topology that it names, with their contents."""
        return {one.path: one.content for one in self.functions.values() if one.form != "file"}

    @property
    def peers(self) -> list[Droplet]:
        """The droplets without an agent."""
        return [droplet for droplet in self.droplets.values() if droplet.peer]

    def droplets_of(self, host: str) -> list[Droplet]:
        """Return a host's droplets."""
        return [droplet for droplet in self.droplets.values() if droplet.host == host]

    def interfaces_of(self, host: str) -> list[str]:
        """Return a host's interfaces in the underlay, each once."""
        return list(dict.fromkeys(droplet.interface for droplet in self.droplets_of(host)))

    def host_of(self, endpoint: str) -> str:
        """Return the host on which an endpoint is."""
        return self.droplets[self.endpoints[endpoint].droplet].host

    def endpoint_hook_of(self, host: str) -> str:
        """Return the hook at which a host's agent runs its endpoints' programs, `auto` where the agent decides."""
        own = dict(self.agents.host_hooks).get(host, Hooks())
        return own.endpoint or self.agents.hooks.endpoint or "auto"

    def uplink_hook_of(self, host: str) -> str:
        """Return the hook of a host's uplinks. On physical wires `auto` would find a veth, and take it for virtual."""
        own = dict(self.agents.host_hooks).get(host, Hooks())
        default = "xdp" if self.underlay.wires == "physical" else "auto"
        return own.uplink or self.agents.hooks.uplink or default

    def server_for(self, host: str) -> str:
        """Return the NATS server's address that a host reaches: one of a family of its own."""
        versions = [ip_address(droplet.address).version for droplet in self.droplets_of(host)]
        return next(
            server for version in versions for server in self.underlay.servers if ip_address(server).version == version
        )


def gateway_of(cidr: str) -> str:
    """Return the address that a network's gateway has: the first host address."""
    network = ip_network(cidr)
    return str(network[1 if network.num_addresses > 1 else 0])


def capacity_of(cidr: str) -> int:
    """Return how many endpoints can have an address of a network: its host addresses without the gateway's."""
    network = ip_network(cidr)
    bits = network.max_prefixlen - network.prefixlen
    edges = 0 if bits <= 1 else 2 if network.version == 4 else 1
    return int(network.num_addresses) - edges - 1


def address_in(address: str, cidr: str) -> bool:
    """Say whether an address lies in a CIDR; never when it is of the other family."""
    return ip_address(address) in ip_network(cidr)


def cidr_of(address: str, cidrs: Iterable[str]) -> str | None:
    """Return the CIDR in which an address lies, None when it lies in none of them."""
    return next((cidr for cidr in cidrs if address_in(address, cidr)), None)


def free_server_address(cidr: str, taken: set[str]) -> str:
    """Return the first free host address of a CIDR, or raise ValueError if there is none."""
    for host in ip_network(cidr).hosts():
        if str(host) not in taken:
            return str(host)
    raise ValueError(f"{cidr} has no free address for the NATS server: set underlay.server")
