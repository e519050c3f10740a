"""Validates one document by itself: addresses, CIDRs, members, and no object twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from protocol.addresses import Cidr, contains, is_edge, parse_cidr, parse_host_address
from protocol.documents import Document, Droplet, Function, Network, Vpc
from protocol.endpoint_rules import ENDPOINT_TEXTS, check_endpoints
from protocol.errors import ErrorCode, FieldError
from protocol.function_rules import check_functions

Check: TypeAlias = Callable[[tuple[Any, ...]], Iterable[FieldError]]
"""Returns the broken rules of all objects of one kind in a document."""


def _no_rule(objects: tuple[Any, ...]) -> Iterable[FieldError]:
    del objects
    return ()


class Rules(NamedTuple):
    """The rules for the objects of one kind in one document. Each check gets all of them, and names the field's path.

    `texts` are checks of single fields that the types leave to `of_each`; where a document does not decode, they are
    what names a field as wrong.
    """

    of_each: Check
    of_all: Check = _no_rule
    """Rules between the objects. They are reported after those of every kind's objects."""
    texts: Mapping[str, Callable[[str], object]] = MappingProxyType({})


def check(document: Document) -> list[FieldError]:
    """Return every broken rule; empty if the document is valid."""
    errors: list[FieldError] = []
    listed = [(rules, objects) for kind, rules in RULES.items() if (objects := getattr(document, kind))]
    for rules, objects in listed:
        errors += rules.of_each(objects)
    for rules, objects in listed:
        errors += rules.of_all(objects)
    return errors


def _check_droplets(droplets: tuple[Droplet, ...]) -> Iterator[FieldError]:
    for index, droplet in enumerate(droplets):
        path = f"droplets[{index}]"
        errors = _each(f"{path}.address", parse_host_address, [droplet.address], indexed=False)
        if not errors and droplet.udp_checksum == "zero" and ":" not in droplet.address:
            message = (
                "tunnels over IPv4 go without a UDP checksum in any case: zero is for droplets with an IPv6 address"
            )
            errors.append(FieldError(f"{path}.udp_checksum", ErrorCode.INVALID, message))
        yield from errors


def _compare_droplets(droplets: tuple[Droplet, ...]) -> Iterator[FieldError]:
    yield from _twice("droplets", droplets)
    yield from _shared_addresses(droplets)


def _shared_addresses(droplets: tuple[Droplet, ...]) -> Iterator[FieldError]:
    seen: dict[str, str] = {}
    for index, droplet in enumerate(droplets):
        first = seen.setdefault(droplet.address, droplet.id)
        if first != droplet.id:
            message = f"{droplet.address} is that of droplet {first!r} already"
            yield FieldError(f"droplets[{index}].address", ErrorCode.DUPLICATE, message)


def _check_vpcs(vpcs: tuple[Vpc, ...]) -> Iterator[FieldError]:
    for index, vpc in enumerate(vpcs):
        path = f"vpcs[{index}]"
        yield from _each(f"{path}.cidrs", parse_cidr, vpc.cidrs)
        yield from _repeated(f"{path}.dividers", vpc.dividers)
        yield from _one_per_family(f"{path}.cidrs", vpc.cidrs)


def _check_networks(networks: tuple[Network, ...]) -> Iterator[FieldError]:
    for index, network in enumerate(networks):
        path = f"networks[{index}]"
        yield from _each(f"{path}.cidrs", parse_cidr, network.cidrs)
        yield from _each(f"{path}.gateways", parse_host_address, network.gateways)
        yield from _repeated(f"{path}.bouncers", network.bouncers)
        yield from _one_per_family(f"{path}.cidrs", network.cidrs)
        if network.encapsulation == "vxlan" and network.routing == "divider":
            message = "VXLAN does not say whether a divider was passed: choose geneve, or routing direct"
            yield FieldError(f"{path}.routing", ErrorCode.INVALID, message)
        if network.encapsulation == "vxlan" and network.labels:
            message = "VXLAN has no options that could carry labels: choose geneve, or leave labels out"
            yield FieldError(f"{path}.labels", ErrorCode.INVALID, message)
        yield from _check_gateways(network, path)


def _check_gateways(network: Network, path: str) -> list[FieldError]:
    if not network.gateways:
        return []
    if len(network.gateways) != len(network.cidrs):
        message = "write one gateway per CIDR, in the same order, or none"
        return [FieldError(f"{path}.gateways", ErrorCode.INVALID, message)]
    errors = []
    for index, (gateway, cidr) in enumerate(zip(network.gateways, network.cidrs, strict=True)):
        try:
            mistake = _misplaced(parse_host_address(gateway), parse_cidr(cidr))
        except ValueError:
            continue  # already reported
        if mistake:
            errors.append(
                FieldError(f"{path}.gateways[{index}]", ErrorCode.OUT_OF_RANGE, f"{gateway} is {mistake} {cidr}")
            )
    return errors


def _misplaced(gateway: bytes, cidr: Cidr) -> str:
    """Return why an address cannot be the gateway of a CIDR; empty if it can."""
    if not contains(cidr, gateway):
        return "not in"
    return "no interface's address, but the first or last of" if is_edge(cidr, gateway) else ""


def _each(path: str, parse: Callable[[str], Any], texts: Iterable[str], *, indexed: bool = True) -> list[FieldError]:
    errors = []
    for index, text in enumerate(texts):
        try:
            parse(text)
        except ValueError as error:
            errors.append(FieldError(f"{path}[{index}]" if indexed else path, ErrorCode.INVALID, str(error)))
    return errors


def _repeated(path: str, members: tuple[str, ...]) -> Iterator[FieldError]:
    for index, member in enumerate(members):
        if members.index(member) != index:
            yield FieldError(f"{path}[{index}]", ErrorCode.DUPLICATE, f"{member!r} stands here twice")


def _one_per_family(path: str, cidrs: tuple[str, ...]) -> Iterator[FieldError]:
    parsed: list[Cidr] = []
    for text in cidrs:
        try:
            parsed.append(parse_cidr(text))
        except ValueError:
            return
    if len({len(cidr.address) for cidr in parsed}) != len(parsed):
        yield FieldError(path, ErrorCode.INVALID, "at most one CIDR of each address family")


def _twice(
    kind: str, objects: tuple[Droplet, ...] | tuple[Vpc, ...] | tuple[Network, ...] | tuple[Function, ...]
) -> list[FieldError]:
    seen: dict[str, int] = {}
    errors = []
    for index, item in enumerate(objects):
        first = seen.setdefault(item.id, index)
        if first != index:
            message = f"{item.id!r} stands in {kind}[{first}] already"
            errors.append(FieldError(f"{kind}[{index}].id", ErrorCode.DUPLICATE, message))
    return errors


RULES: dict[str, Rules] = {
    "droplets": Rules(_check_droplets, _compare_droplets),
    "vpcs": Rules(_check_vpcs, partial(_twice, "vpcs")),
    "networks": Rules(_check_networks, partial(_twice, "networks")),
    "endpoints": Rules(check_endpoints, texts=ENDPOINT_TEXTS),
    "functions": Rules(check_functions, partial(_twice, "functions")),
}
"""The rules of each kind of object, in the order of `documents.KINDS`."""
