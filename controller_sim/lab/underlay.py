"""The lab's wires: network namespaces, a bridge for each subnet, and a veth from it to each interface of a host.

Everything is in namespaces whose names begin with the lab's: `<lab>_fabric` holds the bridges `br0`, `br1` and so on
and, on its addresses, the NATS server; `<lab>_droplet_<host>` has `eth0` and so on, each on its subnet's bridge;
`<lab>_router` is there when there are several subnets, and forwards between them; `<lab>_endpoint_<name>` belongs to
a tenant and is empty until the agent puts an interface there. A lab's name has no underscore, so that no lab's names
begin another's. Nothing is made in the root namespace.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from controller_sim.lab.namespaces import NAMED, run_in
from controller_sim.topology.model import Droplet, Topology, Underlay, address_in, gateway_of

ROUTER_SETTINGS = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
SERVER_MTU = 1280
"""Bytes, of what goes to the server: what IPv6 must always carry."""
SEVERAL_INTERFACES = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
"""A host answers ARP only on the interface that has the address, as it does with several interfaces in one subnet."""
AS_A_NIC = ("gro", "on", "tx", "off", "tx-udp-segmentation", "off", "tx-sctp-segmentation", "off")
"""Offloads of both ends of a physical wire: only whole frames with finished checksums leave a NIC.

Native XDP on a veth sees what its peer sends. A GSO packet or CHECKSUM_PARTIAL would reach it unfinished, where a NIC's
XDP never meets either. Without `tx` the kernel does both before the frame leaves, also inside tunnels: segmentation of
TCP depends on it (netdev_fix_features in net/core/dev.c), of SCTP it does not, and of UDP only since Linux 6.11. The
bridge's ports need it like the hosts: GRO there merges segments again. GRO is on as on NICs.
"""


class UnderlayError(RuntimeError):
    """A command refused to build or take down the lab's wires; the text is the command and what it said."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a lab's namespaces."""

    lab: str

    @property
    def fabric(self) -> str:
        """The namespace of the bridges and the NATS server."""
        return f"{self.lab}_fabric"

    @property
    def router(self) -> str:
        """The namespace of the router between subnets."""
        return f"{self.lab}_router"

    def droplet(self, host: str) -> str:
        """Return the namespace of a host."""
        return f"{self.lab}_droplet_{host}"

    def endpoint(self, endpoint: str) -> str:
        """Return the namespace of a tenant's endpoint."""
        return f"{self.lab}_endpoint_{endpoint}"

    def of(self, topology: Topology) -> list[str]:
        """Return the names of all namespaces of a topology."""
        hosts = dict.fromkeys(droplet.host for droplet in topology.droplets.values())
        return [
            self.fabric,
            *([self.router] if len(topology.underlay.subnets) > 1 else []),
            *(self.droplet(host) for host in hosts),
            *(self.endpoint(endpoint) for endpoint in topology.attached),
        ]

    def existing(self) -> list[str]:
        """Return the namespaces that exist under names that a lab of this name would give, whoever created them."""
        names, starts = (self.fabric, self.router), (self.droplet(""), self.endpoint(""))
        return sorted(name for name in existing_namespaces() if name in names or name.startswith(starts))


def existing_namespaces() -> set[str]:
    """Return the names of all network namespaces."""
    return {entry.name for entry in NAMED.iterdir()} if NAMED.is_dir() else set()


def command(*argv: str, stdin: str | None = None) -> str:
    """Run a command and return its output, or raise UnderlayError with what it said."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnderlayError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def batch(namespace: str, *lines: str) -> None:
    """Run lines of ip(8) in a namespace, or raise UnderlayError."""
    command("ip", "-n", namespace, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def inside(namespace: str, *argv: str) -> None:
    """Run a command inside a namespace, or raise UnderlayError."""
    done = run_in(namespace, list(argv))
    if done.returncode != 0:
        raise UnderlayError(f"{namespace}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()}")


def build(names: Names, topology: Topology) -> None:
    """Make the fabric, the router and every host's namespace; UnderlayError when something is refused."""
    underlay = topology.underlay
    command("ip", "netns", "add", names.fabric)
    batch(names.fabric, "link set lo up")
    for index, subnet in enumerate(underlay.subnets):
        batch(
            names.fabric,
            f"link add name br{index} mtu {subnet.mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set br{index} up",
        )
    _add_server(names, underlay)
    if len(underlay.subnets) > 1:
        _add_router(names, underlay)
    ports = ports_of(topology)
    for host in dict.fromkeys(host for host, _ in ports):
        _add_host(names, underlay, topology.droplets_of(host), ports)


def ports_of(topology: Topology) -> dict[tuple[str, str], str]:
    """Return the fabric's end of every wire by host and interface."""
    interfaces = dict.fromkeys((droplet.host, droplet.interface) for droplet in topology.droplets.values())
    return {where: f"port{index}" for index, where in enumerate(interfaces)}


def _add_server(names: Names, underlay: Underlay) -> None:
    where = _subnet_of(underlay, underlay.server)
    addresses = (f"{server}/{underlay.prefix_of(server)}" for server in underlay.servers)
    batch(names.fabric, *_address_lines(addresses, f"br{where}"))
    if len(underlay.subnets) > 1:
        cidrs = underlay.subnets[where].cidrs
        batch(names.fabric, *(f"route add default via {gateway_of(cidr)} dev br{where} onlink" for cidr in cidrs))


def _add_router(names: Names, underlay: Underlay) -> None:
    command("ip", "netns", "add", names.router)
    batch(names.router, "link set lo up")
    inside(names.router, "sysctl", "-qw", *ROUTER_SETTINGS)
    for index, subnet in enumerate(underlay.subnets):
        _add_wire(names, underlay, f"router{index}", index, (names.router, f"eth{index}"))
        addresses = (f"{gateway_of(cidr)}/{ip_network(cidr).prefixlen}" for cidr in subnet.cidrs)
        lines = _address_lines(addresses, f"eth{index}")
        batch(names.router, f"link set eth{index} mtu {subnet.router_mtu}", *lines, f"link set eth{index} up")


def _add_host(names: Names, underlay: Underlay, droplets: list[Droplet], ports: Mapping[tuple[str, str], str]) -> None:
    host = droplets[0].host
    namespace = names.droplet(host)
    command("ip", "netns", "add", namespace)
    batch(namespace, "link set lo up")
    interfaces = dict.fromkeys(droplet.interface for droplet in droplets)
    if len(interfaces) > 1:
        inside(namespace, "sysctl", "-qw", *SEVERAL_INTERFACES)
    for interface in interfaces:
        own = [droplet for droplet in droplets if droplet.interface == interface]
        _add_interface(names, underlay, own, ports[host, interface])


def _add_interface(names: Names, underlay: Underlay, droplets: list[Droplet], port: str) -> None:
    """Make one interface with the addresses of its droplets, which all lie in one subnet."""
    first = droplets[0]
    namespace, interface = names.droplet(first.host), first.interface
    index = _subnet_of(underlay, first.address)
    _add_wire(names, underlay, port, index, (namespace, interface), first.queues)
    if first.link_mtu is not None:
        batch(names.fabric, f"link set {port} mtu {first.link_mtu}")
    addresses = (f"{one.address}/{underlay.prefix_of(one.address)}" for one in droplets)
    batch(namespace, *_address_lines(addresses, interface), f"link set {interface} up")
    if len(underlay.subnets) > 1:
        batch(namespace, *_default_routes(underlay, droplets, interface))
    if interface == "eth0":
        batch(namespace, *_server_routes(underlay, droplets))


def _default_routes(underlay: Underlay, droplets: Iterable[Droplet], interface: str) -> list[str]:
    """Return a default route by each interface: the first one's is used, the others by what is bound to them."""
    metric = 100 + int(interface[3:])
    cidrs = [cidr for one in droplets for cidr in underlay.cidrs if address_in(one.address, cidr)]
    return [f"route add default via {gateway_of(cidr)} dev {interface} metric {metric} onlink" for cidr in cidrs]


def _server_routes(underlay: Underlay, droplets: Iterable[Droplet]) -> list[str]:
    """Return routes to the server by the first interface with so small an MTU that no narrow wire stops the bus."""
    routes = []
    for one in droplets:
        own = next(cidr for cidr in underlay.cidrs if address_in(one.address, cidr))
        for server in underlay.servers:
            if ip_address(server).version == ip_address(one.address).version:
                via = "" if address_in(server, own) else f"via {gateway_of(own)} "
                routes.append(f"route add {server} {via}dev eth0 mtu {SERVER_MTU}")
    return routes


def _subnet_of(underlay: Underlay, address: str) -> int:
    return next(i for i, s in enumerate(underlay.subnets) if any(address_in(address, cidr) for cidr in s.cidrs))


def _address_lines(addresses: Iterable[str], device: str) -> list[str]:
    """Return the lines that give a device its addresses, usable at once, without duplicate address detection."""
    return [
        f"address add {text} dev {device}{' nodad' if ip_address(text.partition('/')[0]).version == 6 else ''}"
        for text in addresses
    ]


def _add_wire(names: Names, underlay: Underlay, port: str, index: int, end: tuple[str, str], queues: int = 1) -> None:
    """Make a veth from a subnet's bridge to an interface (namespace, name), with as many queues each way."""
    namespace, interface = end
    size = f"mtu {underlay.subnets[index].mtu} numtxqueues {queues} numrxqueues {queues}"
    batch(
        names.fabric,
        f"link add name {port} {size} type veth peer name {interface} {size} netns {namespace}",
        f"link set {port} master br{index} up",
    )
    if underlay.wires == "physical":
        inside(names.fabric, "ethtool", "-K", port, *AS_A_NIC)
        inside(namespace, "ethtool", "-K", interface, *AS_A_NIC)
    else:
        # What an endpoint's XDP program redirects to the interface comes out of the port, which needs NAPI for it.
        inside(names.fabric, "ethtool", "-K", port, "gro", "on")


def add_endpoint(names: Names, endpoint: str) -> None:
    """Make a tenant's namespace with loopback up; one that exists is kept."""
    namespace = names.endpoint(endpoint)
    if (NAMED / namespace).exists():
        return
    command("ip", "netns", "add", namespace)
    batch(namespace, "link set lo up")


def remove(namespace: str) -> None:
    """Remove a namespace with its interfaces; absence is no error."""
    if (NAMED / namespace).exists():
        command("ip", "netns", "delete", namespace)


def pids_in(namespace: str) -> list[int]:
    """Return the processes inside a namespace."""
    if not (NAMED / namespace).exists():
        return []
    return [int(pid) for pid in command("ip", "netns", "pids", namespace).split()]
