"""`droplet-lab` as a user runs it: up, look, change, break, repair, down; several at once."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fixtures import topology_text
from lab.waiting import PATIENCE, until
from lab_command import NAME, PROGRAM, cleared, ok, run, write

from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_in
from controller_sim.lab.underlay import pids_in


@pytest.fixture(scope="module")
def lab(lab_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Have the lab of one bouncer up for all tests of this module."""
    with cleared(NAME):
        ok("up", write(tmp_path_factory.mktemp("one"), topology_text("one_bouncer")))
        yield NAME


def status(name: str = NAME) -> dict:
    return json.loads(ok("status", "--json", name=name))


def test_status_shows_every_host_and_all_documents_realized(lab):
    found = status()
    text = json.dumps(found)
    assert all(host in text for host in ("h1", "h2", "h3"))
    assert "in_sync" in text
    printed = ok("status")
    assert "172.18.0.11" in printed
    assert "in_sync" in printed


def test_a_command_runs_inside_an_endpoint_with_its_exit_code(lab):
    assert "10.0.1.2/24" in ok("exec", "web-1", "--", "ip", "-br", "address", "show", "eth0")
    assert " 0% packet loss" in ok("exec", "web-1", "--", "ping", "-c", "2", "-i", "0.02", "10.0.1.3")
    assert run("exec", "web-1", "--", "sh", "-c", "exit 7").returncode == 7
    assert "172.18.0.11/24" in ok("exec", "droplet:h1", "--", "ip", "-br", "address", "show", "eth0")
    refused = run("exec", "web-9", "--", "true")
    assert refused.returncode == 1
    assert "web-9" in refused.stderr
    assert "web-1" in refused.stderr, "what there is instead"
    assert "with `exec`, write droplet:h1" in run("exec", "h1", "--", "true").stderr
    assert "there is no router" in run("exec", "router", "--", "true").stderr


def test_everyone_reaches_whom_they_should(lab):
    found = json.loads(ok("test", "--json"))
    assert found["passed"]
    assert {(pair["from"], pair["to"]) for pair in found["pairs"]} == {("web-1", "web-2"), ("web-2", "web-1")}


def test_ping_and_transfer_show_round_trips_and_compare_what_arrives(lab):
    assert "3 of 3 answered" in ok("ping", "web-1", "web-2")
    said = ok("transfer", "web-1", "web-2", "--seconds", "0.5")
    assert "data intact" in said
    assert "all returned intact" in said
    refused = run("ping", "-6", "web-1", "web-2")
    assert refused.returncode == 1
    assert "web-2 has no IPv6 address, only 10.0.1.3" in refused.stderr
    assert "never leave its namespace" in run("ping", "web-1", "web-1").stderr
    assert "h1 is a host, not an endpoint" in run("ping", "h1", "web-1").stderr


def test_a_failed_transfer_is_explained_in_one_line_each(lab):
    ok("exec", "web-1", "--", "ip", "route", "add", "unreachable", "10.0.1.3/32")
    try:
        done = run("transfer", "web-1", "web-2", "-t", "0.5")
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            "TCP to 10.0.1.3: no connection: No route to host",
            "UDP of 1, 100, 1200, 1390, 2000, 8000 bytes: 0 of 6 returned intact",
        ]
        assert done.stderr == ""
    finally:
        ok("exec", "web-1", "--", "ip", "route", "delete", "unreachable", "10.0.1.3/32")


def carried(lab: str, endpoint: str) -> int:
    """Return how many bytes have left an endpoint, or come to it."""
    done = run_in(Lab(lab).names.endpoint(endpoint), ["ip", "-j", "-s", "link", "show", "eth0"])
    (link,) = json.loads(done.stdout)
    return sum(link["stats64"][way]["bytes"] for way in ("rx", "tx"))


@pytest.mark.parametrize(
    ("arguments", "wanted", "much"),
    [
        (
            ("ping", "web-1", "web-2", "-c", "60000"),
            r"^1: \d+ us$(.|\n)*^web-1 to web-2 .*: \d+ of \d+ answered$",
            10_000,
        ),
        (
            ("transfer", "web-1", "web-2", "-t", "60"),
            r"^TCP to 10.0.1.3: [1-9]\d* MB, .* data intact, .*; interrupted$",
            30_000_000,
        ),
    ],
    ids=["ping", "transfer"],
)
def test_ctrl_c_prints_what_came_so_far(lab, arguments, wanted, much):
    """It is interrupted once so many bytes have left and come to the endpoint."""
    before = carried(lab, "web-1")
    talking = subprocess.Popen(
        [str(PROGRAM), "--name", lab, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: pids_in(Lab(lab).names.endpoint("web-1")), "the sender")
        until(lambda: carried(lab, "web-1") > before + much, "traffic")
        os.killpg(talking.pid, 2)
        said, complaints = talking.communicate(timeout=PATIENCE)
        assert talking.returncode == 130
        assert re.search(wanted, said, re.MULTILINE), said
        assert complaints == ""
    finally:
        talking.kill()
        talking.wait()
    until(lambda: not pids_in(Lab(lab).names.endpoint("web-1")), "the sender's end")


def test_dropletctl_works_in_the_lab(lab):
    assert "web-1" in ok("ctl", "--", "get", "endpoints")


def test_dropletctl_finds_the_lab_by_the_settings_written_for_it(lab):
    settings = Path("/run/droplet-lab") / lab / "dropletctl.toml"
    command = [str(PROGRAM.with_name("dropletctl")), "--config", str(settings), "get", "endpoints"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "web-1" in done.stdout


def test_agents_are_killed_started_and_stopped_by_name(lab):
    assert "is killed" in ok("agent", "kill", "h1")
    unwell = run("status", name=lab)
    assert unwell.returncode == 1
    assert unwell.stdout.splitlines()[0] == "problems: the agent of h1 is stopped"
    assert "in_sync" in unwell.stdout, "the others go on"
    assert "is started: " in ok("agent", "start", "h1")
    assert "is already running: " in ok("agent", "start", "h1")
    assert "is stopped" in ok("agent", "stop", "h1")
    assert "was not running" in ok("agent", "stop", "h1")
    ok("agent", "start", "h1")
    until(lambda: run("status", name=lab).returncode == 0, "h1 in sync again")
    refused = run("agent", "stop", "h9")
    assert refused.returncode == 1
    assert "h9" in refused.stderr


def test_a_stopped_server_is_the_first_line_of_status_and_start_waits_for_the_agents(lab):
    assert "is stopped" in ok("nats", "stop")
    assert "was not running" in ok("nats", "stop")
    unwell = run("status", name=lab)
    assert unwell.returncode == 1
    assert unwell.stdout.splitlines()[0] == "problems: nats-server is stopped"
    assert max(map(len, unwell.stdout.splitlines()[1:8])) <= 100
    assert "agents that answer: 3" in ok("nats", "start")
    assert status()["reasons"] == []


def test_an_endpoint_without_its_address_is_named_and_the_others_are_tried(lab):
    ok("agent", "kill", "h2")  # it would put the address back at any moment
    ok("exec", "web-2", "--", "ip", "address", "flush", "dev", "eth0")
    try:
        done = run("test", name=lab)
        assert done.returncode == 1
        assert "web-2: 10.0.1.3 cannot be used in its namespace: Cannot assign requested address" in done.stderr
        assert "not tried" in done.stdout
    finally:
        ok("agent", "start", "h2")
        until(lambda: "10.0.1.3" in ok("exec", "web-2", "--", "ip", "address"), "the agent's repair")
    assert run("test", name=lab).returncode == 0


def test_logs_show_the_lines_of_an_agent(lab):
    assert "agent_started" in ok("logs", "h2")
    assert "Server is ready" in ok("logs", "nats")
    assert run("logs", "h9").returncode == 1


def test_a_changed_topology_is_applied_and_changed_back(lab, tmp_path):
    before = topology_text("one_bouncer")
    more = before + "  - {name: web-3, network: web, droplet: h2}\n"
    said = ok("apply", write(tmp_path, more))
    assert re.match(r"\d+ of \d+ documents published\n", said)
    assert "p99" in said
    again = run("apply", write(tmp_path, more), name=lab)
    assert again.stdout.startswith("no document differs")
    assert "p99" not in again.stdout, "nothing was published that could have taken time"
    assert "agents up" not in again.stderr
    address = ok("exec", "web-3", "--", "ip", "-br", "-4", "address", "show", "eth0").split()[2].partition("/")[0]
    assert " 0% packet loss" in ok("exec", "web-1", "--", "ping", "-c", "2", "-i", "0.02", address)
    assert ", 1 removed" in ok("apply", write(tmp_path, before))
    found = status()
    counts = {host: (one["documents"], one["realized"]) for host, one in found["report"]["hosts"].items()}
    assert counts == {host: (one["documents"]["realized"],) * 2 for host, one in found["heartbeats"].items()}
    assert run("exec", "web-3", "--", "true").returncode == 1
    assert not list(Path("/run/netns").glob(f"{lab}_endpoint_web-3"))
    assert " 0% packet loss" in ok("exec", "web-1", "--", "ping", "-c", "2", "-i", "0.02", "10.0.1.3")


def test_a_transfer_to_an_endpoint_of_another_vpc_is_refused_though_its_address_answers(lab, tmp_path):
    before = topology_text("one_bouncer")
    twins = before.replace("networks:", "  - {name: blue, vni: 2002, cidr: 10.0.0.0/16}\nnetworks:").replace(
        "endpoints:", "  - {name: shop, vpc: blue, cidr: 10.0.1.0/24}\nendpoints:"
    )
    ok("apply", write(tmp_path, twins + "  - {name: shop-1, network: shop, droplet: h2, address: 10.0.1.3}\n"))
    try:
        for command in ("ping", "transfer"):
            refused = run(command, "web-1", "shop-1")
            assert refused.returncode == 1
            assert refused.stdout == ""
            assert refused.stderr == (
                "Error: web-1 is in VPC red and shop-1 in VPC blue: VPCs are isolated from each other; "
                "in red, 10.0.1.3 is web-2's\n"
            )
    finally:
        ok("apply", write(tmp_path, before))


def test_a_topology_with_other_droplets_is_not_applied(lab, tmp_path):
    refused = run("apply", write(tmp_path, topology_text("two_bouncers")))
    assert refused.returncode == 1
    assert "droplets" in refused.stderr
    assert " 0% packet loss" in ok("exec", "web-1", "--", "ping", "-c", "2", "-i", "0.02", "10.0.1.3")


def test_a_lab_that_is_up_is_not_built_again_and_not_harmed(lab, tmp_path):
    refused = run("up", write(tmp_path, topology_text("one_bouncer")))
    assert refused.returncode == 1
    assert "already" in refused.stderr
    assert " 0% packet loss" in ok("exec", "web-1", "--", "ping", "-c", "2", "-i", "0.02", "10.0.1.3")


def test_a_second_lab_with_the_same_addresses_comes_and_goes_without_a_packet_lost_in_the_first(lab, tmp_path):
    other = f"{NAME}-2"
    pinging = subprocess.Popen(
        [str(PROGRAM), "--name", lab, "exec", "web-1", "--", "ping", "-n", "-i", "0.01", "10.0.1.3"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert pinging.stdout is not None
        pinging.stdout.readline()
        first = pinging.stdout.readline()
        with cleared(other):
            ok("up", write(tmp_path, topology_text("bouncer_on_host")), name=other)
            assert {lab, other} <= set(ok("list").split())
            assert " 0% packet loss" in ok("exec", "web-1", "--", "ping", "-c", "2", "10.0.1.3", name=other)
        pinging.send_signal(2)
        replies = first + pinging.stdout.read()
        numbers = [int(line.split("icmp_seq=")[1].split()[0]) for line in replies.splitlines() if "bytes from" in line]
        missing = set(range(1, numbers[-1] + 1)) - set(numbers)
        assert not missing, (missing, [ok("ctl", "--", "counters", host) for host in ("h1", "h2", "h3")])
        assert len(numbers) > 100
    finally:
        pinging.kill()
        pinging.wait()
        pinging.stdout.close()
    assert ok("list").split().count(lab) == 1
