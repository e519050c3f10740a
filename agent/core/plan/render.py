"""Renders documents in force into desired entries: map entries and veths. One pass per document, no I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2s

from msgspec.structs import replace

from agent.core.model.features import family_of
from agent.core.model.map_layout import (
    DROPLET,
    DROPLET_ZERO_CHECKSUM,
    ENDPOINT,
    ENDPOINT_PINNED,
    ENDPOINT_VXLAN,
    INTERFACE,
    INTERFACE_PINNED,
    LOCAL_DROPLET,
    NETWORK_LOCAL_BOUNCER,
    NETWORK_PINNED,
    U32,
    V4_MAPPED,
    VPC_LOCAL_DIVIDER,
    MapName,
    broadcast_of,
    mapped,
    network_key,
    network_value,
    vpc_value,
)
from agent.core.model.networks import gateways
from agent.core.model.overhead import endpoint_mtu, min_mtu
from agent.core.model.process_bindings import is_of_process
from agent.core.model.resolved_state import ResolvedState
from agent.core.model.uplinks import Uplink
from agent.core.plan.actions import Veth
from protocol.addresses import format_address, parse_address, parse_cidr, parse_mac
from protocol.documents import Document, Droplet, Endpoint, Network, Vpc

IFINDEX_BASE = 0x40000000
"""Interfaces of endpoints are numbered from here, by slot: far above the numbers that the kernel assigns. The same in
`bpf/constants.h`: the programs derive an endpoint's slot from the ifindex."""
PIECE = 1000
"""Endpoints of one document that are rendered in one go while other work waits: a few milliseconds."""

Entries = dict[MapName, dict[bytes, bytes]]


@dataclass(slots=True)
class DesiredEntries:
    """The map entries and veths that documents ask for. Keys and values are packed by `map_layout`."""

    entries: Entries = field(default_factory=dict)
    veths: dict[str, Veth] = field(default_factory=dict)
    transit: frozenset[int] = frozenset()
    """The interfaces that transit XDP belongs on, by ifindex."""

    def add(self, other: DesiredEntries) -> None:
        """Add the entries of other documents."""
        if other is self:
            return
        for name, entries in other.entries.items():
            self.map(name).update(entries)
        self.veths.update(other.veths)
        self.transit |= other.transit

    def map(self, name: MapName) -> dict[bytes, bytes]:
        """Return one map's entries, to be filled."""
        return self.entries.setdefault(name, {})


def host_ifname(instance: str, endpoint: str) -> str:
    """Return the name of the host side of an endpoint's veth: 14 characters, the same after every restart."""
    return "dp" + blake2s(f"{instance}/{endpoint}".encode(), digest_size=6).hexdigest()


def host_number(host: str) -> int:
    """Return the number by which the programs see that droplets belong to one host. Collisions are rare."""
    return int.from_bytes(blake2s(host.encode(), digest_size=4).digest())


def render(document: Document, resolved: ResolvedState, into: DesiredEntries, revision: int = 0) -> None:
    """Add the desired entries of one revision of a document. All its references must resolve in `resolved`."""
    for droplet in document.droplets:
        _render_droplet(droplet, resolved, into)
    for vpc in document.vpcs:
        _render_vpc(vpc, resolved, into)
    for network in document.networks:
        _render_network(network, resolved, into)
    if document.endpoints:
        _render_endpoints(document.endpoints, resolved, into, revision)


def pieces(document: Document) -> Iterator[Document]:
    """Yield a document in parts of at most `PIECE` endpoints that together render to the same entries."""
    first, rest = document.endpoints[:PIECE], document.endpoints[PIECE:]
    yield replace(document, endpoints=first) if rest else document
    for start in range(0, len(rest), PIECE):
        yield Document(endpoints=rest[start : start + PIECE])


def _render_droplet(droplet: Droplet, resolved: ResolvedState, into: DesiredEntries) -> None:
    if resolved.is_here(droplet.id):
        _render_own(droplet, resolved, into)
        return
    value = DROPLET.pack(_droplet_flags(droplet), host_number(droplet.host))
    into.map(MapName.DROPLETS)[mapped(parse_address(droplet.address))] = value


def _droplet_flags(droplet: Droplet) -> int:
    return DROPLET_ZERO_CHECKSUM if droplet.udp_checksum == "zero" else 0


def _render_own(droplet: Droplet, resolved: ResolvedState, into: DesiredEntries) -> None:
    """Add one entry for each interface on which the droplet's frames arrive."""
    uplink = _uplink(droplet, resolved)
    vlan = int.from_bytes(uplink.vlan.to_bytes(2, "big"), sys.byteorder)
    for arrival in resolved.ingress_addresses(droplet):
        into.map(MapName.LOCAL_DROPLETS)[U32.pack(resolved.local_indexes[arrival])] = LOCAL_DROPLET.pack(
            arrival.address, uplink.ifindex, arrival.ifindex, uplink.egress, uplink.mac, vlan, _droplet_flags(droplet)
        )
    into.transit |= {uplink.carrier}


def _uplink(droplet: Droplet, resolved: ResolvedState) -> Uplink:
    uplink = resolved.uplink_of(droplet)
    assert uplink is not None, "validated before"
    return uplink


def _members(ids: tuple[str, ...], resolved: ResolvedState) -> tuple[bytes, ...]:
    return tuple(mapped(parse_address(resolved.droplets[id_].address)) for id_ in resolved.serving(ids))


def _render_vpc(vpc: Vpc, resolved: ResolvedState, into: DesiredEntries) -> None:
    flags = VPC_LOCAL_DIVIDER if any(resolved.is_here(id_) for id_ in vpc.dividers) else 0
    into.map(MapName.VPCS)[U32.pack(vpc.vni)] = vpc_value(flags, _members(vpc.dividers, resolved))


def _render_network(network: Network, resolved: ResolvedState, into: DesiredEntries) -> None:
    vni = resolved.vpcs[network.vpc].vni
    flags = NETWORK_LOCAL_BOUNCER if any(resolved.is_here(id_) for id_ in network.bouncers) else 0
    flags |= NETWORK_PINNED if network.routing == "divider" else 0
    bouncers = _members(network.bouncers, resolved)
    for text, gateway in zip(network.cidrs, gateways(network), strict=True):
        cidr = parse_cidr(text)
        key = network_key(vni, cidr.address, cidr.prefix)
        into.map(MapName.NETWORKS)[key] = network_value(
            mapped(gateway), flags, bouncers, broadcast_of(cidr.address, cidr.prefix)
        )


def _render_endpoints(
    endpoints: tuple[Endpoint, ...], resolved: ResolvedState, into: DesiredEntries, revision: int
) -> None:
    """Pack the map entries of many endpoints, with one lookup per network and droplet."""
    networks = {id_: resolved.networks[id_] for id_ in {e.network for e in endpoints}}
    starts = {id_: U32.pack(resolved.vpcs[network.vpc].vni) for id_, network in networks.items()}
    starts_v4 = {id_: start + V4_MAPPED for id_, start in starts.items()}
    flags = {id_: _endpoint_flags(network) for id_, network in networks.items()}
    hosts = {id_: mapped(parse_address(resolved.droplets[id_].address)) for id_ in {e.droplet for e in endpoints}}
    here = {id_: _mtu(resolved.droplets[id_], resolved) for id_ in hosts if resolved.is_here(id_)}
    macs = bytes.fromhex("".join([e.mac for e in endpoints]).replace(":", ""))
    entries = into.map(MapName.ENDPOINTS)
    for index, endpoint in enumerate(endpoints):
        ifindex = mtu = 0
        if endpoint.droplet in here:
            ifindex = IFINDEX_BASE + resolved.slots[endpoint.id]
            mtu = max(here[endpoint.droplet], min_mtu(endpoint.addresses))  # smaller on a narrow uplink
            into.veths[endpoint.id] = _render_local(endpoint, ifindex, mtu, resolved, into, revision)
        mac = macs[6 * index : 6 * index + 6]
        value = ENDPOINT.pack(hosts[endpoint.droplet], ifindex, flags[endpoint.network], mtu, mac)
        for text in endpoint.addresses:
            packed = parse_address(text)
            start = starts_v4 if len(packed) == 4 else starts
            entries[start[endpoint.network] + packed] = value


def _endpoint_flags(network: Network) -> int:
    vxlan = ENDPOINT_VXLAN if network.encapsulation == "vxlan" else 0
    return vxlan | (ENDPOINT_PINNED if network.routing == "divider" else 0)


def _mtu(droplet: Droplet, resolved: ResolvedState) -> int:
    return endpoint_mtu(_uplink(droplet, resolved).mtu, family_of(parse_address(droplet.address)))


def _render_local(
    endpoint: Endpoint, ifindex: int, mtu: int, resolved: ResolvedState, into: DesiredEntries, revision: int
) -> Veth:
    assert endpoint.attachment is not None, "validated before"
    network = resolved.networks[endpoint.network]
    packed = [parse_address(text) for text in endpoint.addresses]
    into.map(MapName.INTERFACES)[U32.pack(ifindex - IFINDEX_BASE)] = INTERFACE.pack(
        resolved.vpcs[network.vpc].vni,
        resolved.local_indexes[resolved.ingress_addresses(resolved.droplets[endpoint.droplet])[0]],
        next((address for address in packed if len(address) == 16), bytes(16)),
        next((address for address in packed if len(address) == 4), bytes(4)),
        parse_mac(endpoint.mac),
        INTERFACE_PINNED if network.routing == "divider" else 0,
        mtu,
        endpoint.dscp << 2,
    )
    prefixes = {len(cidr.address): cidr.prefix for cidr in map(parse_cidr, network.cidrs)}
    families = {len(address) for address in packed}
    return Veth(
        endpoint=endpoint.id,
        ifname=host_ifname(resolved.host_state.instance, endpoint.id),
        ifindex=ifindex,
        namespace=endpoint.attachment.namespace,
        peer_name=endpoint.attachment.interface,
        peer_mac=parse_mac(endpoint.mac),
        mtu=mtu,
        addresses=tuple(f"{format_address(address)}/{prefixes[len(address)]}" for address in packed),
        gateways=tuple(format_address(gateway) for gateway in gateways(network) if len(gateway) in families),
        revision=revision if is_of_process(endpoint.attachment.namespace) else 0,
    )


def local_endpoints(document: Document, is_here: Callable[[str], bool]) -> list[str]:
    """Return the ids of a document's endpoints on this host."""
    here = {droplet for droplet in {e.droplet for e in document.endpoints} if is_here(droplet)}
    return [e.id for e in document.endpoints if e.droplet in here] if here else []
