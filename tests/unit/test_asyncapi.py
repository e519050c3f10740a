"""`docs/asyncapi.yaml` is what the types say, and the AsyncAPI parser finds nothing wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.core.probe.paths import Liveness, PathEventKind
from agent.datapath.attach.xdp import AttachMode
from protocol import asyncapi, rpc, status, subjects

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "asyncapi.yaml"
PARSER = ROOT / "tests" / "javascript" / "validate_asyncapi.mjs"
NODE = Path(sys.executable).parent / "node"


NEED_A_FIELD = ("get", "path", "sweep", "function_maps", "function_log")


def parsed(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the AsyncAPI project's own parser over a file."""
    return subprocess.run([NODE, PARSER, file], capture_output=True, text=True, timeout=120, check=False)


def test_the_file_is_fresh() -> None:
    """If it is stale, run `make generate`."""
    assert FILE.read_text() == asyncapi.render()


def test_the_asyncapi_parser_finds_nothing_wrong_with_the_file() -> None:
    done = parsed(FILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def dangling(described: dict[str, Any]) -> None:
    described["operations"]["config"]["messages"][0]["$ref"] = "#/channels/config/messages/Nothing"


def unknown_type(described: dict[str, Any]) -> None:
    described["components"]["schemas"]["Status"]["properties"]["host"]["type"] = "text"


def unknown_binding(described: dict[str, Any]) -> None:
    described["operations"]["rpc_get"]["bindings"]["nats"]["durable"] = "h1"


@pytest.mark.parametrize("mistake", [dangling, unknown_type, unknown_binding])
def test_the_asyncapi_parser_does_find_a_mistake(mistake: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    described = asyncapi.describe()
    mistake(described)
    file = tmp_path / "asyncapi.json"
    file.write_text(json.dumps(described))
    done = parsed(file)
    assert done.returncode == 1, done.stdout
    assert done.stdout.startswith("error ")


def test_every_verb_has_a_channel_a_reply_and_an_error() -> None:
    described = yaml.safe_load(FILE.read_text())
    assert set(rpc.METHODS) == set(subjects.RPC_VERBS)
    for verb, method in rpc.METHODS.items():
        operation = described["operations"][f"rpc_{verb}"]
        asked = [one["$ref"].rpartition("/")[2] for one in operation["messages"]]
        answered = [one["$ref"].rpartition("/")[2] for one in operation["reply"]["messages"]]
        assert answered == [method.reply.__name__, "Error"]
        assert ("EmptyRequest" in asked) is (verb not in NEED_A_FIELD)
        assert (method.request is None) or method.request.__name__ in asked


def test_every_reference_leads_to_something() -> None:
    described = asyncapi.describe()
    for reference in references(described):
        place: Any = described
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_no_schema_uses_words_that_its_dialect_does_not_know() -> None:
    text = json.dumps(asyncapi.describe()["components"]["schemas"])
    for word in ("prefixItems", "$defs", "unevaluated", "dependentRequired"):
        assert word not in text


def test_the_listed_values_are_those_that_the_agent_sends() -> None:
    assert set(rpc.PEER_STATES) == {one.value for one in Liveness}
    assert set(status.ATTACHED) == {one.value for one in AttachMode} - {"auto"} | {"none"}
    assert {one.value for one in PathEventKind} <= set(status.EVENTS)


@pytest.mark.parametrize(
    ("schema", "field", "word"),
    [
        ("GetRequest", "kind", "endpoints"),
        ("PathReply", "route", "gateway"),
        ("PathReply", "encapsulation", "vxlan"),
        ("PeerPath", "state", "unknown"),
        ("UplinkStatus", "attach_mode", "offload"),
        ("Event", "kind", "fault"),
        ("Reference", "kind", "networks"),
    ],
)
def test_a_field_with_a_few_values_lists_them(schema: str, field: str, word: str) -> None:
    assert word in asyncapi.describe()["components"]["schemas"][schema]["properties"][field]["enum"]


def test_the_listed_routes_are_those_in_the_agents_source() -> None:
    source = (ROOT / "agent" / "report" / "trace.py").read_text()
    assert all(f'"{route}"' in source for route in rpc.ROUTES)
    assert msgspec.structs.fields(rpc.PathReply)[0].name == "route"


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []
