"""Judges one document against the world that it would be part of: what it lacks, and what in it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from agent.core.model.features import Family, family_of
from agent.core.model.networks import gateways
from agent.core.model.resolved_state import World
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.narrow_uplinks import cramped
from protocol.acknowledgements import Reference
from protocol.addresses import Cidr, format_address, is_edge, last_of, parse_address, parse_cidr, within
from protocol.documents import Document, Network
from protocol.errors import ErrorCode, FieldError


class Judgement(NamedTuple):
    """Nothing missing and no errors: the document can be in force."""

    missing: tuple[Reference, ...] = ()
    errors: tuple[FieldError, ...] = ()

    @property
    def sound(self) -> bool:
        """Say whether the document can be in force."""
        return not self.missing and not self.errors


SOUND = Judgement()


def judge(document: Document, needed: frozenset[Reference], world: World, *, standing: bool = False) -> Judgement:
    """Judge a document; `world` holds its own objects already.

    One that is `standing` was in force before: an interface that became narrow under it does not withdraw it.
    """
    missing = tuple(sorted(reference for reference in needed if not world.has(reference)))
    if missing:
        return Judgement(missing=missing)
    errors = (
        *_droplet_errors(document, world),
        *_disabled(document, world),
        *_network_errors(document, world),
        *_endpoint_errors(document, world, standing),
    )
    return Judgement(errors=errors) if errors else SOUND


def _droplet_errors(document: Document, world: World) -> Iterator[FieldError]:
    for index, droplet in enumerate(document.droplets):
        if droplet.host == world.here.host and world.uplink_of(droplet) is None:
            message = (
                f"no interface of this host has {droplet.address} ({_described(world.here.uplinks)}): add it to one, "
                f"name its interface in interfaces, or mend the document"
            )
            yield FieldError(f"droplets[{index}].address", ErrorCode.OUT_OF_RANGE, message)


def _described(uplinks: tuple[Uplink, ...]) -> str:
    """Name the interfaces with their addresses."""
    with_addresses = (
        f"{uplink.name} has {', '.join(map(format_address, uplink.addresses)) or 'none'}" for uplink in uplinks
    )
    return "; ".join(with_addresses) or "it has no interface in the substrate"


def _disabled(document: Document, world: World) -> Iterator[FieldError]:
    """Yield what the programs of this host are not compiled for."""
    features = world.here.features
    for index, droplet in enumerate(document.droplets):
        family = family_of(parse_address(droplet.address))
        if family not in features.substrate:
            message = f"{droplet.address}: {_off(family, 'data_plane.substrate')}"
            yield FieldError(f"droplets[{index}].address", ErrorCode.DISABLED, message)
    cidrs = [(f"vpcs[{index}]", vpc.cidrs) for index, vpc in enumerate(document.vpcs)]
    cidrs += [(f"networks[{index}]", network.cidrs) for index, network in enumerate(document.networks)]
    for path, texts in cidrs:
        for position, text in enumerate(texts):
            family = family_of(parse_cidr(text).address)
            if family not in features.families:
                message = f"{text}: {_off(family, 'data_plane.families')}"
                yield FieldError(f"{path}.cidrs[{position}]", ErrorCode.DISABLED, message)
    for index, network in enumerate(document.networks):
        if network.encapsulation == "vxlan" and not features.vxlan_port:
            message = "VXLAN is off on this host: set data_plane.vxlan_port, 4789 by custom, and start the agent again"
            yield FieldError(f"networks[{index}].encapsulation", ErrorCode.DISABLED, message)


def _off(family: Family, setting: str) -> str:
    name = {"ipv4": "IPv4", "ipv6": "IPv6"}[family]
    return f"{name} is off on this host: add {family} to {setting} in the settings, and start the agent again"


def _network_errors(document: Document, world: World) -> Iterator[FieldError]:
    for index, network in enumerate(document.networks):
        vpc_cidrs = [parse_cidr(text) for text in world.vpcs[network.vpc].cidrs]
        older = [n for n in world.networks.values() if n.vpc == network.vpc and _age(n, world) < _age(network, world)]
        for position, text in enumerate(network.cidrs):
            path = f"networks[{index}].cidrs[{position}]"
            cidr = parse_cidr(text)
            if not any(within(cidr, outer) for outer in vpc_cidrs):
                message = f"{text} is not inside VPC {network.vpc!r} ({', '.join(world.vpcs[network.vpc].cidrs)})"
                yield FieldError(path, ErrorCode.OUT_OF_RANGE, message)
            other = next((n for n in older if _overlaps(cidr, n)), None)
            if other is not None:
                message = f"{text} overlaps network {other.id!r} of the same VPC"
                yield FieldError(path, ErrorCode.DUPLICATE, message)


def _age(network: Network, world: World) -> tuple[int, str]:
    return world.ages.get(network.id, 0), network.id


def _overlaps(cidr: Cidr, network: Network) -> bool:
    others = (parse_cidr(text) for text in network.cidrs)
    return any(within(cidr, other) or within(other, cidr) for other in others)


_NOWHERE = (b"\x01", b"\x00")
"""Bounds that hold no address."""


def _endpoint_errors(document: Document, world: World, standing: bool) -> Iterator[FieldError]:
    if not document.endpoints:
        return
    places = {name: _places(world.networks[name]) for name in {e.network for e in document.endpoints}}
    for index, endpoint in enumerate(document.endpoints):
        bounds, reserved = places[endpoint.network]
        for position, text in enumerate(endpoint.addresses):
            address = parse_address(text)
            low, high = bounds.get(len(address), _NOWHERE)
            if not low <= address <= high or address in reserved:
                yield _misplaced(f"endpoints[{index}].addresses[{position}]", text, world.networks[endpoint.network])
        if not world.is_here(endpoint.droplet):
            continue
        if endpoint.attachment is None:
            message = f"endpoint {endpoint.id!r} is on this host: say where its interface appears"
            yield FieldError(f"endpoints[{index}].attachment", ErrorCode.MISSING_FIELD, message)
        if not standing and (wrong := cramped(endpoint, world)) is not None:
            yield FieldError(f"endpoints[{index}].droplet", ErrorCode.OUT_OF_RANGE, wrong)


@lru_cache(maxsize=4096)
def _places(network: Network) -> tuple[dict[int, tuple[bytes, bytes]], set[bytes]]:
    """Return the first and last packed address by family (4 or 16), and the addresses that no endpoint can have."""
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
