"""Judges one document against the world that it would be part of: what it lacks, and what in it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from agent.core.world import World
from protocol.acknowledgements import Reference
from protocol.addresses import Cidr, first_host, parse_address, parse_cidr, within
from protocol.documents import Document, Droplet, Network
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


def judge(document: Document, needed: frozenset[Reference], world: World) -> Judgement:
    """Judge a document; `world` holds its own objects already."""
    missing = tuple(sorted(reference for reference in needed if not world.has(reference)))
    if missing:
        return Judgement(missing=missing)
    errors = (
        *_droplet_errors(document, world),
        *_network_errors(document, world),
        *_endpoint_errors(document, world),
    )
    return Judgement(errors=errors) if errors else SOUND


def _droplet_errors(document: Document, world: World) -> Iterator[FieldError]:
    own: Droplet | None = None
    for index, droplet in enumerate(document.droplets):
        if droplet.host != world.here.host:
            continue
        own = own or droplet
        if droplet is not own:
            message = f"host {droplet.host} has droplet {own.id!r} already; this agent serves one interface"
            yield FieldError(f"droplets[{index}].host", ErrorCode.DUPLICATE, message)
        elif parse_address(droplet.address) not in world.here.addresses:
            message = f"the droplet's interface does not have {droplet.address}: add it, or mend the document"
            yield FieldError(f"droplets[{index}].address", ErrorCode.OUT_OF_RANGE, message)


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


def _endpoint_errors(document: Document, world: World) -> Iterator[FieldError]:
    if not document.endpoints:
        return
    places = {name: _places(world.networks[name]) for name in {e.network for e in document.endpoints}}
    here = {droplet.id for droplet in world.own_droplets()}
    for index, endpoint in enumerate(document.endpoints):
        bounds, reserved = places[endpoint.network]
        for position, text in enumerate(endpoint.addresses):
            address = parse_address(text)
            low, high = bounds.get(len(address), _NOWHERE)
            if not low <= address <= high or address in reserved:
                yield _misplaced(f"endpoints[{index}].addresses[{position}]", text, world.networks[endpoint.network])
        if endpoint.droplet in here and endpoint.attachment is None:
            message = f"endpoint {endpoint.id!r} is on this host: say where its interface appears"
            yield FieldError(f"endpoints[{index}].attachment", ErrorCode.MISSING_FIELD, message)


@lru_cache(maxsize=4096)
def _places(network: Network) -> tuple[dict[int, tuple[bytes, bytes]], set[bytes]]:
    """Return the first and last packed address by family (4 or 16), and the addresses that no endpoint can have."""
    bounds = {}
    reserved = set(gateways(network))
    for cidr in (parse_cidr(text) for text in network.cidrs):
        bits = len(cidr.address) * 8
        last = int.from_bytes(cidr.address, "big") | ((1 << (bits - cidr.prefix)) - 1)
        bounds[len(cidr.address)] = cidr.address, last.to_bytes(len(cidr.address), "big")
        if cidr.prefix < bits - 1:
            reserved.add(cidr.address)
        if bits == 32 and cidr.prefix < 31:
            reserved.add(last.to_bytes(4, "big"))
    return bounds, reserved


def gateways(network: Network) -> tuple[bytes, ...]:
    """Return the packed gateway of each CIDR of a network, in their order."""
    if network.gateways:
        return tuple(parse_address(text) for text in network.gateways)
    return tuple(first_host(parse_cidr(text)) for text in network.cidrs)


def _misplaced(path: str, text: str, network: Network) -> FieldError:
    message = f"{text} is not an endpoint's address in network {network.id!r} ({', '.join(network.cidrs)})"
    return FieldError(path, ErrorCode.OUT_OF_RANGE, message)
