"""The examples of functions in processes in docs/functions.md run as written, and its tables name what there is."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import rdpcap, wrpcap

import droplet_functions
from droplet_functions import Counters, errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "functions.md").read_text().partition("## Functions in processes")[2]


def example(name: str) -> str:
    """Return the code below a mark of the page."""
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"the page has no example {name}"
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in re.findall(r"<!-- example: (\S+) -->", PAGE):
        (tmp_path / name).write_text(example(name))
    return tmp_path


def run(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", name]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_example_runs_on_a_capture(folder: Path) -> None:
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    packets = [
        Ether() / ip / TCP(dport=23),
        Ether() / ip / UDP(sport=9, dport=53) / Raw(b"question"),
        Ether() / ip / TCP(dport=80),
        Ether(bytes(Ether() / ip / TCP())[:30]),
    ]
    wrpcap(str(folder / "in.pcap"), packets)
    done = run(folder, "try_filter.py")
    assert done.stderr == ""
    verdicts = [line.rsplit(" ", 1)[0] for line in done.stdout.splitlines()]
    assert verdicts == ["drop (reason 2)", "send to 10.0.0.53", "go on", "drop (reason 1)"]
    question, web = (Ether(bytes(one)) for one in rdpcap(str(folder / "out.pcap")))
    assert (question[IP].dst, web[IP].dst) == ("10.0.0.53", "10.0.0.2")
    expected = Ether() / IP(src="10.0.0.1", dst="10.0.0.53") / UDP(sport=9, dport=53) / Raw(b"question")
    assert bytes(question) == bytes(expected)


@pytest.mark.parametrize("name", ["filter.py", "in_asyncio.py"])
def test_without_an_agent_the_examples_say_how_to_get_sockets(folder: Path, name: str) -> None:
    done = run(folder, name)
    assert done.returncode == 1
    assert "NoAgentError: /run/droplet/functions/" in done.stderr
    assert "is droplet-agent running" in done.stderr


def test_every_error_counter_and_verdict_of_the_page_exists() -> None:
    names = set(re.findall(r"(?m)^\| `(\w+)` \|", PAGE))
    known = {field.name for field in dataclasses.fields(Counters)} | set(dir(droplet_functions)) | set(dir(errors))
    assert names <= known
    listed = set(re.findall(r"`(\w+)`", PAGE.partition("### Counters")[2].partition("### Speed")[0]))
    assert {field.name for field in dataclasses.fields(Counters)} <= listed
