"""docs/functions.md says of programs at stage points what the code says: points, verdicts, fields, settings, limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from agent.core.functions.stages import Point
from agent.core.model.map_layout import STAGE_SLOTS
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.functions.checks import ALLOWED_HELPERS
from agent.datapath.functions.map_limits import MOST_BYTES, MOST_KEY, MOST_MAPS, MOST_VALUE, TYPES
from agent.datapath.functions.user_program import CONFIGURATION_SIZE, MAX_INSTRUCTIONS
from agent.settings import FunctionsSection
from protocol.documents import MAX_OBJECT, MAX_SOURCE, Function
from protocol.function_rules import OF_THE_HOST, SCOPE_OF_ENDPOINTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "functions.md").read_text(encoding="utf-8").partition("## Functions in processes")[0]
HEADER = (ROOT / "bpf" / "stage.h").read_text(encoding="utf-8")


class Section(NamedTuple):
    """One section of the page: the cells of its tables' rows, and its text."""

    rows: list[list[str]]
    text: str

    def first_cells(self) -> list[str]:
        return [row[0].strip("`") for row in self.rows]

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0].strip("`") == first)


def section(title: str) -> Section:
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##+ )", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    lines = [line for line in found[1].splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return Section([[cell.strip() for cell in line.strip("|").split("|")] for line in lines], found[1])


def test_the_table_of_points_has_all_of_them_in_order() -> None:
    found = section("Stage points").first_cells()
    assert [one for one in found if one in {point.label for point in Point}] == [point.label for point in Point]


@pytest.mark.parametrize("point", [point.label for point in Point])
def test_the_scope_of_a_point_is_the_one_that_documents_may_have(point: str) -> None:
    scope = section("Stage points").row(point)[4]
    assert ("endpoints" in scope) == (point in SCOPE_OF_ENDPOINTS)
    assert ("without `vpc`" in scope) == (point in OF_THE_HOST)
    assert ("VPCs" in scope) == (point != "passed")


def test_every_verdict_is_in_the_table_and_its_outcomes_exist() -> None:
    verdicts = set(
        re.findall(r"^\t(STAGE_\w+) = \d,", HEADER.partition("enum stage_verdict")[2].partition("};")[0], re.M)
    )
    contract = section("The contract")
    assert {one for one in contract.first_cells() if one.startswith("STAGE_")} == verdicts
    outcomes = set(re.findall(r"`(function_\w+)`", PAGE)) - {"function_failing", "function_rolled_back"}
    of_processes = {"FUNCTION_HANDED_OVER", "FUNCTION_ANSWER"}
    known = {one.name for one in Outcome if one.name.startswith("FUNCTION_")}
    assert {name.upper() for name in outcomes} == known - of_processes


def test_every_name_of_the_header_that_the_page_has_exists() -> None:
    names = set(re.findall(r"\b(stage_\w+)\(\)", PAGE)) | set(re.findall(r"\bSTAGE_\w+", PAGE))
    assert {name for name in names if not re.search(rf"\b{name}\b", HEADER)} == set()


def test_the_limits_are_those_of_the_code() -> None:
    contract = section("The contract")
    assert int(contract.row("instructions")[1].split(",")[0]) == MAX_INSTRUCTIONS
    assert contract.row("maps")[1].startswith(f"{MOST_MAPS}, ")
    assert set(re.findall(r"`(\w+)`", contract.row("maps")[1])) == set(TYPES.values())
    assert contract.row("one map")[1] == f"keys of {MOST_KEY}, values of {MOST_VALUE} bytes"
    assert contract.row("memory of all maps when full")[1].startswith(f"{MOST_BYTES >> 20} MiB")
    assert contract.row("configuration")[1] == f"{CONFIGURATION_SIZE} bytes"
    assert contract.row("source, object file")[1].startswith(f"{MAX_SOURCE >> 10} KiB, {MAX_OBJECT >> 10} KiB in a")
    assert int(contract.row("functions at one point of a host")[1]) == STAGE_SLOTS
    assert re.findall(r"`(\w+)`", contract.row("helpers")[1]) != []
    assert set(re.findall(r"`(\w+)`", contract.row("helpers")[1])) == set(ALLOWED_HELPERS.values())


def test_the_document_has_the_fields_of_the_protocol() -> None:
    found = section("The document").first_cells()[1:]
    assert set(found) == {field.name for field in msgspec.structs.fields(Function)}


def test_the_settings_have_the_defaults_of_the_agent() -> None:
    table, defaults = section("Settings"), FunctionsSection()
    assert table.first_cells()[1:] == list(FunctionsSection.__struct_fields__)
    for name in FunctionsSection.__struct_fields__:
        value = getattr(defaults, name)
        shown = f'`"{value}"`' if isinstance(value, str) else repr(value)
        written = {"()": "`[]`"}.get(repr(value), shown)
        assert table.row(name)[1] == written


def test_every_message_in_the_troubleshooting_table_is_one_of_the_code() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "agent").rglob("*.py")))
    code = re.sub(r'"\s*f?"', "", sources).replace("calls {what}", "calls bpf_")
    quoted = [text for row in section("Troubleshooting").rows for text in re.findall(r'"([^"]+)"', row[0])]
    parts = [part for text in quoted for part in text.removesuffix(" source").split("...") if "line 12" not in part]
    assert len(quoted) > 5
    assert [part for part in parts if part.strip() not in code] == []
