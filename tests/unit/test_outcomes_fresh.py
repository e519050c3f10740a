"""The Python copy of the outcomes is the one that the C header generates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agent.datapath.bpf.outcomes import ANSWERED, DROPPED, FORWARDED, PASSED, RECEIVED, SENTENCES, Outcome

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_module_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_outcomes.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_outcome_is_of_one_kind_and_has_a_sentence() -> None:
    kinds = [RECEIVED, PASSED, ANSWERED, FORWARDED, DROPPED]
    assert sum(map(len, kinds)) == len(Outcome)
    assert frozenset().union(*kinds) == set(Outcome) == set(SENTENCES)
    assert all(sentence.endswith(".") for sentence in SENTENCES.values())


def test_the_numbers_are_those_of_the_c_compiler(tmp_path: Path) -> None:
    """The header's own enum, printed by a compiler, for the generator reads it by patterns."""
    source = tmp_path / "outcomes.c"
    lines = " ".join(f'printf("{outcome.name} %d\\n", {outcome.name});' for outcome in Outcome)
    header = ROOT / "bpf" / "outcomes.h"
    source.write_text(
        f'#include <stdio.h>\n#include "{header}"\n'
        f'int main(void) {{ {lines} printf("COUNT %d\\n", OUTCOME_COUNT); return 0; }}\n'
    )
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", tmp_path / "outcomes", source], check=True)
    output = subprocess.run([tmp_path / "outcomes"], check=True, capture_output=True, text=True).stdout
    found = {name: int(number) for name, number in (line.split() for line in output.splitlines())}
    assert found.pop("COUNT") == len(Outcome)
    assert found == {outcome.name: outcome.value for outcome in Outcome}
