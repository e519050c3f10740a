"""Places in the map `local_droplets`: which of its indexes each address of this host has, on each interface.

An entry of `interfaces` names the index by which an endpoint sends. So an index means the same droplet for as long as
anything may refer to it: a place is kept until its address goes, and not given out again in the same step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from agent.core.model.map_layout import LOCAL_DROPLET, MAX_LOCAL_DROPLETS, U32, mapped


class Arrival(NamedTuple):
    """An address of this host (16 bytes), and the ifindex of an interface on which its frames come in."""

    address: bytes
    ifindex: int


Places: TypeAlias = Mapping[Arrival, int]


def arrivals(address: bytes, ifindexes: Collection[int]) -> list[Arrival]:
    """Return the places that a droplet needs; `address` of 4 or 16 bytes. The first is the one that it sends by."""
    return [Arrival(mapped(address), ifindex) for ifindex in ifindexes]


def arrange(places: Places, wanted: Collection[Arrival], *, keep: bool) -> tuple[Places, list[Arrival]]:
    """Return the places after some arrivals came and others went, and those for which there was none.

    With `keep`, those that went keep theirs: what refers to it has not been removed yet.
    """
    taken = set(places.values())
    result = dict(places) if keep else {one: places[one] for one in wanted if one in places}
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


def places_of(entries: Mapping[bytes, bytes]) -> Places:
    """Return the places that the entries of `local_droplets` show."""
    found: dict[Arrival, int] = {}
    for key, value in sorted(entries.items()):
        address, interface, arrives, *_ = LOCAL_DROPLET.unpack(value)
        if interface:
            found[Arrival(address, arrives)] = U32.unpack(key)[0]
    return found


def no_room(droplet: str) -> str:
    """Say why a droplet of this host is refused."""
    return (
        f"no room for droplet {droplet!r}: this host has {MAX_LOCAL_DROPLETS} places, one for each droplet and each "
        f"interface that its frames come in on; take another droplet from this host first"
    )
