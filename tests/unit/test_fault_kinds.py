"""The operator's guide lists every kind of fault that the agent can report, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.config import refused_messages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("\n## Faults\n") : PAGE.index("\n## Trouble\n")]
LISTED = set(re.findall(r"^\| `([a-z_]+)` \|", TABLE, flags=re.MULTILINE))
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "agent").rglob("*.py")))


def test_every_kind_of_fault_that_is_reported_is_listed_with_what_to_do() -> None:
    reported = set(re.findall(r'\bFault\(\s*(?:kind=)?"([a-z_]+)"', SOURCES)) | set(refused_messages.KINDS.values())
    assert len(reported) > 20, "the sources were read"
    assert reported - {"more"} <= LISTED


def test_every_listed_kind_is_in_the_sources() -> None:
    assert {kind for kind in LISTED if f'"{kind}"' not in SOURCES} == set()
