"""Stage points, slots and chains, as the programs number them. Pure.

A function has a slot at its point. Its programs are in the jump tables of its hook at `index_of(point, slot)`, where
its counters are too. A chain is the u32 that lists the slots of the functions that a packet meets at one point.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from enum import IntEnum

from agent.core.model.map_layout import (
    CHAIN_BITS,
    ENDPOINT_STAGES,
    HOST_STAGES,
    STAGE_SLOTS,
    VPC_STAGES,
    MapName,
)


class Point(IntEnum):
    """The stage points: enum stage_point in `bpf/stage.h`. Documents use the names in lower case."""

    FROM_ENDPOINT = 1
    TO_ENDPOINT = 2
    FORWARDED = 3
    FROM_UNDERLAY = 4
    PASSED = 5
    DROPPED = 6

    @property
    def label(self) -> str:
        """Its name in documents."""
        return self.name.lower()


POINTS = {point.label: point for point in Point}
"""The stage points by their names in documents."""
VNI_BITS = 64
"""Bits of the mask in `host_stages`."""
_CHAIN_MASK = (1 << CHAIN_BITS) - 1


def index_of(point: int, slot: int) -> int:
    """Return the index of a slot (0 to 7) of a point (1 to 6) in the jump tables and in `function_counters`."""
    return (point - 1) * STAGE_SLOTS + slot


def place_of(index: int) -> tuple[Point, int]:
    """Return the point and the slot of an index in the jump tables."""
    point, slot = divmod(index, STAGE_SLOTS)
    return Point(point + 1), slot


def chain_of(slots: Iterable[int]) -> int:
    """Return the chain of slots in the order in which their functions run: 4 bits for each from the lowest on."""
    return sum(1 + slot << CHAIN_BITS * position for position, slot in enumerate(slots))


def slots_of(chain: int) -> tuple[int, ...]:
    """Return the slots of a chain in their order."""
    found = []
    while link := chain & _CHAIN_MASK:
        found.append(link - 1)
        chain >>= CHAIN_BITS
    return tuple(found)


def vnis_mask(vnis: Iterable[int]) -> int:
    """Return the mask of `host_stages`: a bit for each VNI, several of which may share one."""
    mask = 0
    for vni in vnis:
        mask |= 1 << vni % VNI_BITS
    return mask


CHAIN_MAPS: dict[MapName, tuple[struct.Struct, dict[int, Point]]] = {
    MapName.ENDPOINT_STAGES: (ENDPOINT_STAGES, {0: Point.FROM_ENDPOINT, 1: Point.TO_ENDPOINT}),
    MapName.VPC_STAGES: (VPC_STAGES, {0: Point.FORWARDED, 1: Point.FROM_UNDERLAY, 2: Point.DROPPED}),
    MapName.HOST_STAGES: (HOST_STAGES, {1: Point.PASSED, 2: Point.DROPPED}),
}
"""The layout of each map's values, and the stage point of each field that is a chain."""


def without_slots(
    name: MapName, entries: tuple[tuple[bytes, bytes], ...], empty: Collection[tuple[int, int]]
) -> tuple[tuple[bytes, bytes], ...]:
    """Return entries of one of `CHAIN_MAPS` with chains that pass over the `empty` slots, each a point and a slot."""
    layout, points = CHAIN_MAPS[name]
    found = []
    for key, value in entries:
        fields = list(layout.unpack(value))
        for index, point in points.items():
            fields[index] = chain_of(slot for slot in slots_of(fields[index]) if (point, slot) not in empty)
        found.append((key, layout.pack(*fields)))
    return tuple(found)
