"""Networks: subnets of VPCs, with their gateways and bouncers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set

from agent.core.kinds.families import cidr_errors
from agent.core.kinds.kind import Column, Kind, key_of
from agent.core.kinds.members import addresses_of, is_one_here
from agent.core.kinds.senders import senders
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.map_layout import (
    NETWORK_LABELS,
    NETWORK_LOCAL_BOUNCER,
    NETWORK_PINNED,
    MapName,
    broadcast_of,
    mapped,
    network_key,
    network_value,
)
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference
from protocol.addresses import Cidr, first_host, parse_address, parse_cidr, within
from protocol.documents import Network
from protocol.errors import ErrorCode, FieldError


def gateways(network: Network) -> tuple[bytes, ...]:
    """Return the packed gateway of each CIDR of a network, in their order."""
    if network.gateways:
        return tuple(parse_address(text) for text in network.gateways)
    return tuple(first_host(parse_cidr(text)) for text in network.cidrs)


class Networks(Kind[Network]):
    """A network has one entry of `networks` for each CIDR. Networks of one VPC do not overlap."""

    name = "networks"
    singular = "network"
    keys = (key_of("network", "id"),)
    seniority = True
    maps = (MapName.NETWORKS,)
    columns = (
        Column[Network]("NETWORK", lambda one: one.id),
        Column[Network]("VPC", lambda one: one.vpc),
        Column[Network]("CIDRS", lambda one: " ".join(one.cidrs)),
        Column[Network]("BOUNCERS", lambda one: " ".join(one.bouncers) or "-"),
        Column[Network]("ENCAPSULATION", lambda one: one.encapsulation, usual="geneve"),
        Column[Network]("ROUTING", lambda one: one.routing, usual="direct"),
        Column[Network]("LABELS", lambda one: "asked" if one.labels else "-", usual="-"),
    )

    def references(self, objects: Sequence[Network]) -> Mapping[str, Set[str]]:
        """Return the VPCs and the bouncers."""
        return {
            "droplets": {id_ for network in objects for id_ in network.bouncers},
            "vpcs": {network.vpc for network in objects},
        }

    def dependents(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield the VPCs that the networks are in, or were, as other networks there may overlap, and `senders`."""
        found = {state.networks[id_].vpc for state in states for id_ in ids if id_ in state.networks}
        yield from (Reference("vpcs", id_) for id_ in found)
        yield from senders(states)

    def served_by(self, droplets: Collection[str], resolved: ResolvedState) -> Iterator[str]:
        """Yield the networks that these droplets are bouncers of."""
        return (one.id for one in resolved.networks.values() if not set(one.bouncers).isdisjoint(droplets))

    def validate(
        self, objects: Sequence[Network], resolved: ResolvedState, *, was_in_force: bool
    ) -> Iterator[FieldError]:
        """Yield what is off on this host, and CIDRs outside of the VPC or in those of an older network."""
        del was_in_force
        features = resolved.host_state.features
        for index, network in enumerate(objects):
            yield from cidr_errors(f"networks[{index}]", network.cidrs, features)
        for index, network in enumerate(objects):
            if network.encapsulation == "vxlan" and not features.vxlan_port:
                message = (
                    "VXLAN is off on this host: set data_plane.vxlan_port, 4789 by custom, and start the agent again"
                )
                yield FieldError(f"networks[{index}].encapsulation", ErrorCode.DISABLED, message)
        for index, network in enumerate(objects):
            yield from _place_errors(index, network, resolved)

    def render(self, objects: Sequence[Network], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Add one entry for each CIDR."""
        del revision
        entries = into.map(MapName.NETWORKS)
        for network in objects:
            vni = resolved.vpcs[network.vpc].vni
            flags = NETWORK_LOCAL_BOUNCER if is_one_here(network.bouncers, resolved) else 0
            flags |= NETWORK_PINNED if network.routing == "divider" else 0
            flags |= NETWORK_LABELS if network.labels else 0
            bouncers = addresses_of(network.bouncers, resolved)
            for text, gateway in zip(network.cidrs, gateways(network), strict=True):
                cidr = parse_cidr(text)
                entries[network_key(vni, cidr.address, cidr.prefix)] = network_value(
                    mapped(gateway), flags, bouncers, broadcast_of(cidr.address, cidr.prefix)
                )


def _place_errors(index: int, network: Network, resolved: ResolvedState) -> Iterator[FieldError]:
    vpc = resolved.vpcs[network.vpc]
    vpc_cidrs = [parse_cidr(text) for text in vpc.cidrs]
    ages = resolved.ages.get("networks", {})
    age = ages.get(network.id, 0), network.id
    older = [n for n in resolved.networks.values() if n.vpc == network.vpc and (ages.get(n.id, 0), n.id) < age]
    for position, text in enumerate(network.cidrs):
        path = f"networks[{index}].cidrs[{position}]"
        cidr = parse_cidr(text)
        if not any(within(cidr, outer) for outer in vpc_cidrs):
            message = f"{text} is not inside VPC {network.vpc!r} ({', '.join(vpc.cidrs)})"
            yield FieldError(path, ErrorCode.OUT_OF_RANGE, message)
        other = next((n for n in older if _overlaps(cidr, n)), None)
        if other is not None:
            message = f"{text} overlaps network {other.id!r} of the same VPC"
            yield FieldError(path, ErrorCode.DUPLICATE, message)


def _overlaps(cidr: Cidr, network: Network) -> bool:
    others = (parse_cidr(text) for text in network.cidrs)
    return any(within(cidr, other) or within(other, cidr) for other in others)


NETWORKS = Networks()
