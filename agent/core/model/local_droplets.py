"""Places in the map `local_droplets`: which of its indexes each address of this host has, on each interface.

An entry of `interfaces` names the index by which an endpoint sends. So an index means the same droplet for as long as
anything may refer to it: a place is kept until its address goes, and not given out again in the same step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from agent.core.model.map_layout import LOCAL_DROPLET, MAX_LOCAL_DROPLETS, U32, mapped


class IngressAddress(NamedTuple):
    """An address of this host (16 bytes), and the ifindex of an interface on which its frames come in."""

    address: bytes
    ifindex: int


LocalIndexes: TypeAlias = Mapping[IngressAddress, int]


def ingress_addresses(address: bytes, ifindexes: Collection[int]) -> list[IngressAddress]:
    """Return the places that a droplet needs; `address` of 4 or 16 bytes. The first is the one that it sends by."""
    return [IngressAddress(mapped(address), ifindex) for ifindex in ifindexes]


def assign_indexes(
    indexes: LocalIndexes, wanted: Collection[IngressAddress], *, keep: bool
) -> tuple[LocalIndexes, list[IngressAddress]]:
    """Return the places after some arrivals came and others went, and those for which there was none.

    With `keep`, those that went keep theirs: what refers to it has not been removed yet.
    """
    taken = set(indexes.values())
    result = dict(indexes) if keep else {one: indexes[one] for one in wanted if one in indexes}
    free = iter([index for index in range(MAX_LOCAL_DROPLETS) if index not in taken])
    left_out = []
    for one in wanted:
        if one not in result:
            index = next(free, None)
            if index is None:
                left_out.append(one)
            else:
                result[one] = index
    return result, left_out


def indexes_of(entries: Mapping[bytes, bytes]) -> LocalIndexes:
    """Return the places that the entries of `local_droplets` show."""
    found: dict[IngressAddress, int] = {}
    for key, value in sorted(entries.items()):
        address, interface, ingress, *_ = LOCAL_DROPLET.unpack(value)
        if interface:
            found[IngressAddress(address, ingress)] = U32.unpack(key)[0]
    return found


def no_free_index(droplet: str) -> str:
    """Say why a droplet of this host is refused."""
    return (
        f"no room for droplet {droplet!r}: this host has {MAX_LOCAL_DROPLETS} places, one for each droplet and each "
        f"interface that its frames come in on; take another droplet from this host first"
    )
