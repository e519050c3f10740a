"""docs/function-examples.md and docs/functions.md show the files of examples/functions as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab.function_examples import FOLDER

from controller_sim.topology.file import read_topology
from protocol.documents import FunctionProcess

DOCS = FOLDER.parents[1] / "docs"
PAGE = (DOCS / "function-examples.md").read_text(encoding="utf-8")


def shown(page: str, name: str) -> str:
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found, f"the page does not show {name}"
    return found[1]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir() if path.is_file()))
def test_the_pages_show_each_file(name: str) -> None:
    page = (DOCS / "functions.md").read_text(encoding="utf-8") if name == "port_filter.c" else PAGE
    assert shown(page, name) == (FOLDER / name).read_text(encoding="utf-8")


def test_every_file_that_a_command_of_the_page_names_exists() -> None:
    named = set(re.findall(r"examples/functions/[\w.]+", PAGE))
    assert named
    assert [one for one in named if not Path(FOLDER.parents[1], one).exists()] == []


def test_the_topology_has_a_function_for_each_example() -> None:
    functions = {name: one.document() for name, one in read_topology(FOLDER / "lab.yaml").functions.items()}
    assert set(functions) == {"port-filter", "mirror", "dns", "rewrite"}
    assert functions["mirror"].program.process == FunctionProcess("nobody", reasons=("source_address",))
    assert functions["port-filter"].configuration == bytes.fromhex("001701bd")
