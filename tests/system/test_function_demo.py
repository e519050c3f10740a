"""`droplet-lab demo functions` shows the examples of functions at work, and leaves nothing."""

from __future__ import annotations

import os
import subprocess

from lab.fixtures import leftovers
from lab.waiting import PATIENCE
from lab_command import NAME, PROGRAM, run


def started(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PROGRAM), "--name", name, "demo", "functions"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
        start_new_session=True,
    )


def end(showing: subprocess.Popen[str], name: str) -> None:
    showing.kill()
    showing.wait()
    run("down", name=name)


def test_the_demo_of_functions_shows_each_example_in_80_columns_and_leaves_nothing(lab_cache):
    name = f"{NAME}-fun"
    showing = started(name)
    try:
        said, complaints = showing.communicate(timeout=3 * PATIENCE)
        assert showing.returncode == 0, said + complaints
        assert leftovers(name) == []
    finally:
        end(showing, name)
    assert [line for line in said.splitlines() if len(line) > 80] == []
    for step in ("1. port_filter.c", "2. mirror.py", "3. dns.py", "4. rewrite.py"):
        assert f"\n{step}: " in said
    assert "\n3389  160\n" in said, "the map of the program"
    assert " source_address VNI 1001: UDP 10.0.1.99 " in said
    assert " source_address VNI 1001: UDP fd10:0:0:1::99 " in said
    rows = [line.split() for line in said.splitlines()]
    assert ["web-2", "fd10:0:0:1::53", "db.shop", "A", "10.0.1.20"] in rows
    assert ["web-1", "10.0.1.53", "db.shop", "AAAA", "fd10:0:0:1::30"] in rows
    assert ["port-filter", "h2", "to_endpoint", "480", "320", "160", "0", "0"] in rows
    assert "All checks passed. The lab is down; nothing is left." in said


def test_ctrl_c_in_the_demo_of_functions_ends_its_processes_and_leaves_nothing(lab_cache):
    name = f"{NAME}-fun"
    showing = started(name)
    try:
        assert showing.stdout is not None
        assert any("web-1 sends 5 datagrams" in line for line in showing.stdout), "the mirror runs"
        os.killpg(showing.pid, 2)
        complaints = showing.communicate(timeout=PATIENCE)[1]
        assert showing.returncode == 130
        assert "Traceback" not in complaints
        assert leftovers(name) == []
    finally:
        end(showing, name)
