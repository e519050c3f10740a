"""`docs/asyncapi.yaml` is what the types say, and every reference in it leads somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from protocol import asyncapi, subjects

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"


def test_the_file_is_fresh() -> None:
    """Write it anew with `python -m protocol.asyncapi > docs/asyncapi.yaml`."""
    assert FILE.read_text() == asyncapi.render()


def test_the_file_is_yaml_with_one_channel_per_question() -> None:
    described = yaml.safe_load(FILE.read_text())
    assert described == json.loads(asyncapi.render())
    assert {f"rpc_{verb}" for verb in subjects.RPC_VERBS} <= described["channels"].keys()


def test_every_reference_leads_to_something() -> None:
    described = asyncapi.describe()
    for reference in references(described):
        place: Any = described
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []
