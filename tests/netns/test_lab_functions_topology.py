"""Functions in a lab's topology file: published by droplet-lab with the sources beside it, and taken away again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.functions import at_port, counted, drops, function_pins, source
from lab.waiting import PATIENCE

PROGRAM = Path(sys.executable).parent / "droplet-lab"
TEXT = """\
agents: {functions: {accept: [source]}}
droplets:
  x: {address: 172.18.0.11/24}
  t: {address: 172.18.0.12/24}
vpcs:
  - {name: red, vni: 1001, cidr: "fd10::/48", dividers: [t]}
networks:
  - {name: web, vpc: red, cidr: "fd10:0:0:1::/64", bouncers: [t]}
endpoints:
  - {name: web-x, network: web, droplet: x}
  - {name: web-t, network: web, droplet: t}
"""
FUNCTIONS = """\
functions:
  - {name: filter, point: from_endpoint, vpc: red, hosts: [x], source: filter.c, configuration: "ea1c"}
"""
PORT = 0x1CEA
DROPPING, PASSING = source(at_port("return STAGE_DROP;")), source("\treturn STAGE_GO_ON;")


@pytest.fixture
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("fromfile", TEXT) as made:
        yield made


def test_droplet_lab_publishes_the_functions_of_a_topology_and_follows_their_files(lab, tmp_path):
    """A new program once the file beside it has changed; a refused one with its reason; and none without the list."""
    file, program = tmp_path / "cloud.yaml", tmp_path / "filter.c"

    def apply(text: str) -> subprocess.CompletedProcess[str]:
        file.write_text(text)
        environment = {**os.environ, "COLUMNS": "400"}
        command = [str(PROGRAM), "--name", lab.lab.name, "apply", str(file)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)

    missing = apply(TEXT + FUNCTIONS)
    assert missing.returncode == 1
    assert "functions[0].source: cannot read filter.c: No such file or directory" in missing.stderr
    program.write_text(DROPPING)
    assert apply(TEXT + FUNCTIONS).returncode == 0
    assert drops(lab, ("web-x", "web-t"), 6, PORT)
    assert counted(lab, "x", "filter").dropped == 1
    assert function_pins(lab, "t") == []
    program.write_text(PASSING)
    assert apply(TEXT + FUNCTIONS).returncode == 0
    assert not drops(lab, ("web-x", "web-t"), 6, PORT)
    program.write_text(source("\treturn stage->nothing;"))
    refused = apply(TEXT + FUNCTIONS)
    assert refused.returncode == 1
    assert "functions[0].program.source: line 6: no member named 'nothing'" in refused.stderr
    assert apply(TEXT).returncode == 0
    assert function_pins(lab, "x") == []
