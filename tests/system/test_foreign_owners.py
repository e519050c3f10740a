"""A whole agent beside programs of other owners and other agents: what it says, and what it leaves alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import pings
from lab.waiting import until
from test_agent_command import FAILURE, OK, REFUSED, run

from agent.datapath.bpf import syscall as bpf
from agent.datapath.check.interfaces import SMALLEST_PROGRAM
from protocol.acknowledgements import State
from protocol.status import AgentState

HOST, ENDPOINT = "h1", "web-1"


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    lossy = "a stranger's program hands tunnel packets to the host, and endpoints' interfaces are removed"
    with running_lab("foreign", topology_text("bouncer_on_host"), lossy=lossy) as lab:
        yield lab


@contextmanager
def replaced(lab: SystemLab, interface: str) -> Iterator[int]:
    """Have a pinned program of another owner, which no process holds open, instead of what runs on an interface."""
    pin = Path(f"/sys/fs/bpf/theirs-{os.getpid()}")
    descriptor = bpf.load_program(SMALLEST_PROGRAM, name="theirs")
    number = bpf.program_info(descriptor).id
    try:
        try:
            bpf.pin(descriptor, pin)
        finally:
            os.close(descriptor)
        lab.ip(lab.names.droplet(HOST), "-force", "link", "set", "dev", interface, "xdpdrv", "pinned", str(pin))
        yield number
    finally:
        pin.unlink(missing_ok=True)
        if lab.host_links(HOST).get(interface, (0, 0, 0, 0))[3] == number:
            lab.ip(lab.names.droplet(HOST), "link", "set", "dev", interface, "xdpdrv", "off")


def failure_of(lab: SystemLab, words: str) -> str:
    """Return the message of the document that fails with these words, empty if there is none."""
    for document in lab.lab.documents()[HOST]:
        newest = lab.newest(HOST, document)
        if newest is not None and newest.state is State.FAILED:
            found = [one.message for one in newest.failures if words in one.message]
            if found:
                return found[0]
    return ""


@pytest.mark.parametrize("where", ["uplink", "endpoint"])
def test_a_strangers_program_is_named_with_the_way_out_which_brings_everything_back(lab: SystemLab, where: str) -> None:
    namespace = lab.names.droplet(HOST)
    interface = "eth0" if where == "uplink" else lab.host_side(ENDPOINT)
    place = interface if where == "uplink" else f"{interface} of endpoint {ENDPOINT}"
    with replaced(lab, interface) as number:
        found = f"another owner's XDP program theirs (id {number}) is attached to {place}"
        message = until(lambda: failure_of(lab, found), "a document that fails because of the program")
        command = f"ip link set dev {interface} xdpdrv off"
        assert f"detach it ({command})" in message
        (fault,) = until(lambda: [one for one in lab.status(HOST).faults if one.kind == "foreign_program"], "the fault")
        assert (fault.subject, fault.detail) == (interface, found)
        assert f"detach it ({command})" in fault.remedy
        status = lab.status(HOST)
        assert (status.state, status.documents.failed > 0) == (AgentState.DEGRADED, True)
        assert [one.attach_mode for one in status.uplinks] == ["none" if where == "uplink" else "native"]
        checked = run(namespace, lab.lab.paths.settings(HOST), "--check")
        assert checked.returncode == (REFUSED if where == "uplink" else OK), checked.stdout
        kind = "missing xdp" if where == "uplink" else "warning endpoints"
        assert f"{kind}: {found}\n        detach it ({command})" in checked.stdout
        assert lab.host_links(HOST)[interface][3] == number, "the agent has left it alone"
        lab.ip(namespace, *command.split()[1:])
        until(lambda: lab.status(HOST).state is AgentState.IN_SYNC, "the agent's program in its place")
    assert pings(lab, "web-1", "web-2")


def other_settings(lab: SystemLab, folder: Path, instance: str) -> Path:
    """Return the settings of h1's agent with another instance and a state of its own."""
    text = lab.lab.paths.settings(HOST).read_text()
    file = folder / "agent.toml"
    text = re.sub(r'^instance = ".*"', f'instance = "{instance}"', text, flags=re.MULTILINE)
    file.write_text(re.sub(r'^state = ".*"', f'state = "{folder}/state"', text, flags=re.MULTILINE))
    return file


@pytest.mark.parametrize(
    ("suffix", "status", "words"),
    [
        ("", FAILURE, "another agent of instance {own} runs in this network namespace (process {pid})"),
        ("-b", REFUSED, "the droplet instance {own}'s XDP program transit_xdp (id {id}) is attached to eth0"),
    ],
    ids=["of the same instance", "of another instance"],
)
def test_a_second_agent_on_the_host_is_refused_and_changes_nothing(
    lab: SystemLab, tmp_path: Path, suffix: str, status: int, words: str
) -> None:
    own, before = lab.lab.paths.instance(HOST), lab.made(HOST)
    settings = other_settings(lab, tmp_path, own + suffix)
    done = run(lab.names.droplet(HOST), settings)
    assert done.returncode == status, done.stderr
    assert words.format(own=own, pid=lab.pid(HOST), id=lab.host_links(HOST)["eth0"][3]) in done.stderr
    done = run(lab.names.droplet(HOST), settings, "--uninstall")
    assert done.returncode == (OK if suffix else FAILURE), done.stderr
    assert lab.made(HOST) == before
    assert pings(lab, "web-1", "web-2")


def test_offload_that_the_driver_refuses_is_reported_and_leaves_what_runs(lab: SystemLab) -> None:
    before, settings = lab.made(HOST), lab.lab.paths.settings(HOST)
    for arguments in (("--check",), ()):
        done = run(lab.names.droplet(HOST), settings, *arguments, DROPLET_ATTACH_MODE="offload")
        assert done.returncode == REFUSED
        words = done.stdout + done.stderr
        assert "eth0: driver veth refuses offload XDP" in words
        assert "it takes no programs to run on the card (EINVAL)" in words
        assert "Set attach_mode to native or auto" in words
    assert lab.made(HOST) == before


def test_an_uninstall_names_strangers_on_the_uplink_and_on_endpoints_interfaces(lab: SystemLab) -> None:
    interface = lab.host_side(ENDPOINT)
    lab.lab.stop_agent(HOST)
    with replaced(lab, interface) as on_endpoint:
        done = run(lab.names.droplet(HOST), lab.lab.paths.settings(HOST), "--uninstall")
        assert done.returncode == OK, done.stderr
        told, removed = done.stdout.splitlines()
        assert told == (
            f"another owner's XDP program theirs (id {on_endpoint}) is attached to {interface} of endpoint {ENDPOINT}: "
            "it is detached now, because the interface is removed"
        )
        assert re.fullmatch(r"removed transit XDP, 1 interfaces and \d+ pins", removed)
        assert interface not in lab.host_links(HOST)
    with replaced(lab, "eth0") as on_uplink:
        done = run(lab.names.droplet(HOST), lab.lab.paths.settings(HOST), "--uninstall")
        assert done.stdout.splitlines() == [
            f"another owner's XDP program theirs (id {on_uplink}) is attached to eth0: it is left alone",
            "nothing to remove: this host has no objects of this agent",
        ]
        assert lab.host_links(HOST)["eth0"][3] == on_uplink
    lab.restart_agent(HOST)
    assert pings(lab, "web-1", "web-2")
