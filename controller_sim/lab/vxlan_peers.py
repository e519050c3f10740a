"""Hosts that speak only VXLAN: a bridge and the kernel's own VXLAN device for each VPC, set up as such hosts are.

Such a host knows one droplet that bounces the network: what its bridge has not learnt goes there (the default entry of
the device's forwarding table). Owns what is inside the peers' namespaces; there is no agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from controller_sim.lab.underlay import Names, batch, command
from controller_sim.topology.ipam import Assignment
from controller_sim.topology.model import VXLAN_PORT, Droplet, Topology, address_in, gateway_of
from controller_sim.topology.overhead import OVERHEAD, RETURN_TO_SENDER
from controller_sim.topology.placement import place

DEFAULT_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Guest:
    """An endpoint on a peer: its addresses with prefix lengths, its gateways, its MTU in bytes, that of its wires."""

    name: str
    mac: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    mtu: int
    wires: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A peer's VXLAN device for one VPC, and the droplet's address to which all goes that it has not learnt."""

    host: str
    vni: int
    local: str
    default: str
    port: int
    guests: tuple[Guest, ...]


def plan(topology: Topology, assignments: Mapping[str, Assignment]) -> list[Tunnel]:
    """Return every tunnel of every peer."""
    return [tunnel for droplet in topology.peers for tunnel in _tunnels(topology, assignments, droplet)]


def _tunnels(topology: Topology, assignments: Mapping[str, Assignment], droplet: Droplet) -> Iterator[Tunnel]:
    bouncers = place(topology).bouncers
    here = [endpoint for endpoint in topology.endpoints.values() if endpoint.droplet == droplet.name]
    port = dict(topology.agents.data_plane).get("vxlan_port", VXLAN_PORT)
    for vpc in topology.vpcs.values():
        own = [endpoint for endpoint in here if topology.vpc_of(endpoint.name) == vpc]
        if not own:
            continue
        default = topology.droplets[bouncers[own[0].network][0]].address
        guests = tuple(_guest(topology, assignments[endpoint.name], droplet, endpoint.name) for endpoint in own)
        yield Tunnel(droplet.host, vpc.vni, droplet.address, default, int(str(port)), guests)


def _guest(topology: Topology, assigned: Assignment, droplet: Droplet, name: str) -> Guest:
    cidrs = topology.networks[topology.endpoints[name].network].cidrs
    prefixes = [next(ip_network(c).prefixlen for c in cidrs if address_in(a, c)) for a in assigned.addresses]
    mtu = next(subnet.mtu for subnet in topology.underlay.subnets if subnet.name == droplet.subnet)
    version = ip_address(droplet.address).version
    wires = mtu - OVERHEAD[version]
    # A network has one MTU, which our endpoints have: the peer is set up for it.
    return Guest(
        name=name,
        mac=assigned.mac,
        addresses=tuple(f"{a}/{prefix}" for a, prefix in zip(assigned.addresses, prefixes, strict=True)),
        gateways=tuple(gateway_of(cidr) for cidr in cidrs),
        mtu=wires - RETURN_TO_SENDER[version],
        wires=wires,
    )


def build(names: Names, topology: Topology, assignments: Mapping[str, Assignment]) -> None:
    """Make the devices of all peers; their namespaces and those of their endpoints are there. Raises UnderlayError."""
    for tunnel in plan(topology, assignments):
        _build_tunnel(names, tunnel)


def _build_tunnel(names: Names, tunnel: Tunnel) -> None:
    namespace, device, bridge = names.droplet(tunnel.host), f"vxlan{tunnel.vni}", f"br{tunnel.vni}"
    mtu = max(guest.wires for guest in tunnel.guests)
    batch(
        namespace,
        f"link add name {bridge} mtu {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link add name {device} mtu {mtu} type vxlan id {tunnel.vni} local {tunnel.local} dstport {tunnel.port}",
        f"link set {device} master {bridge} up",
        f"link set {bridge} addrgenmode none up",
    )
    command("bridge", "-n", namespace, "fdb", "append", DEFAULT_MAC, "dev", device, "dst", tunnel.default)
    for index, guest in enumerate(tunnel.guests):
        _add_guest(names, namespace, bridge, f"v{tunnel.vni}-{index}", guest)


def _add_guest(names: Names, namespace: str, bridge: str, port: str, guest: Guest) -> None:
    own = names.endpoint(guest.name)
    batch(
        namespace,
        f"link add name {port} mtu {guest.wires} type veth peer name eth0 mtu {guest.mtu} netns {own}",
        f"link set {port} master {bridge} up",
    )
    versions = {address: ip_address(address.partition("/")[0]).version for address in guest.addresses}
    batch(
        own,
        f"link set eth0 address {guest.mac}",
        *(f"address add {a} dev eth0{' nodad' if version == 6 else ''}" for a, version in versions.items()),
        "link set eth0 up",
        *(f"route add default via {gateway} dev eth0" for gateway in guest.gateways),
    )
