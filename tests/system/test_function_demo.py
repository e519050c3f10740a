"""The examples of functions as their page and `droplet-lab demo functions` run them; nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator

from lab.fixtures import leftovers
from lab.function_examples import FOLDER
from lab.waiting import PATIENCE, until
from lab_command import NAME, PROGRAM, run

from controller_sim.cli.function_demo import served
from controller_sim.lab.lab import Lab
from controller_sim.talk.questions import ask, send_spoofed


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


def blocks(name: str) -> list[str]:
    """Return the page's blocks of commands, for a lab of this name, without dig, which may not be installed."""
    page = (FOLDER.parents[1] / "docs" / "function-examples.md").read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [
        "".join(line for line in block.splitlines(keepends=True) if "dig +short" not in line and "_CACHE=" not in line)
        .replace("/run/droplet-lab/lab/", f"/run/droplet-lab/{name}/")
        .replace("$PWD/.venv/bin", str(PROGRAM.parent))
        for block in found
    ]


def shell(name: str, text: str) -> subprocess.Popen[str]:
    """Start commands of the page in the repository's folder, in a session of their own."""
    return subprocess.Popen(
        ["bash", "-ec", text],
        cwd=FOLDER.parents[1],
        env={**os.environ, "DROPLET_LAB_NAME": name, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def done(name: str, text: str) -> str:
    running = shell(name, text)
    said = running.communicate(timeout=3 * PATIENCE)[0]
    assert running.returncode == 0, said
    return said


@contextlib.contextmanager
def background(name: str, text: str) -> Iterator[subprocess.Popen[str]]:
    running = shell(name, f"{text}\nwait")
    try:
        yield running
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def test_the_commands_of_the_page_do_what_it_says(lab_cache):
    name = f"{NAME}-page"
    up, configure, mirror, provoke, answer = blocks(name)
    lab = Lab(name)
    try:
        assert "port-filter" in done(name, up)
        assert ": realized" in done(name, configure)
        with background(name, mirror) as printing:
            until(lambda: "mirror" in served(lab, "h1"), "the mirror")
            send_spoofed(lab.names.endpoint("web-1"), "10.0.1.99", lab.address("web-2", 4), 80, 1)
            assert printing.stdout is not None
            assert " source_address VNI 1001: UDP 10.0.1.99 " in printing.stdout.readline()
            assert "1 packets transmitted, 0 received" in done(name, f"set +e\n{provoke}true")
            assert " source_address VNI 1001: ICMP 10.0.1.99 > 10.0.1.3" in printing.stdout.readline()
        with background(name, answer):
            until(lambda: "dns" in served(lab, "h2") and "rewrite" in served(lab, "h1"), "both processes")
            for client, wanted in (("web-2", "10.0.1.20"), ("web-1", "10.0.1.30")):
                ends = lab.address(client, 4), lab.address("dns", 4)
                assert ask(lab.names.endpoint(client), *ends, "db.shop", "A") == wanted
    finally:
        run("down", name=name)
    assert leftovers(name) == []
