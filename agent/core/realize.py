"""Turns documents in force into what the kernel should hold: map entries and veths. One pass per document, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2s

from agent.core.actions import Veth
from agent.core.judge import gateways
from agent.core.layout import (
    DROPLET,
    ENDPOINT,
    GENEVE_PORT,
    INTERFACE,
    LOCAL_DROPLET,
    NETWORK_BOUNCED_HERE,
    U32,
    V4_MAPPED,
    VPC_DIVIDED_HERE,
    MapName,
    mapped,
    network_key,
    network_value,
    vpc_value,
)
from agent.core.world import World
from protocol.addresses import format_address, parse_address, parse_cidr, parse_mac
from protocol.documents import Document, Droplet, Endpoint, Network, Vpc

IFINDEX_BASE = 0x40000000
"""Interfaces of endpoints are numbered from here, by slot: far above what the kernel gives out by itself. The same in
`bpf/constants.h`, whose programs find an endpoint by the slot that the number of its interface holds."""

ENCAPSULATION = 50
"""Bytes of Ethernet, IPv4, UDP and Geneve around an inner frame, less the outer Ethernet header that the MTU leaves out
and plus the inner one that it counts: 14 + 20 + 8 + 8."""
RETURN_TO_SENDER = 12
"""Bytes of the return-to-sender option over IPv4, which the first packets of a conversation carry."""

Entries = dict[MapName, dict[bytes, bytes]]


@dataclass(slots=True)
class Realization:
    """What the kernel should hold for some documents. Keys and values as `layout` packs them."""

    entries: Entries = field(default_factory=dict)
    veths: dict[str, Veth] = field(default_factory=dict)
    transit: int | None = None
    """The ifindex that transit XDP belongs on, None where these documents do not say."""

    def add(self, other: Realization) -> None:
        """Take in what another realization asks for."""
        if other is self:
            return
        for name, entries in other.entries.items():
            self.map(name).update(entries)
        self.veths.update(other.veths)
        self.transit = other.transit if other.transit is not None else self.transit

    def map(self, name: MapName) -> dict[bytes, bytes]:
        """Return one map's entries, to be filled."""
        return self.entries.setdefault(name, {})


def endpoint_mtu(substrate: int) -> int:
    """Return the MTU that an endpoint gets from its substrate's: room for Geneve and the return-to-sender option."""
    return substrate - ENCAPSULATION - RETURN_TO_SENDER


def host_ifname(instance: str, endpoint: str) -> str:
    """Return the name of the host side of an endpoint's veth: 14 characters, the same after every restart."""
    return "dp" + blake2s(f"{instance}/{endpoint}".encode(), digest_size=6).hexdigest()


def realize(document: Document, world: World, into: Realization) -> None:
    """Add what one document asks for. Every reference of it must resolve in `world`."""
    for droplet in document.droplets:
        _realize_droplet(droplet, world, into)
    for vpc in document.vpcs:
        _realize_vpc(vpc, world, into)
    for network in document.networks:
        _realize_network(network, world, into)
    if document.endpoints:
        _realize_endpoints(document.endpoints, world, into)


def _realize_droplet(droplet: Droplet, world: World, into: Realization) -> None:
    address = mapped(parse_address(droplet.address))
    if droplet.host != world.here.host:
        into.map(MapName.DROPLETS)[address] = DROPLET.pack(0)
        return
    here = world.here
    value = LOCAL_DROPLET.pack(address, here.ifindex, here.mac, GENEVE_PORT.to_bytes(2, "big"))
    into.map(MapName.LOCAL_DROPLET)[U32.pack(0)] = value
    into.transit = here.ifindex


def _members(ids: tuple[str, ...], world: World) -> tuple[bytes, ...]:
    return tuple(mapped(parse_address(world.droplets[id_].address)) for id_ in ids)


def _realize_vpc(vpc: Vpc, world: World, into: Realization) -> None:
    flags = VPC_DIVIDED_HERE if any(world.is_here(id_) for id_ in vpc.dividers) else 0
    into.map(MapName.VPCS)[U32.pack(vpc.vni)] = vpc_value(flags, _members(vpc.dividers, world))


def _realize_network(network: Network, world: World, into: Realization) -> None:
    vni = world.vpcs[network.vpc].vni
    flags = NETWORK_BOUNCED_HERE if any(world.is_here(id_) for id_ in network.bouncers) else 0
    bouncers = _members(network.bouncers, world)
    for text, gateway in zip(network.cidrs, gateways(network), strict=True):
        cidr = parse_cidr(text)
        key = network_key(vni, cidr.address, cidr.prefix)
        into.map(MapName.NETWORKS)[key] = network_value(mapped(gateway), flags, bouncers)


def _realize_endpoints(endpoints: tuple[Endpoint, ...], world: World, into: Realization) -> None:
    """Pack the map entries of many endpoints: what it looks up, it looks up once per network and droplet."""
    vnis = {id_: world.vpcs[world.networks[id_].vpc].vni for id_ in {e.network for e in endpoints}}
    starts = {id_: (U32.pack(vni) + V4_MAPPED, U32.pack(vni)) for id_, vni in vnis.items()}
    hosts = {id_: mapped(parse_address(world.droplets[id_].address)) for id_ in {e.droplet for e in endpoints}}
    here = {id_ for id_ in hosts if world.is_here(id_)}
    macs = bytes.fromhex("".join([e.mac for e in endpoints]).replace(":", ""))
    entries = into.map(MapName.ENDPOINTS)
    for index, endpoint in enumerate(endpoints):
        ifindex = slot = 0
        if endpoint.droplet in here:
            slot = world.slots[endpoint.id]
            ifindex = IFINDEX_BASE + slot
            _realize_local(endpoint, vnis[endpoint.network], slot, world, into)
        value = ENDPOINT.pack(hosts[endpoint.droplet], ifindex, slot, macs[6 * index : 6 * index + 6])
        start_v4, start_v6 = starts[endpoint.network]
        for text in endpoint.addresses:
            packed = parse_address(text)
            entries[(start_v4 if len(packed) == 4 else start_v6) + packed] = value


def _realize_local(endpoint: Endpoint, vni: int, slot: int, world: World, into: Realization) -> None:
    assert endpoint.attachment is not None, "judged before"
    network = world.networks[endpoint.network]
    mac = parse_mac(endpoint.mac)
    packed = [parse_address(text) for text in endpoint.addresses]
    source = mapped(next((address for address in packed if len(address) == 4), packed[0]))
    into.map(MapName.INTERFACES)[U32.pack(slot)] = INTERFACE.pack(vni, source, mac)
    prefixes = {len(cidr.address): cidr.prefix for cidr in map(parse_cidr, network.cidrs)}
    families = {len(address) for address in packed}
    into.veths[endpoint.id] = Veth(
        endpoint=endpoint.id,
        ifname=host_ifname(world.here.instance, endpoint.id),
        ifindex=IFINDEX_BASE + slot,
        namespace=endpoint.attachment.namespace,
        peer_name=endpoint.attachment.interface,
        peer_mac=mac,
        mtu=endpoint_mtu(world.here.mtu),
        addresses=tuple(f"{format_address(address)}/{prefixes[len(address)]}" for address in packed),
        gateways=tuple(format_address(gateway) for gateway in gateways(network) if len(gateway) in families),
    )


def local_endpoints(document: Document, is_here: Callable[[str], bool]) -> list[str]:
    """Return the ids of a document's endpoints that live on this host."""
    here = {droplet for droplet in {e.droplet for e in document.endpoints} if is_here(droplet)}
    return [e.id for e in document.endpoints if e.droplet in here] if here else []
