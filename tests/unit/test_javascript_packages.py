"""What the tests take from npm is pinned to the byte, and no registry is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "javascript"
LOCK = json.loads((FOLDER / "package-lock.json").read_text())


def test_every_package_is_locked_by_its_hash_and_has_no_address() -> None:
    packages = {name: one for name, one in LOCK["packages"].items() if name}
    assert packages
    for name, one in packages.items():
        assert one["integrity"].startswith("sha512-"), name
        assert "resolved" not in one, name


def test_each_dependency_is_pinned_to_one_version() -> None:
    asked = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in asked.values())
    assert LOCK["packages"][""]["dependencies"] == asked


def test_npm_records_no_addresses_and_runs_no_scripts() -> None:
    settings = (FOLDER / ".npmrc").read_text().splitlines()
    assert {"omit-lockfile-registry-resolved=true", "ignore-scripts=true"} <= set(settings)
    assert not any(line.startswith(("registry", "@", "//")) for line in settings)
