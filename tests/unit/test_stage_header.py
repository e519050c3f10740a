"""bpf/stage.h, which users' functions include: what the agent and the programs around functions take for granted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from agent.core.model import map_layout
from agent.core.model.hooks import POINTS

HEADER = Path(__file__).resolve().parents[2] / "bpf" / "stage.h"
FUNCTION = HEADER.parent / "lib" / "function_meta.h"
FIELDS = ("start", "end", "configuration", "peer", "vni", "target", "reason", "changed")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Offsets in struct stage, its size, and the numbers of points and verdicts as a C compiler sees them."""
    folder = tmp_path_factory.mktemp("stage")
    names = [f"STAGE_{point.upper()}" for point in POINTS]
    names += ["STAGE_GO_ON", "STAGE_DROP", "STAGE_SEND_BACK", "STAGE_SEND_TO"]
    lines = [f'printf("{name} %d\\n", (int){name});' for name in names]
    lines += [f'printf("{field} %zu\\n", offsetof(struct stage, {field}));' for field in FIELDS]
    (folder / "stage.c").write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\n'
        f'int main(void) {{ {" ".join(lines)} printf("size %zu\\n", sizeof(struct stage)); return 0; }}\n'
    )
    subprocess.run(["gcc", "-Wall", "-Wno-unused-function", "-o", folder / "stage", folder / "stage.c"], check=True)
    output = subprocess.run([folder / "stage"], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in (line.split() for line in output.splitlines())}


def test_the_points_are_numbered_in_their_order_from_1(numbers: dict[str, int]) -> None:
    assert [numbers[f"STAGE_{point.upper()}"] for point in POINTS] == [1, 2, 3, 4, 5, 6]
    assert len(POINTS) == map_layout.STAGE_POINTS


def test_the_struct_is_one_that_the_kernel_reads_in_words(numbers: dict[str, int]) -> None:
    """Pointers and addresses are copied in words of 8 bytes; the random frames write `changed` by its offset."""
    assert [numbers[name] % 8 for name in ("start", "end", "configuration", "peer", "target", "size")] == [0] * 6
    assert (numbers["changed"], numbers["size"]) == (97, 104)


def test_points_and_verdicts_have_the_numbers_that_processes_know(numbers: dict[str, int]) -> None:
    text = FUNCTION.read_text()
    for name, number in numbers.items():
        if name.startswith("STAGE_"):
            assert re.search(rf"FUNCTION_(AT_)?{name.removeprefix('STAGE_')} = {number},", text), name
