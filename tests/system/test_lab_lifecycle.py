"""The lab's life: up, changed, hurt and down, with real agents and a real nats-server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from lab.echoes import answered, unbroken
from lab.fixtures import topology_text
from lab.waiting import PATIENCE, until
from lifecycle_fixtures import apply, held_back, leftovers, living_lab
from msgspec.msgpack import encode as packed
from nats.aio.client import Client

from controller_sim.control.bus import connected
from controller_sim.control.publisher import Change, publish
from controller_sim.lab.controller import converge, read_status
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in, run_in
from controller_sim.lab.state import LabError
from controller_sim.talk.reachability import check_all
from controller_sim.topology.file import TopologyError
from protocol.status import AgentState

PROGRAM = str(Path(sys.executable).parent / "droplet-lab")
NAME = f"t{os.getpid()}"


def run(*arguments: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, "--name", name, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def lab():
    with living_lab(topology_text("bouncer_on_host"), f"{NAME}-m") as running:
        yield running


def ifindex_of(lab: Lab, endpoint: str) -> str:
    return (
        run_in(lab.names.endpoint(endpoint), ["cat", "/proc/net/dev"]).stdout
        + run_in(lab.names.endpoint(endpoint), ["ip", "-o", "link", "show", "eth0"]).stdout.partition(":")[0]
    )


def test_status_shows_every_host_in_sync(lab):
    found = read_status(lab)
    assert found.report.converged
    assert found.agents == {"h1": True, "h2": True}
    in_sync = [AgentState.IN_SYNC] * 2
    # Degraded until the kernel has resolved each other's addresses.
    until(lambda: [status and status.state for status in read_status(lab).heartbeats.values()] == in_sync)


def test_status_as_json_is_for_programs(lab):
    data = json.loads(run("status", "--json", name=lab.name).stdout)
    assert data["report"]["converged"] is True
    assert data["heartbeats"]["h1"]["uplinks"][0]["addresses"] == ["172.18.0.11"]


def test_exec_runs_in_the_endpoints_namespace_and_returns_the_commands_exit_code(lab):
    done = run("exec", "web-1", "--", "ping", "-c", "2", "-W", "2", lab.address("web-2"), name=lab.name)
    assert "2 received" in done.stdout
    assert run("exec", "web-1", "--", "sh", "-c", "exit 7", name=lab.name).returncode == 7
    refused = run("exec", "web-9", "--", "true", name=lab.name)
    assert refused.returncode == 1
    assert "web-1, web-2" in refused.stderr


def test_logs_shows_the_agents_log_and_names_what_it_knows(lab):
    assert "snapshot_applied" in run("logs", "h1", name=lab.name).stdout
    assert "h1, h2 and nats" in run("logs", "h9", name=lab.name).stderr


def test_ctl_asks_the_hosts(lab):
    done = run("ctl", "--", "get", "endpoints", "-o", "json", name=lab.name)
    assert done.returncode == 0, done.stderr
    assert "web-1" in done.stdout


def test_a_killed_agent_loses_no_packet_and_comes_back_in_sync(lab):
    before = ifindex_of(lab, "web-1").splitlines()[-1]
    with unbroken(lab.names.endpoint("web-1"), lab.address("web-2")):
        lab.stop_agent("h1", signal.SIGKILL)
        assert not lab.agent_runs("h1")
        lab.start_agent("h1")
        assert converge(lab, agents_first=True).converged
    assert ifindex_of(lab, "web-1").splitlines()[-1] == before


def test_a_stopped_agent_ends_by_itself_and_traffic_goes_on(lab):
    assert lab.stop_agent("h2")
    assert answered(lab.names.endpoint("web-1"), lab.address("web-2"), 5, 5) == 5
    assert read_status(lab).heartbeats["h2"] is None
    lab.start_agent("h2")
    assert converge(lab, agents_first=True).converged


def test_a_killed_server_comes_back_and_new_documents_are_realized(lab):
    lab.stop_server(signal.SIGKILL)
    found = read_status(lab)
    assert found.agents == {"h1": True, "h2": True}
    assert found.reasons == ["nats-server is stopped"]
    assert not found.report.converged
    assert answered(lab.names.endpoint("web-1"), lab.address("web-2"), 3, 5) == 3
    lab.start_server()
    more = topology_text("bouncer_on_host") + "  - {name: web-3, network: web, droplet: h2}\n"
    assert apply(lab, more).converged
    assert answered(lab.names.endpoint("web-1"), lab.address("web-3"), 3, 5) >= 2
    assert apply(lab, topology_text("bouncer_on_host")).converged
    assert not any("web-3" in namespace for namespace in lab.names.existing())


ODD = (
    ("h1", "Endpoint.X", b"\x80"),
    ("H1", "web", b"\x80"),
    ("h1", "broken", b"\xc1\xff"),
    ("h1", "endpoint.odd", packed({"endpoints": [{"id": "odd", "addresses": ["10.0.1.7", "10.0.1.8", "10.0.1.9"]}]})),
)
"""Messages that any client with the permission may store: two name no document, two have no readable body."""


def test_messages_that_cannot_be_read_are_named_by_status_and_removed_by_apply(lab):
    def from_client(work: Callable[[Client], Coroutine[None, None, None]]) -> None:
        async def connect_and_work() -> None:
            async with connected(access) as client:
                await work(client)

        access = lab.access()
        run_coroutine_in(lab.names.fabric, connect_and_work)

    async def store(client: Client) -> None:
        await publish(client, [Change(*one) for one in ODD])

    async def remove_one(client: Client) -> None:
        await publish(client, [Change("h1", "Endpoint.X", None)])

    def faults() -> list[str]:
        heartbeat = read_status(lab).heartbeats["h1"]
        return [f"{fault.kind} {fault.subject}" for fault in heartbeat.faults] if heartbeat is not None else ["?"]

    moved = topology_text("bouncer_on_host").replace("network: web, droplet: h2", "network: web, droplet: h1")
    from_client(store)
    until(lambda: "refused_subject droplet.v1.h1.config.Endpoint.X" in faults())
    until(lambda: "h1 broken: rejected" in " ".join(read_status(lab).report.problems))
    shown = run("status", name=lab.name)
    assert shown.returncode == 1
    assert shown.stderr == ""
    said = " ".join(shown.stdout.split())
    assert "droplet.v1.h1.config.Endpoint.X, sequence " in said
    assert "no document of host h1 can be named 'Endpoint.X'; `droplet-lab apply` removes it" in said
    assert "no host can be named 'H1'" in said
    assert "h1 endpoint.odd: rejected: " in said
    try:
        assert apply(lab, moved).converged
        until(lambda: faults() == [])
        assert read_status(lab).strays == ()
        from_client(remove_one)
        assert read_status(lab).report.converged, "a removal on that subject is no document either"
    finally:
        assert apply(lab, topology_text("bouncer_on_host")).converged


def test_an_endpoint_moves_to_another_droplet_and_keeps_its_address(lab):
    address = lab.address("web-2")
    moved = topology_text("bouncer_on_host").replace(
        "{name: web-2, network: web, droplet: h2}", "{name: web-2, network: web, droplet: h1}"
    )
    assert apply(lab, moved).converged
    assert lab.address("web-2") == address
    assert check_all(lab).passed
    assert apply(lab, topology_text("bouncer_on_host")).converged
    assert check_all(lab).passed


def test_a_network_gets_another_bouncer_and_everyone_still_talks(lab):
    assert apply(lab, topology_text("bouncer_on_host").replace("bouncers: [h1]", "bouncers: [h2]")).converged
    assert check_all(lab).passed
    assert apply(lab, topology_text("bouncer_on_host")).converged


def revisions(lab: Lab) -> dict[str, int]:
    """Return the newest revision that each host has; one that takes its time is asked again."""

    def answered() -> dict[str, int] | None:
        found = read_status(lab).heartbeats
        return {host: status.revision for host, status in found.items() if status} if all(found.values()) else None

    return until(answered, "an answer of every host") or {}


def test_applying_the_same_topology_publishes_nothing(lab):
    before = revisions(lab)
    assert apply(lab, topology_text("bouncer_on_host")).converged
    assert revisions(lab) == before


def test_a_change_of_droplets_is_refused_and_changes_nothing(lab):
    more = topology_text("bouncer_on_host").replace("vpcs:", "  h9: {address: 172.18.0.19/24}\nvpcs:")
    with pytest.raises(LabError, match="droplets"):
        lab.adopt(more)
    assert set(lab.topology().droplets) == {"h1", "h2"}


def test_two_labs_with_the_same_addresses_do_not_disturb_each_other(lab):
    with living_lab(topology_text("bouncer_on_host"), f"{NAME}-n") as other:
        assert check_all(other).passed
        assert check_all(lab).passed
    assert check_all(lab).passed


def test_up_refuses_a_name_that_is_in_use(lab):
    with pytest.raises(LabError, match="exists already"):
        Lab(lab.name).up(topology_text("bouncer_on_host"))
    assert read_status(lab).report.converged


def test_an_invalid_topology_creates_nothing_and_names_the_line(tmp_path):
    file = tmp_path / "cloud.yaml"
    file.write_text(topology_text("bouncer_on_host").replace("vni: 1001", "vni: 0"))
    done = run("up", str(file))
    assert done.returncode == 1
    assert "vpcs[0].vni" in done.stderr
    assert leftovers(Lab(NAME)) == []
    with pytest.raises(TopologyError):
        Lab(NAME).up(file.read_text())


def test_up_with_a_failing_agent_cleans_up_with_a_reason(tmp_path):
    file = tmp_path / "cloud.yaml"
    file.write_text(topology_text("bouncer_on_host"))
    agent = tmp_path / "droplet-agent"
    agent.write_text("#!/bin/sh\necho this host is not fit >&2\nexit 3\n")
    agent.chmod(0o755)
    done = subprocess.run(
        [PROGRAM, "--name", NAME, "up", str(file)],
        env={**os.environ, "DROPLET_LAB_AGENT": str(agent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "this host is not fit" in done.stderr
    assert leftovers(Lab(NAME)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(tmp_path, number):
    file = tmp_path / "cloud.yaml"
    file.write_text(topology_text("bouncer_on_host"))
    command = [PROGRAM, "--name", NAME, "up", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=held_back(tmp_path, "h2"))
    try:
        until(Lab(NAME).paths.log("h1").exists, "the first agent")
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == (130 if number == signal.SIGINT else 143)
        assert leftovers(Lab(NAME)) == []
    finally:
        process.kill()
        process.communicate()
        run("down")


def test_down_of_no_lab_is_no_error_and_other_commands_say_how_to_start_one():
    assert run("down").returncode == 0
    done = run("status")
    assert done.returncode == 1
    assert f"`droplet-lab --name {NAME} up TOPOLOGY.yaml`" in done.stderr
