"""`droplet-lab` where it cannot do what it is asked: it says why in plain words, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fixtures import leftovers, topology_text
from lab.waiting import PATIENCE, until
from lab_command import NAME, PROGRAM, ok, run, write
from lifecycle_fixtures import held_back


def refusal(*arguments: str, name: str, **environment: str) -> str:
    """Run an `up` that must fail, hold that nothing of it is left, and return what it says."""
    done = run("up", *arguments, name=name, **environment)
    try:
        assert done.returncode == 1, done.stdout + done.stderr
        assert leftovers(name) == []
    finally:
        run("down", name=name)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_mistakes_in_a_topology_name_line_and_field_and_build_nothing(tmp_path):
    text = topology_text("one_bouncer").replace("vni: 1001", "vni: 99999999").replace("droplet: h2", "droplet: h7")
    file = write(tmp_path, text)
    said = refusal(file, name=f"{NAME}-bad")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "99999999" in line or "h7" in line]
    assert len(lines) == 2
    for number in lines:
        assert f":{number}" in said or f"line {number}" in said, said
    assert "vni" in said
    assert "h7" in said


def test_an_agent_that_cannot_start_ends_the_lab_and_shows_its_log(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    said = refusal(
        write(tmp_path, topology_text("one_bouncer")), name=f"{NAME}-no", DROPLET_LAB_CACHE=str(occupied / "cache")
    )
    assert "agent of h" in said
    assert str(occupied) in said


def test_up_with_rejected_documents_ends_at_once_with_the_reason(tmp_path, lab_cache):
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/sh\nDROPLET_DATA_PLANE_FAMILIES=ipv4 exec {PROGRAM.with_name("droplet-agent")} "$@"\n')
    agent.chmod(0o755)
    text = topology_text("ipv6_underlay")
    patient = ("--timeout", "3600")  # and `run` waits for two minutes
    said = refusal(write(tmp_path, text), *patient, name=f"{NAME}-rej", DROPLET_LAB_AGENT=str(agent))
    assert "not everything was realized:" in said
    assert "rejected: " in said
    assert "data_plane.families" in said
    assert re.search(r"nats-server \[fd18::\d+\]:4222", said), "an address of IPv6 with its port"


def test_documents_that_are_not_realized_in_time_end_the_lab_with_a_message(tmp_path, lab_cache):
    said = refusal(write(tmp_path, topology_text("one_bouncer")), "--timeout", "0.01", name=f"{NAME}-late")
    assert "not everything was realized" in said


def test_an_interrupted_up_leaves_nothing(tmp_path, lab_cache):
    name = f"{NAME}-int"
    starting = subprocess.Popen(
        [str(PROGRAM), "--name", name, "up", write(tmp_path, topology_text("one_bouncer"))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=held_back(tmp_path, "h3"),
    )
    try:
        until(lambda: (Path("/run/droplet-lab") / name / "logs" / "h1.log").exists(), "the first agent")
        starting.send_signal(2)
        assert starting.stderr is not None
        said = ""
        while "interrupted: taking the lab down" not in said:
            line = starting.stderr.readline()
            assert line, said
            said += line
        starting.send_signal(2)
        starting.communicate(timeout=PATIENCE)
        assert starting.returncode == 130
        assert leftovers(name) == []
    finally:
        starting.kill()
        starting.wait()
        run("down", name=name)


def test_ctrl_c_in_a_transfer_of_the_demo_ends_it_quietly_and_leaves_nothing(lab_cache):
    name = f"{NAME}-demo"
    showing = subprocess.Popen(
        [str(PROGRAM), "--name", name, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        assert showing.stdout is not None
        assert any("TCP, one stream" in line for line in showing.stdout), "the demo came that far"
        os.killpg(showing.pid, 2)
        said = showing.communicate(timeout=PATIENCE)[1]
        assert showing.returncode == 130
        assert "interrupted: taking the lab down" in said
        assert "Traceback" not in said
        assert leftovers(name) == []
    finally:
        showing.kill()
        showing.wait()
        run("down", name=name)


@contextlib.contextmanager
def foreign(*names: str) -> Iterator[None]:
    """Have network namespaces that no lab created, and hold that they are still there at the end."""
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield
        assert [name for name in names if not (Path("/run/netns") / name).exists()] == []
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def test_down_removes_no_namespace_that_the_lab_did_not_create(tmp_path, lab_cache):
    name = f"{NAME}-own"
    with foreign(f"{name}_mine", f"{name}_endpoint_mine"):
        assert ok("down", name=name) == f"there is no lab {name}\n"
        ok("up", write(tmp_path, topology_text("one_bouncer")), name=name)
        ok("down", name=name)
        assert sorted(leftovers(name)) == [f"namespace {name}_endpoint_mine", f"namespace {name}_mine"]


def test_a_lab_needs_namespaces_that_nobody_else_has(tmp_path):
    name = f"{NAME}-two"
    with foreign(f"{name}_fabric"):
        done = run("up", write(tmp_path, topology_text("one_bouncer")), name=name)
        assert done.returncode == 1
        assert f"`ip netns delete {name}_fabric`" in done.stderr
        assert leftovers(name) == [f"namespace {name}_fabric"]


def test_a_lab_whose_up_was_killed_half_way_can_be_removed(tmp_path, lab_cache):
    name = f"{NAME}-kill"
    starting = subprocess.Popen(
        [str(PROGRAM), "--name", name, "up", write(tmp_path, topology_text("one_bouncer"))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (Path("/run/netns") / f"{name}_fabric").exists(), "the first namespace")
        starting.kill()
        starting.wait()
        assert leftovers(name)
        assert ok("down", name=name) == f"lab {name} is down; everything is removed\n"
        assert leftovers(name) == []
    finally:
        starting.kill()
        starting.wait()
        run("down", name=name)


@pytest.mark.parametrize("name", ["UPPER", "a_b", "x" * 21, ""])
def test_a_name_that_cannot_be_a_labs_is_refused(name, tmp_path):
    done = run("up", write(tmp_path, topology_text("one_bouncer")), name=name)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_commands_for_a_lab_that_is_not_there_say_so():
    for arguments in (["status"], ["exec", "a", "--", "true"], ["agent", "stop", "h1"], ["logs", "h1"], ["test"]):
        done = run(*arguments, name="nothing-here")
        assert done.returncode == 1
        assert "no lab" in done.stderr
    ok("down", name="nothing-here")
