"""Tests of all suites can run in one call of pytest."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]
OUTSIDE_PACKAGES = [path for path in TESTS.rglob("*.py") if not (path.parent / "__init__.py").exists()]


def test_no_two_modules_have_one_name() -> None:
    """pytest imports a module that is in no package by its file name alone, conftest.py aside."""
    paths = defaultdict(list)
    for path in OUTSIDE_PACKAGES:
        if path.name != "conftest.py" and "node_modules" not in path.parts:
            paths[path.name].append(str(path.parent.relative_to(TESTS)))
    assert {name: folders for name, folders in paths.items() if len(folders) > 1} == {}
