"""Every test that the tables of `docs/wire.md` name is there, and so is its row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WIRE = HERE.parent.parent / "docs" / "wire.md"
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[([^\]]+)\])?`", WIRE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "test", "row"), NAMED, ids=lambda part: part or "whole")
def test_a_named_test_is_there(file: str, test: str, row: str) -> None:
    text = (HERE / file).read_text(encoding="utf-8")
    assert f"def {test}(" in text
    assert f'"{row}"' in text if row else True


def test_every_row_of_a_table_names_a_test() -> None:
    conformance = WIRE.read_text(encoding="utf-8").split("## Conformance")[1]
    heads = ("| ---", "| requirement |", "| rule |")
    rows = [line for line in conformance.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    assert len(rows) > 100
    assert [row for row in rows if "::test_" not in row] == []
