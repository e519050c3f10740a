"""docs/data-plane.md says what the code says: maps with their sizes, functions, headers, outcomes and flags by name."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.maps import MapSizes
from agent.datapath.bpf.outcomes import Outcome

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "data-plane.md").read_text(encoding="utf-8")
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "bpf").rglob("*.[ch]")}
MIB = 1 << 20


class Row(NamedTuple):
    """One line of the table of maps, as it stands there."""

    kind: str
    key: str
    key_bytes: int
    value: str
    value_bytes: int
    places: int
    full: str


class Declared(NamedTuple):
    """A map in maps.h."""

    kind: str
    key: str
    value: str


def _rows() -> dict[str, Row]:
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 10 and cells[0].startswith("`"):
            kind, key, key_bytes, value, value_bytes, places, full = cells[1:8]
            places = places.replace(",", "")
            found[cells[0].strip("`")] = Row(kind, key, int(key_bytes), value, int(value_bytes), int(places), full)
    return found


def _declared() -> dict[str, Declared]:
    found = re.findall(r'BPF_(?:F_)?TABLE\("(\w+)", ([\w ]+), ([\w ]+), (\w+),', SOURCES["maps.h"])
    return {name: Declared(kind, key, value) for kind, key, value, name in found}


ROWS, DECLARED = _rows(), _declared()


def size_of(c_type: str) -> int:
    if c_type == "__u32":
        return 4
    if c_type == "__u64":
        return 8
    if c_type == "struct address":
        return 16
    form = getattr(map_layout, c_type.removeprefix("struct ").upper())
    assert isinstance(form, struct.Struct)
    return form.size


def test_the_page_has_every_map() -> None:
    assert set(ROWS) == set(MapName) == {*DECLARED, MapName.TC_PROGRAMS, MapName.TC_STAGE_PROGRAMS}


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_maps_type_and_sizes_are_those_of_the_code(name: str) -> None:
    row, declared = ROWS[name], DECLARED[name]
    assert row.kind == declared.kind
    assert (row.key_bytes, row.value_bytes) == (size_of(declared.key), size_of(declared.value))
    for cell, c_type in ((row.key, declared.key), (row.value, declared.value)):
        assert not c_type.startswith("struct ") or cell == f"`{c_type.removeprefix('struct ')}`"
    assert row.places == MapSizes().of(MapName(name))
    assert row.full == f"{row.places * (row.key_bytes + row.value_bytes) / MIB:.1f}"


def test_every_function_and_header_that_it_names_is_there() -> None:
    text = "\n".join(SOURCES.values())
    functions = set(re.findall(r"\b([a-z]\w+)\(\)", PAGE))
    assert {name for name in functions if not re.search(rf"\b{name}\(", text)} == set()
    headers = set(re.findall(r"`(?:bpf/)?(?:hooks/|lib/)?(\w+\.[ch])`", PAGE))
    assert headers <= set(SOURCES)


def test_every_outcome_flag_and_struct_that_it_names_is_there() -> None:
    names = set(re.findall(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b", PAGE)) - set(Outcome.__members__)
    known = "\n".join([*SOURCES.values(), "DOES_NOT_FIT"])
    assert {name for name in names if not re.search(rf"\b{name}", known)} == set()
    structs = set(re.findall(r"`struct (\w+)`", PAGE))
    assert {name for name in structs if f"struct {name} {{" not in known} == set()
