"""Validates one document against the resolved state: missing references and conflicts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from agent.core.model.features import Family, family_of
from agent.core.model.networks import gateways
from agent.core.model.resolved_state import ResolvedState
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.narrow_uplinks import mtu_shortfall
from protocol.acknowledgements import Reference
from protocol.addresses import Cidr, format_address, is_edge, last_of, parse_address, parse_cidr, within
from protocol.documents import Document, Network
from protocol.errors import ErrorCode, FieldError


class Validation(NamedTuple):
    """The missing references and the errors of a document; it can be in force when there are none."""

    missing: tuple[Reference, ...] = ()
    errors: tuple[FieldError, ...] = ()

    @property
    def valid(self) -> bool:
        """Return whether the document can be in force."""
        return not self.missing and not self.errors


VALID = Validation()


def validate(
    document: Document, needed: frozenset[Reference], resolved: ResolvedState, *, was_in_force: bool = False
) -> Validation:
    """Validate a document; `resolved` already includes its own objects.

    With `was_in_force`, an interface whose MTU became too small meanwhile does not withdraw it.
    """
    missing = tuple(sorted(reference for reference in needed if not resolved.has(reference)))
    if missing:
        return Validation(missing=missing)
    errors = (
        *_droplet_errors(document, resolved),
        *_disabled(document, resolved),
        *_network_errors(document, resolved),
        *_endpoint_errors(document, resolved, was_in_force),
    )
    return Validation(errors=errors) if errors else VALID


def _droplet_errors(document: Document, resolved: ResolvedState) -> Iterator[FieldError]:
    for index, droplet in enumerate(document.droplets):
        if droplet.host == resolved.host_state.host and resolved.uplink_of(droplet) is None:
            message = (
                f"no interface of this host has {droplet.address} ({_described(resolved.host_state.uplinks)}): "
                f"add it to one, name its interface in interfaces, or correct the document"
            )
            yield FieldError(f"droplets[{index}].address", ErrorCode.OUT_OF_RANGE, message)


def _described(uplinks: tuple[Uplink, ...]) -> str:
    """Name the interfaces with their addresses."""
    with_addresses = (
        f"{uplink.name} has {', '.join(map(format_address, uplink.addresses)) or 'none'}" for uplink in uplinks
    )
    return "; ".join(with_addresses) or "it has no uplink"


def _disabled(document: Document, resolved: ResolvedState) -> Iterator[FieldError]:
    """Yield an error for each feature that this host's programs are not compiled with."""
    features = resolved.host_state.features
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


def _network_errors(document: Document, resolved: ResolvedState) -> Iterator[FieldError]:
    for index, network in enumerate(document.networks):
        vpc_cidrs = [parse_cidr(text) for text in resolved.vpcs[network.vpc].cidrs]
        older = [
            n
            for n in resolved.networks.values()
            if n.vpc == network.vpc and _age(n, resolved) < _age(network, resolved)
        ]
        for position, text in enumerate(network.cidrs):
            path = f"networks[{index}].cidrs[{position}]"
            cidr = parse_cidr(text)
            if not any(within(cidr, outer) for outer in vpc_cidrs):
                message = f"{text} is not inside VPC {network.vpc!r} ({', '.join(resolved.vpcs[network.vpc].cidrs)})"
                yield FieldError(path, ErrorCode.OUT_OF_RANGE, message)
            other = next((n for n in older if _overlaps(cidr, n)), None)
            if other is not None:
                message = f"{text} overlaps network {other.id!r} of the same VPC"
                yield FieldError(path, ErrorCode.DUPLICATE, message)


def _age(network: Network, resolved: ResolvedState) -> tuple[int, str]:
    return resolved.ages.get(network.id, 0), network.id


def _overlaps(cidr: Cidr, network: Network) -> bool:
    others = (parse_cidr(text) for text in network.cidrs)
    return any(within(cidr, other) or within(other, cidr) for other in others)


_NOWHERE = (b"\x01", b"\x00")
"""Bounds that contain no address."""


def _endpoint_errors(document: Document, resolved: ResolvedState, was_in_force: bool) -> Iterator[FieldError]:
    if not document.endpoints:
        return
    places = {name: _places(resolved.networks[name]) for name in {e.network for e in document.endpoints}}
    for index, endpoint in enumerate(document.endpoints):
        bounds, reserved = places[endpoint.network]
        for position, text in enumerate(endpoint.addresses):
            address = parse_address(text)
            low, high = bounds.get(len(address), _NOWHERE)
            if not low <= address <= high or address in reserved:
                yield _misplaced(f"endpoints[{index}].addresses[{position}]", text, resolved.networks[endpoint.network])
        if not resolved.is_here(endpoint.droplet):
            continue
        if endpoint.attachment is None:
            message = f"endpoint {endpoint.id!r} is on this host: set where its interface appears"
            yield FieldError(f"endpoints[{index}].attachment", ErrorCode.MISSING_FIELD, message)
        if not was_in_force and (wrong := mtu_shortfall(endpoint, resolved)) is not None:
            yield FieldError(f"endpoints[{index}].droplet", ErrorCode.OUT_OF_RANGE, wrong)


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
