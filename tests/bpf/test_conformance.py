"""Every test that the tables of `docs/wire.md` name is there, and so is its row."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WIRE = HERE.parent.parent / "docs" / "wire.md"
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[([^\]]+)\])?`", WIRE.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """Return every test of the programs by file, name and row, as pytest itself collects them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(HERE)]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, check=True)
    return {line.split("/", 2)[2] for line in done.stdout.splitlines() if line.startswith("tests/bpf/")}


@pytest.mark.parametrize(("file", "test", "row"), NAMED, ids=lambda part: part or "whole")
def test_a_named_test_exists(collected: set[str], file: str, test: str, row: str) -> None:
    """A row is one of the parameters that pytest joins by hyphens."""
    name = f"{file}::{test}"
    rows = [one.removeprefix(name) for one in collected if one == name or one.startswith(f"{name}[")]
    assert rows
    assert not row or any(f"-{row}-" in f"-{one[1:-1]}-" for one in rows)


def test_every_row_of_a_table_names_a_test() -> None:
    conformance = WIRE.read_text(encoding="utf-8").split("## Conformance")[1]
    heads = ("| ---", "| requirement |", "| rule |")
    rows = [line for line in conformance.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    assert len(rows) > 100
    assert [row for row in rows if "::test_" not in row] == []
