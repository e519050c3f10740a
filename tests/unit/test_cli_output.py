"""What dropletctl prints, for people and for machines."""

from __future__ import annotations

import pytest
import yaml

from agent.cli.output import machine, table


@pytest.mark.parametrize("columns", [60, 200])
def test_a_table_folds_and_never_cuts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "2001:db8:" * 12
    table(("NAME", "MAC", "ADDRESS"), [("e1", "02:00:00:00:00:01", long)], "nothing", spare="MAC")
    narrow = capsys.readouterr().out
    assert "…" not in narrow
    assert long in "".join(narrow.replace("e1", "").split())
    assert ("02:00:00:00:00:01" in narrow) == (columns == 200)
    table(("NAME", "MAC", "ADDRESS"), [("e1", "02:00:00:00:00:01", long)], "nothing", wide=True, spare="MAC")
    assert ["e1", "02:00:00:00:00:01", long] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [{"a": 1, "b": []}, {"c": {"d": None}}],
        {"yes": "no", "x": "1e3", "y": "a: b", "z": "- q", "s": " lead", "n": "12", "u": "é\n", "t": True, "f": 1.5},
        [[1, [2]], "null", "", "#c", {"k": [{"l": "02:00:00:00:00:01"}]}],
    ],
)
def test_yaml_is_read_back_as_it_was(value: object) -> None:
    assert yaml.safe_load(machine(value, "yaml")) == value
