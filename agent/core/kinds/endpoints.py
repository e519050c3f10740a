"""Endpoints: tenants' interfaces. Nothing refers to them, so they stay in documents and out of the resolved state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import lru_cache

from agent.core.functions.chains import Chains
from agent.core.functions.endpoint_slots import function_slots, name_of, unclaimed_of, with_claimed
from agent.core.kinds.kind import NO_ERRORS, Assignment, Choice, Column, KernelNumbers, Key, Kind, key_of
from agent.core.kinds.networks import gateways
from agent.core.model.desired_entries import DesiredEntries, Veth
from agent.core.model.endpoint_slots import IFINDEX_BASE, NoSlotError, assign, host_ifname
from agent.core.model.features import family_of
from agent.core.model.map_layout import (
    ENDPOINT,
    ENDPOINT_LABELS,
    ENDPOINT_PINNED,
    ENDPOINT_STAGES,
    ENDPOINT_VXLAN,
    INTERFACE,
    INTERFACE_FUNCTION,
    INTERFACE_LABELS,
    INTERFACE_PINNED,
    INTERFACE_STAGES_FROM,
    INTERFACE_STAGES_TO,
    U32,
    V4_MAPPED,
    MapName,
    mapped,
)
from agent.core.model.offloads import NO_GSO, Sending
from agent.core.model.overhead import endpoint_mtu, label_bytes, min_mtu
from agent.core.model.process_bindings import is_of_process
from agent.core.model.resolved_state import ResolvedState
from agent.core.uplinks.narrow_uplinks import mtu_shortfall
from protocol.addresses import format_address, is_edge, last_of, parse_address, parse_cidr, parse_mac
from protocol.documents import Droplet, Endpoint, Network
from protocol.errors import ErrorCode, FieldError


def _addresses_in_networks(endpoints: Sequence[Endpoint]) -> list[str]:
    """Return all addresses as keys. Networks of a VPC do not overlap, so what is unique in one is so in the VPC."""
    return [f"{e.network} {address}" for e in endpoints for address in e.addresses]


def _attached(endpoint: Endpoint) -> str:
    attached = endpoint.attachment
    if attached is None:
        return "-"
    return "function" if attached.is_function else f"{attached.namespace}:{attached.interface}"


def _is_function(endpoint: Endpoint) -> bool:
    return endpoint.attachment is not None and endpoint.attachment.is_function


class Endpoints(Kind[Endpoint]):
    """An endpoint has one entry of `endpoints` for each address. One of this host also has a slot and an interface.

    A function endpoint has a slot and no interface.
    """

    name = "endpoints"
    singular = "endpoint"
    referable = False
    keys = (
        key_of("endpoint", "id"),
        Key("address", "addresses", _addresses_in_networks),
    )
    has_veths = True
    maps_of_veths = (MapName.INTERFACES, MapName.ENDPOINTS)
    columns = (
        Column[Endpoint]("ENDPOINT", lambda one: one.id),
        Column[Endpoint]("NETWORK", lambda one: one.network),
        Column[Endpoint]("DROPLET", lambda one: one.droplet),
        Column[Endpoint]("ADDRESSES", lambda one: " ".join(one.addresses)),
        Column[Endpoint]("MAC", lambda one: one.mac, spare=True),
        Column[Endpoint]("ATTACHED", _attached),
        Column[Endpoint]("DSCP", lambda one: str(one.dscp), usual="0"),
        Column[Endpoint]("LABEL", lambda one: str(one.label), usual="0"),
    )

    def references(self, objects: Sequence[Endpoint]) -> Mapping[str, Set[str]]:
        """Return the droplets and the networks."""
        return {"droplets": {e.droplet for e in objects}, "networks": {e.network for e in objects}}

    def not_permitted(
        self, objects: Sequence[Endpoint], document: str, resolved: ResolvedState
    ) -> Iterator[FieldError]:
        """Yield function endpoints where no functions run."""
        del document
        if resolved.host_state.features.functions:
            return
        for index, endpoint in enumerate(objects):
            if _is_function(endpoint):
                message = (
                    f"endpoint {endpoint.id!r} is a function endpoint, and this host runs no functions: add a form of "
                    "programs to functions.accept, and start the agent again"
                )
                yield FieldError(f"endpoints[{index}].attachment.kind", ErrorCode.DISABLED, message)

    def validate(
        self, objects: Sequence[Endpoint], resolved: ResolvedState, *, was_in_force: bool
    ) -> Iterator[FieldError]:
        """Yield addresses outside of the network, and endpoints of this host without attachment or enough MTU."""
        places = {name: _places(resolved.networks[name]) for name in {e.network for e in objects}}
        own = resolved.own
        for index, endpoint in enumerate(objects):
            bounds, reserved = places[endpoint.network]
            for position, text in enumerate(endpoint.addresses):
                address = parse_address(text)
                low, high = bounds.get(len(address), _NOWHERE)
                if not low <= address <= high or address in reserved:
                    path = f"endpoints[{index}].addresses[{position}]"
                    yield _misplaced(path, text, resolved.networks[endpoint.network])
            if endpoint.droplet not in own:
                continue
            if endpoint.attachment is None:
                message = (
                    f"endpoint {endpoint.id!r} is on this host: set where its interface appears, "
                    "or that it is a function endpoint"
                )
                yield FieldError(f"endpoints[{index}].attachment", ErrorCode.MISSING_FIELD, message)
            if not was_in_force and (wrong := mtu_shortfall(endpoint, resolved)) is not None:
                yield FieldError(f"endpoints[{index}].droplet", ErrorCode.OUT_OF_RANGE, wrong)

    def numbers_in(self, kernel: KernelNumbers) -> Mapping[str, int]:
        """Return the slots of the endpoints whose interfaces exist, and of function endpoints by their addresses."""
        found = {id_: ifindex - IFINDEX_BASE for id_, ifindex in kernel.ifindexes.items() if ifindex >= IFINDEX_BASE}
        return found | function_slots(kernel.maps.get(MapName.INTERFACES, {}), set(found.values()))

    def assign(
        self, choices: Iterable[Choice[Endpoint]], old: ResolvedState, resolved: ResolvedState, *, removing: bool
    ) -> Assignment:
        """Assign a slot to every endpoint of this host."""
        gone: list[str] = []
        come: dict[str, str] = {}
        unclaimed = unclaimed_of(old.departed)
        known: dict[str, str] = {}
        for choice in choices:
            gone += _ids_here(choice.before, old.is_here)
            for endpoint in _ids_here(choice.now, resolved.is_here):
                come[endpoint] = choice.document
            if unclaimed:
                known |= _names_by_addresses(choice.now, resolved)
        claimed = {name: id_ for name, id_ in known.items() if name in unclaimed and id_ in come}
        left = old.departed.union(gone).difference(come, claimed)
        try:
            slots = assign(with_claimed(old.slots, claimed), left if removing else (), come)
        except NoSlotError as error:
            names = {name for id_, name in come.items() if id_ not in old.slots}
            full = FieldError("endpoints", ErrorCode.TOO_LARGE, str(error))
            return Assignment(resolved, dict.fromkeys(names, full))
        departed = frozenset() if removing else left
        if slots is resolved.slots and departed == resolved.departed:
            return Assignment(resolved, NO_ERRORS)
        return Assignment(replace(resolved.with_numbers(self.name, slots), departed=departed), NO_ERRORS)

    def render(self, objects: Sequence[Endpoint], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Pack the map entries of many endpoints, with one lookup per network and droplet."""
        starts: dict[str, bytes] = {}
        starts_v4: dict[str, bytes] = {}
        flags: dict[str, int] = {}
        hosts: dict[str, bytes] = {}
        local_mtus: dict[str, int] = {}
        networks, vpcs, droplets = resolved.networks, resolved.vpcs, resolved.droplets
        for id_ in {e.network for e in objects}:
            network = networks[id_]
            starts[id_] = vni = U32.pack(vpcs[network.vpc].vni)
            starts_v4[id_] = vni + V4_MAPPED
            flags[id_] = _flags(network)
        for id_ in {e.droplet for e in objects}:
            droplet = droplets[id_]
            hosts[id_] = mapped(parse_address(droplet.address))
            if resolved.is_here(id_):
                local_mtus[id_] = _mtu(droplet, resolved)
        sending = resolved.sending() if local_mtus else NO_GSO
        chains = Chains(resolved)
        macs = bytes.fromhex("".join([e.mac for e in objects]).replace(":", ""))
        entries = into.map(MapName.ENDPOINTS)
        for index, endpoint in enumerate(objects):
            ifindex = mtu = 0
            if endpoint.droplet in local_mtus:
                ifindex = IFINDEX_BASE + resolved.slots[endpoint.id]
                mtu = local_mtus[endpoint.droplet] - label_bytes(endpoint.label)
                mtu = max(mtu, min_mtu(endpoint.addresses))  # smaller on a narrow uplink
                if not _is_function(endpoint):
                    into.veths[endpoint.id] = _veth(endpoint, ifindex, mtu, sending, resolved, revision)
                _render_interface(endpoint, resolved.slots[endpoint.id], mtu, resolved, chains, into)
            mac = macs[6 * index : 6 * index + 6]
            value = ENDPOINT.pack(hosts[endpoint.droplet], ifindex, flags[endpoint.network], mtu, mac)
            for text in endpoint.addresses:
                packed = parse_address(text)
                start = starts_v4 if len(packed) == 4 else starts
                entries[start[endpoint.network] + packed] = value


_NOWHERE = (b"\x01", b"\x00")
"""Bounds that contain no address."""


@lru_cache(maxsize=4096)
def _places(network: Network) -> tuple[dict[int, tuple[bytes, bytes]], set[bytes]]:
    """Return the first and last packed address by family (4 or 16), and the addresses that no endpoint may have."""
    bounds = {}
    reserved = set(gateways(network))
    for cidr in (parse_cidr(text) for text in network.cidrs):
        last = last_of(cidr)
        bounds[len(cidr.address)] = cidr.address, last
        reserved |= {address for address in (cidr.address, last) if is_edge(cidr, address)}
    return bounds, reserved


def _misplaced(path: str, text: str, network: Network) -> FieldError:
    message = f"{text} is not an endpoint's address in network {network.id!r} ({', '.join(network.cidrs)})"
    return FieldError(path, ErrorCode.OUT_OF_RANGE, message)


def _ids_here(endpoints: Sequence[Endpoint], is_here: Callable[[str], bool]) -> list[str]:
    """Return the ids of the endpoints on this host."""
    local = {droplet for droplet in {e.droplet for e in endpoints} if is_here(droplet)}
    return [e.id for e in endpoints if e.droplet in local] if local else []


def _names_by_addresses(endpoints: Sequence[Endpoint], resolved: ResolvedState) -> dict[str, str]:
    """Return the ids of function endpoints by the names that they have before documents are known."""
    found = {}
    for one in endpoints:
        if _is_function(one) and one.network in resolved.networks:
            vpc = resolved.vpcs.get(resolved.networks[one.network].vpc)
            if vpc is not None:
                found[name_of(vpc.vni, [parse_address(text) for text in one.addresses])] = one.id
    return found


def _flags(network: Network) -> int:
    flags = ENDPOINT_VXLAN if network.encapsulation == "vxlan" else 0
    flags |= ENDPOINT_LABELS if network.labels else 0
    return flags | (ENDPOINT_PINNED if network.routing == "divider" else 0)


def _mtu(droplet: Droplet, resolved: ResolvedState) -> int:
    uplink = resolved.uplink_of(droplet)
    assert uplink is not None, "validated before"
    return endpoint_mtu(uplink.mtu, family_of(parse_address(droplet.address)))


def _render_interface(
    endpoint: Endpoint, slot: int, mtu: int, resolved: ResolvedState, chains: Chains, into: DesiredEntries
) -> None:
    """Add the entry of `interfaces`, and that of the endpoint's chains of functions if it has any."""
    network, key = resolved.networks[endpoint.network], U32.pack(slot)
    packed = [parse_address(text) for text in endpoint.addresses]
    sent, received = chains.of_endpoint(endpoint, network)
    flags = INTERFACE_PINNED if network.routing == "divider" else 0
    flags |= INTERFACE_FUNCTION if _is_function(endpoint) else 0
    flags |= INTERFACE_LABELS if network.labels else 0
    flags |= (INTERFACE_STAGES_FROM if sent else 0) | (INTERFACE_STAGES_TO if received else 0)
    into.map(MapName.INTERFACES)[key] = INTERFACE.pack(
        resolved.vpcs[network.vpc].vni,
        resolved.local_indexes[resolved.ingress_addresses(resolved.droplets[endpoint.droplet])[0]],
        next((address for address in packed if len(address) == 16), bytes(16)),
        next((address for address in packed if len(address) == 4), bytes(4)),
        parse_mac(endpoint.mac),
        flags,
        mtu,
        endpoint.dscp << 2,
        endpoint.label,
    )
    if sent or received:
        into.map(MapName.ENDPOINT_STAGES)[key] = ENDPOINT_STAGES.pack(sent, received)


def _veth(endpoint: Endpoint, ifindex: int, mtu: int, sending: Sending, resolved: ResolvedState, revision: int) -> Veth:
    assert endpoint.attachment is not None, "validated before"
    network = resolved.networks[endpoint.network]
    packed = [parse_address(text) for text in endpoint.addresses]
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
        sending=sending,
    )


ENDPOINTS = Endpoints()
