"""Stage points, slots and chains are numbered as the C sources do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from agent.core.functions.programs import STAGE_ABI
from agent.core.functions.stages import (
    CHAIN_MAPS,
    POINTS,
    Point,
    chain_of,
    index_of,
    place_of,
    slots_of,
    vnis_mask,
    without_slots,
)
from agent.core.model.map_layout import (
    ENDPOINT_STAGES,
    HOST_STAGES,
    STAGE_POINTS,
    STAGE_SLOTS,
    VPC_STAGES,
    MapName,
)
from protocol.documents import Function

HEADER = (Path(__file__).parents[2] / "bpf" / "stage.h").read_text()


def test_the_points_are_those_of_the_header_and_of_documents() -> None:
    block = re.search(r"enum stage_point \{(.*?)\};", HEADER, re.DOTALL)
    assert block is not None
    listed = {name: int(number) for name, number in re.findall(r"STAGE_(\w+) = (\d+)", block[1])}
    assert listed == {point.name: point.value for point in Point}
    assert len(Point) == STAGE_POINTS
    (field,) = (field for field in msgspec.structs.fields(Function) if field.name == "point")
    assert set(POINTS) == set(get_args(field.type))


def test_the_abi_is_that_of_the_header() -> None:
    assert f"#define STAGE_ABI {STAGE_ABI} " in HEADER


def test_every_slot_of_every_point_has_an_index_of_its_own() -> None:
    places = [(point, slot) for point in Point for slot in range(STAGE_SLOTS)]
    indexes = [index_of(*place) for place in places]
    assert indexes == list(range(STAGE_POINTS * STAGE_SLOTS))
    assert [place_of(index) for index in indexes] == places


@pytest.mark.parametrize(
    ("slots", "chain"), [((), 0), ((0,), 1), ((7, 0), 0x18), ((2, 1, 0), 0x123), (tuple(range(8)), 0x87654321)]
)
def test_a_chain_is_read_from_the_lowest_bits_on(slots: tuple[int, ...], chain: int) -> None:
    assert chain_of(slots) == chain < 1 << 32
    assert slots_of(chain) == slots


def test_the_mask_has_a_bit_for_each_vni_several_of_which_share_one() -> None:
    assert vnis_mask(()) == 0
    assert vnis_mask((0, 63, 64, 16777215)) == 1 | 1 << 63


def test_chains_pass_over_empty_slots_of_their_own_point() -> None:
    key = bytes(4)
    entry = ((key, ENDPOINT_STAGES.pack(chain_of((1, 2)), chain_of((1, 2)))),)
    assert without_slots(MapName.ENDPOINT_STAGES, entry, {(Point.TO_ENDPOINT, 1)}) == (
        (key, ENDPOINT_STAGES.pack(chain_of((1, 2)), chain_of((2,)))),
    )
    vpc = ((key, VPC_STAGES.pack(1, 1, 1)),)
    assert without_slots(MapName.VPC_STAGES, vpc, {(Point.DROPPED, 0)}) == ((key, VPC_STAGES.pack(1, 1, 0)),)
    host = ((key, HOST_STAGES.pack(5, 1, 1, 1)),)
    assert without_slots(MapName.HOST_STAGES, host, {(Point.PASSED, 0)}) == ((key, HOST_STAGES.pack(5, 0, 1, 1)),)


def test_all_maps_with_chains_are_known() -> None:
    assert set(CHAIN_MAPS) == {MapName.ENDPOINT_STAGES, MapName.VPC_STAGES, MapName.HOST_STAGES}
    assert sorted(point for _, points in CHAIN_MAPS.values() for point in points.values()) == sorted(
        (*Point, Point.DROPPED)
    )
