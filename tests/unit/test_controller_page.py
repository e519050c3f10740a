"""`docs/controller.md` is held to what the code does: digests, headers, requests, methods."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nkeys
import pytest
from lab.waiting import PATIENCE

from controller_sim.control import bus, publisher
from protocol import binding, codec, digest, streams, subjects
from protocol.codec import decode_document

PAGE = (Path(__file__).parents[2] / "docs" / "controller.md").read_text()
JAVASCRIPT = Path(__file__).parents[1] / "javascript"


def block(name: str) -> dict[str, Any]:
    """Return the JSON below a mark of the page."""
    found = re.search(rf"<!-- {name} -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"the page has no {name!r}"
    value: dict[str, Any] = json.loads(found[1])
    return value


def table(name: str) -> list[list[str]]:
    """Return the rows of the table below a mark of the page."""
    lines = PAGE.partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


DIGESTS = table("digests")


def test_there_are_digests_with_and_without_a_carry() -> None:
    totals = [sum(digest.term(*one) for one in pairs(text)) for text, _ in DIGESTS]
    assert totals[0] == 0
    assert any(total >= 1 << 128 for total in totals)
    assert any(0 < total < 1 << 128 for total in totals)


def pairs(text: str) -> list[tuple[str, int]]:
    return [(name, int(revision)) for name, revision in re.findall(r"`([^`]+)` (\d+)", text)]


@pytest.mark.parametrize(("documents", "value"), DIGESTS)
def test_a_digest_of_the_page_is_the_agents(documents: str, value: str) -> None:
    total = 0
    for name, revision in pairs(documents):
        total = digest.add(total, name, revision)
    assert value == f"`{digest.text(total)}`"


def test_the_digests_of_the_page_come_out_of_the_controller_in_javascript_too() -> None:
    script = "import { digest } from './digest.mjs'; console.log(JSON.parse(process.argv[1]).map(digest).join(' '))"
    sets = [[(name, str(revision)) for name, revision in pairs(text)] for text, _ in DIGESTS]
    assert javascript(script, sets).split() == [value.strip("`") for _, value in DIGESTS]


def javascript(script: str, argument: Any) -> str:
    """Return what a script prints that runs beside the controller in JavaScript."""
    command = [Path(sys.executable).parent / "node", "--input-type=module", "--eval", script, json.dumps(argument)]
    return subprocess.run(command, capture_output=True, text=True, cwd=JAVASCRIPT, timeout=PATIENCE, check=True).stdout


@pytest.mark.parametrize("kind", ["put", "remove"])
def test_the_signatures_of_the_page_are_valid(kind: str) -> None:
    vectors = block("vectors: signatures")
    body, version = bytes.fromhex(vectors[kind]["body_hex"]), vectors["version"]
    signed = binding.signed_bytes(vectors["subject"], version, body, removes=kind == "remove")
    pair = nkeys.from_seed(bytearray(vectors["seed"].encode()))
    assert binding.signed(vectors["subject"], version, pair.public_key.decode(), pair.sign(signed)) == {
        "Droplet-Subject": vectors["subject"],
        "Droplet-Version": str(version),
        "Droplet-Publisher": vectors["publisher"],
        "Droplet-Signature": vectors[kind]["signature"],
    }


def test_the_signatures_of_the_page_come_out_of_the_controller_in_javascript_too() -> None:
    script = """
        import { Signer } from "./signing.mjs";
        const { seed, subject, version, put, remove } = JSON.parse(process.argv[1]);
        for (const [removes, { body_hex }] of [[false, put], [true, remove]]) {
          const options = { removes, version };
          const found = new Signer(Buffer.from(seed)).headers(subject, Buffer.from(body_hex, "hex"), options);
          console.log(found["Droplet-Publisher"], found["Droplet-Signature"]);
        }
    """
    vectors = block("vectors: signatures")
    assert javascript(script, vectors).splitlines() == [
        f"{vectors['publisher']} {vectors[kind]['signature']}" for kind in ("put", "remove")
    ]


def test_the_headers_of_a_removal_are_those_that_the_simulated_controller_sends() -> None:
    headers = block("headers: removal")
    assert block("headers: document") == binding.bound("droplet.v1.{host}.config.{document}")
    assert headers == {**streams.DELETE_HEADERS, "Nats-TTL": publisher.DELETE_TTL}
    assert streams.is_delete(headers, b"")


def test_the_documents_of_the_page_are_valid() -> None:
    for name, objects in {**block("documents: h1"), **block("documents: functions")}.items():
        assert subjects.is_document(name)
        assert codec.encode(decode_document(codec.encode(objects)))


@pytest.mark.parametrize(
    ("name", "stream", "subject"),
    [
        ("request: config stream", streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS),
        ("request: ack stream", streams.ACK_STREAM, streams.ACK_SUBJECTS),
    ],
)
def test_a_stream_of_the_page_is_that_of_the_simulated_controller(name: str, stream: str, subject: str) -> None:
    asked = block(name)
    assert (asked["name"], asked["subjects"]) == (stream, [subject])
    made = bus._stream(stream, subject).as_dict()
    assert {key: made[key] for key in asked if key in made} == {key: asked[key] for key in asked if key in made}


def test_every_method_is_on_the_page() -> None:
    methods = PAGE.partition("## Requests to a host")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", methods, re.MULTILINE)) == set(subjects.RPC_VERBS)
