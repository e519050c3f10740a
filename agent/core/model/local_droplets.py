"""Indexes in the map `local_droplets`: one for each address of this host on each interface.

An entry of `interfaces` names the index by which an endpoint sends. So an index must mean the same droplet as long as
anything may refer to it: it is kept until its address is removed, and not assigned again in the same step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from agent.core.model.map_layout import LOCAL_DROPLET, MAX_LOCAL_DROPLETS, U32, mapped


class IngressAddress(NamedTuple):
    """An address of this host (16 bytes), and the ifindex of an interface on which its frames arrive."""

    address: bytes
    ifindex: int


LocalIndexes: TypeAlias = Mapping[IngressAddress, int]


def ingress_addresses(address: bytes, ifindexes: Collection[int]) -> list[IngressAddress]:
    """Return the indexes that a droplet needs; `address` of 4 or 16 bytes. It sends by the first one."""
    return [IngressAddress(mapped(address), ifindex) for ifindex in ifindexes]


def assign_indexes(
    indexes: LocalIndexes, wanted: Collection[IngressAddress], *, keep: bool
) -> tuple[LocalIndexes, list[IngressAddress]]:
    """Return the indexes after the change to `wanted`, and the wanted addresses for which no index was free.

    With `keep`, addresses that are no longer wanted keep theirs: entries that refer to them still exist.
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
    """Return the indexes that the entries of `local_droplets` occupy."""
    found: dict[IngressAddress, int] = {}
    for key, value in sorted(entries.items()):
        address, interface, ingress, *_ = LOCAL_DROPLET.unpack(value)
        if interface:
            found[IngressAddress(address, ingress)] = U32.unpack(key)[0]
    return found


def no_free_index(droplet: str) -> str:
    """Return why a droplet of this host is rejected."""
    return (
        f"no free index for droplet {droplet!r}: this host has {MAX_LOCAL_DROPLETS}, one for each droplet and each "
        f"interface on which its frames arrive; remove another droplet from this host first"
    )
