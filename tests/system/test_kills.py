"""Crashes and restarts of agents and of the nats-server: no packet is lost, and no correct object is recreated."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.balance import check_balance
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import pings, unbroken_flow
from lab.waiting import PATIENCE, until

from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.namespaces import entered, run_in
from protocol import codec, subjects
from protocol.acknowledgements import State
from protocol.documents import Document, Endpoint
from protocol.status import AgentState, Status

NOT_ATTACHED = ("kernel_layouts", "watched", "failures", "icmp_ratelimit")


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("kills", topology_text("one_bouncer")) as lab:
        yield lab


@contextlib.contextmanager
def nothing_made_anew(lab: SystemLab, host: str) -> Iterator[None]:
    """Hold that no link of a host is made, removed or changed during a block, and that maps and programs stay."""
    before = lab.made(host)
    entries = {name: lab.entries(host, name) for name in ("endpoints", "interfaces", "droplets", "next_hops")}
    watch = subprocess.Popen(
        entered(lab.names.droplet(host), ["ip", "monitor", "link"]), stdout=subprocess.PIPE, text=True
    )
    assert watch.stdout is not None
    try:
        yield
        assert lab.made(host) == before
        assert {name: lab.entries(host, name) for name in entries} == entries
        assert not select.select([watch.stdout], [], [], 0)[0], watch.stdout.readline()
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()


@pytest.mark.parametrize("host", ["h1", "h3"], ids=["of a talking endpoint", "of the bouncer"])
def test_killing_and_restarting_the_agent_loses_no_packet_and_recreates_nothing(lab, host):
    revision = lab.status(host).revision
    boot = lab.status(host).boot
    with unbroken_flow(lab, "web-1", "web-2") as flow, nothing_made_anew(lab, host):
        lab.kill_agent(host)
        gone = flow.sent
        until(lambda: len(flow.back) > gone + 100, "packets without an agent")
        status = lab.restart_agent(host)
        again = flow.sent
        until(lambda: len(flow.back) > again, "packets after the start")
    assert (status.state, status.revision, status.repairs) == (AgentState.IN_SYNC, revision, 0)
    assert status.boot != boot


def test_another_instances_program_is_named_and_a_running_agent_is_never_to_be_cut_off(lab, tmp_path):
    """A second agent is to use h1's interface: it is refused, whether h1's agent runs or not."""
    text, own = lab.lab.paths.settings("h1").read_text(), lab.lab.paths.instance("h1")
    settings = tmp_path / "agent.toml"
    text = text.replace(f'instance = "{own}"', f'instance = "{own}-b"').replace('state = "', f'state = "{tmp_path}')
    settings.write_text(text)
    command = [str(Path(sys.executable).parent / "droplet-agent"), "--config", str(settings), "--check"]

    def check() -> str:
        return run_in(lab.names.droplet("h1"), command).stdout

    found = check()
    assert f"missing xdp: the droplet instance {own}'s XDP program" in found
    assert f"the agent of instance {own} is running (process {lab.pid('h1')}, droplet-agent)" in found
    lab.kill_agent("h1")
    left = check()
    assert f"the droplet instance {own}'s XDP program" in left
    assert "droplet-agent --uninstall" in left
    lab.restart_agent("h1")
    assert "ip link set" not in found + left


@pytest.mark.parametrize("lost", ["", "maps", "programs"], ids=["all pins", "the maps' pins", "the programs' pins"])
def test_an_agent_that_starts_without_its_pins_takes_over_what_runs_and_loses_no_packet(lab, lost):
    """As in a container whose bpf file system went with it: programs and maps are found by the interfaces."""
    before = made_and_attached(lab)
    with unbroken_flow(lab, "web-1", "web-2") as flow:
        lab.kill_agent("h1")
        shutil.rmtree(lab.pins("h1") / lost)
        lab.restart_agent("h1")
        again = flow.sent
        until(lambda: len(flow.back) > again, "packets after the start")
    assert made_and_attached(lab) == before
    assert lab.plan("h1") == ()


def made_and_attached(lab: SystemLab) -> dict[str, object]:
    """Return what h1's agent made, without maps of programs that are attached to no interface: only pins keep those."""
    made = lab.made("h1")
    kept = {name: id_ for name, id_ in made["maps"].items() if name not in NOT_ATTACHED}
    return made | {"maps": kept}


def test_a_new_conversation_begins_while_every_agent_is_dead(lab):
    """Also the bouncer's: what is in the kernel needs no agent."""
    for host in lab.hosts:
        lab.kill_agent(host)
    try:
        assert pings(lab, "web-1", "web-2")
        assert pings(lab, "web-2", "web-1")
    finally:
        for host in lab.hosts:
            lab.lab.start_agent(host)
    for host in lab.hosts:
        lab.wait_in_sync(host)


def agent_as_child(lab: SystemLab, host: str) -> subprocess.Popen[bytes]:
    """Start a host's agent as this process's child, so that its exit code can be seen."""
    command = [str(Path(sys.executable).parent / "droplet-agent"), "--config", str(lab.lab.paths.settings(host))]
    with lab.lab.paths.log(host).open("ab") as log:
        return subprocess.Popen(entered(lab.names.droplet(host), command), stdout=log, stderr=log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_is_announced_and_leaves_traffic_flowing(lab, number):
    lab.lab.stop_agent("h1")
    child = agent_as_child(lab, "h1")
    try:
        lab.wait_in_sync("h1")
        with (
            unbroken_flow(lab, "web-1", "web-2") as flow,
            nothing_made_anew(lab, "h1"),
            lab.listening(subjects.status("h1")) as heard,
        ):
            child.send_signal(number)
            assert child.wait(PATIENCE) == 0
            gone = flow.sent
            until(lambda: len(flow.back) > gone + 50, "packets without an agent")
            until(lambda: heard and codec.decode(heard[-1].data, Status).state is AgentState.STOPPING, "the goodbye")
            lab.restart_agent("h1")
    finally:
        child.kill()
        child.wait()
        lab.lab.start_agent("h1")


def test_a_stop_signal_at_any_moment_of_the_start_is_obeyed(lab):
    """Most of all while the agent connects: a cancellation must not get lost there."""
    lab.lab.stop_agent("h1")
    log = lab.lab.paths.log("h1")
    try:
        for word in ("", "restored", "agent_started", "agent_started", "agent_started", "connected", "snapshot_began"):
            said = len(log.read_text())
            child = agent_as_child(lab, "h1")
            try:
                until(lambda said=said, word=word: word in log.read_text()[said:], word)
                child.send_signal(signal.SIGTERM)
                assert child.wait(PATIENCE) in ((0, -signal.SIGTERM) if word == "" else (0,))
            finally:
                child.kill()
                child.wait()
    finally:
        lab.restart_agent("h1")


def test_agents_that_are_killed_again_and_again_while_they_start_come_to_the_same(lab):
    before = lab.made("h1")
    with unbroken_flow(lab, "web-1", "web-2") as flow:
        lab.kill_agent("h1")
        for packets in (20, 60, 100, 140):  # from a tenth of a second after the start on
            lab.lab.start_agent("h1")
            began = flow.sent
            until(lambda began=began, packets=packets: flow.sent > began + packets, "a moment")
            os.kill(lab.pid("h1"), signal.SIGKILL)
            until(lambda: not lab.lab.agent_runs("h1"), "the end")
        lab.restart_agent("h1")
    assert lab.made("h1") == before
    assert lab.plan("h1") == ()


def test_what_was_published_while_the_agent_was_dead_is_realized_when_it_starts(lab):
    lab.kill_agent("h3")
    new = Document(endpoints=(Endpoint("far", "web", "h1", ("10.0.1.70",), "02:00:00:00:00:70"),))
    revision = lab.publish("h3", "far", codec.encode(new))
    lab.restart_agent("h3")
    lab.answer("h3", "far", revision, State.REALIZED)
    lab.kill_agent("h3")
    revision = lab.publish("h3", "far", None)
    lab.restart_agent("h3")
    assert lab.answer("h3", "far", revision, State.REALIZED).removed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_agents_come_back_to_a_restarted_server_and_realize_new_documents(lab, number):
    new = Document(endpoints=(Endpoint("far", "web", "h1", ("10.0.1.71",), "02:00:00:00:00:71"),))
    boots = {host: lab.status(host).boot for host in lab.hosts}
    with unbroken_flow(lab, "web-1", "web-2"), nothing_made_anew(lab, "h1"):
        lab.lab.stop_server(number)
        lab.lab.start_server()
        revision = lab.publish("h3", "far", codec.encode(new))
        lab.answer("h3", "far", revision, State.REALIZED)
        assert {host: lab.wait_in_sync(host).boot for host in lab.hosts} == boots, "the same agents"
        assert lab.answer("h3", "far", lab.publish("h3", "far", None), State.REALIZED).removed


def test_an_agent_that_starts_without_a_server_goes_by_what_it_kept(lab):
    with lab.counting_anew():
        lab.kill_agent("h1")
        lab.lab.stop_server()
        # What a reboot leaves: nothing in the kernel, and the documents on disk.
        lab.ip(lab.names.droplet("h1"), "link", "set", "dev", "eth0", "xdp", "off")
        lab.ip(lab.inside("web-1"), "link", "delete", "eth0")
        for pin in [*(lab.pins("h1") / "maps").iterdir(), *(lab.pins("h1") / "programs").glob("*/*")]:
            pin.unlink()
        lab.lab.start_agent("h1")
        try:
            until(lambda: pings(lab, "web-1", "web-2"), "forwarding without a bus")
            assert pings(lab, "web-2", "web-1")
        finally:
            lab.lab.start_server()
        lab.wait_in_sync("h1")
    assert lab.plan("h1") == ()


def test_agents_may_start_before_the_server_and_before_there_is_a_stream(lab_cache):
    early = SystemLab("early", topology_text("bouncer_on_host"))
    early.build()
    try:
        early.lab.stop_server()
        early.lab.start_agent("h1")
        log = early.lab.paths.log("h1")
        until(lambda: "bus" in log.read_text(), "a word about the missing server")
        early.lab.start_server()
        early.lab.start_agent("h2")
        until(lambda: "agent_started" in early.lab.paths.log("h2").read_text(), "the second agent")
        assert all(early.lab.agent_runs(host) for host in early.hosts)
        prepare(early.lab)
        assert converge(early.lab, timeout=PATIENCE).converged
        for host in early.hosts:
            assert early.wait_in_sync(host).documents.rejected == 0
        assert pings(early, "web-1", "web-2")
        check_balance(early.lab)
    except BaseException:
        early.print_logs()
        raise
    finally:
        early.down()
