"""Foreign changes in the kernel are repaired within two resyncs, and published as an event."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.repairs import HOST, NAME, inside, offload, on_host_side, repaired_after
from lab.traffic import exchange_tcp, pings, unbroken_flow
from lab.waiting import until

from agent.core.kinds import catalogue
from agent.core.kinds.functions import FUNCTIONS
from agent.core.model.map_layout import DROPLET, ENDPOINT, OVERLAY_KEY, mapped
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map
from controller_sim.lab.namespaces import run_in
from controller_sim.lab.underlay import add_endpoint, remove
from protocol import codec
from protocol.acknowledgements import State
from protocol.documents import Attachment, Document, Endpoint

MAPS = [name for name in catalogue.KINDS.maps if name not in FUNCTIONS.maps]
"""The maps that documents fill: hosts of this lab run no functions."""


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    text = f"{topology_text('bouncer_on_host')}agents: {{endpoint_hook: xdp}}\n"  # test_repair_at_tc.py has tc
    with running_lab("repair", text) as lab:
        yield lab


@pytest.mark.parametrize("name", MAPS)
def test_deleted_entries_are_restored(lab, name):
    wanted = lab.entries(HOST, name)
    assert wanted

    def delete_all() -> None:
        with lab.map(HOST, name) as descriptor:
            Map(name, descriptor).delete(list(wanted))

    assert f"write {len(wanted)} entr{'y' if len(wanted) == 1 else 'ies'} of map {name}" in repaired_after(
        lab, delete_all
    )
    assert lab.entries(HOST, name) == wanted


def test_deleted_next_hops_are_restored(lab):
    wanted = lab.entries(HOST, "next_hops")
    assert wanted
    with lab.map(HOST, "next_hops") as descriptor:
        for key in wanted:
            bpf.delete(descriptor, key)
    until(lambda: lab.entries(HOST, "next_hops") == wanted, "the next hops")
    assert pings(lab, "web-1", "web-2")


def test_a_cleared_jump_table_is_restored(lab):
    first = struct.pack("=I", 0)
    with lab.map(HOST, "programs") as descriptor:
        wanted = bpf.lookup(descriptor, first, 4)
        assert wanted is not None
        bpf.delete(descriptor, first)
        until(lambda: bpf.lookup(descriptor, first, 4) == wanted, "the tail call")


def test_a_foreign_entry_is_removed(lab):
    key = mapped(bytes([172, 18, 0, 99]))

    def add() -> None:
        with lab.map(HOST, "droplets") as descriptor:
            bpf.update(descriptor, key, DROPLET.pack(0, 0))

    assert "delete 1 entry of map droplets" in repaired_after(lab, add)
    assert key not in lab.entries(HOST, "droplets")


def test_a_changed_entry_is_repaired(lab):
    wanted = lab.entries(HOST, "endpoints")
    key = OVERLAY_KEY.pack(1001, mapped(bytes([10, 0, 1, 3])))
    assert key in wanted

    def change() -> None:
        with lab.map(HOST, "endpoints") as descriptor:
            bpf.update(descriptor, key, ENDPOINT.pack(mapped(bytes([172, 18, 0, 77])), 0, 0, 0, bytes(6)))

    assert "write 1 entry of map endpoints" in repaired_after(lab, change)
    assert lab.entries(HOST, "endpoints") == wanted


OFFLOADS = {
    "generic receive offload (rx-gro) is off at eth0": offload("gro", "off"),
    "transmit checksum offload (tx-checksum-ip-generic) is on at eth0": offload("tx-checksum-ip-generic", "on"),
    "transmit checksum offload of SCTP (tx-checksum-sctp) is on at eth0": offload("tx-checksum-sctp", "on"),
    "VLAN tag insertion offload (tx-vlan-hw-insert) is on at eth0": offload("txvlan", "on"),
    "VLAN tag insertion offload (tx-vlan-stag-hw-insert) is on at eth0": offload("tx-vlan-stag-hw-insert", "on"),
}
"""What the repair says, and the damage."""

DAMAGES = {
    "the endpoint's pair is deleted from inside": inside("link", "delete", "eth0"),
    "the endpoint's pair is deleted on the host": lambda lab: lab.ip(
        lab.names.droplet(HOST), "link", "delete", lab.host_side(NAME)
    ),
    "the endpoint's address is flushed": inside("address", "flush", "dev", "eth0"),
    "the endpoint's default route is deleted": inside("route", "delete", "default"),
    "the endpoint's interface is down": inside("link", "set", "eth0", "down"),
    "the endpoint's MTU is changed": inside("link", "set", "eth0", "mtu", "1280"),
    "the endpoint's MAC is changed": inside("link", "set", "eth0", "address", "02:00:00:00:00:99"),
    "the host side is down": on_host_side("down"),
    "the host side's MTU is changed": on_host_side("mtu", "1280"),
    "the transit agent is detached": on_host_side("xdp", "off"),
    "the host side's alias is gone": on_host_side("alias", ""),
    "transit XDP is detached": lambda lab: lab.ip(lab.names.droplet(HOST), "link", "set", "dev", "eth0", "xdp", "off"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_it_is_repaired_when(lab, damage):
    before = lab.links(lab.inside(NAME))["eth0"][2], lab.host_links(HOST)["eth0"]
    assert repaired_after(lab, lambda: damage(lab))
    assert (lab.links(lab.inside(NAME))["eth0"][2], lab.host_links(HOST)["eth0"]) == before
    assert lab.host_links(HOST)[lab.host_side(NAME)][3], "the transit agent is attached"
    exchange_tcp(lab, "web-1", "web-2", 100_000)


@pytest.mark.parametrize("said", OFFLOADS)
def test_a_disabled_offload_that_the_data_plane_needs_is_repaired_and_reported(lab, said):
    """Without GRO, an endpoint receives nothing from a native redirect; a checksum that waits for hardware is wrong."""
    assert repaired_after(lab, lambda: OFFLOADS[said](lab)) == f"repair veth {NAME}: {said}"
    exchange_tcp(lab, "web-1", "web-2", 100_000)
    exchange_tcp(lab, "web-2", "web-1", 100_000)


def test_offloads_that_changed_while_no_agent_ran_are_in_the_plan_and_put_right_by_the_next(lab):
    lab.kill_agent(HOST)
    for damage in OFFLOADS.values():
        damage(lab)
    lab.lossy = "nothing reaches an endpoint without GRO"
    settings = str(lab.lab.paths.settings(HOST))
    agent = [str(Path(sys.executable).with_name("droplet-agent")), "--config", settings, "--dry-run"]
    dry = run_in(lab.names.droplet(HOST), agent)
    assert dry.returncode == 0, dry.stderr
    (line,) = [line for line in dry.stdout.splitlines() if "veth" in line]
    assert all(said in line for said in OFFLOADS), line
    lab.restart_agent(HOST)
    assert lab.plan(HOST) == ()
    exchange_tcp(lab, "web-1", "web-2", 100_000)
    exchange_tcp(lab, "web-2", "web-1", 100_000)


def test_deleted_pins_are_restored(lab):
    made = lab.made(HOST)
    for pin in [*(lab.pins(HOST) / "maps").iterdir(), *(lab.pins(HOST) / "programs").glob("*/*")]:
        pin.unlink()
    until(lambda: len(list((lab.pins(HOST) / "maps").iterdir())) == len(made["maps"]), "the pins")
    until(lambda: lab.made(HOST) == made, "all of them")


def test_what_needs_no_repair_is_left_alone(lab):
    """An address that a tenant adds is the tenant's affair."""
    before = lab.status(HOST).repairs
    with unbroken_flow(lab, "web-1", "web-2"), lab.events(HOST, "repaired") as events:
        lab.ip(lab.inside(NAME), "address", "add", "192.0.2.7/32", "dev", "lo")
        lab.ip(lab.inside(NAME), "address", "add", "192.0.2.8/32", "dev", "eth0")
        uptime = lab.status(HOST).uptime
        until(lambda: lab.status(HOST).uptime > uptime + 1.5, "three looks")
        assert events() == []
    lab.ip(lab.inside(NAME), "address", "delete", "192.0.2.8/32", "dev", "eth0")
    assert lab.status(HOST).repairs == before


def test_an_endpoint_whose_namespace_is_missing_fails_and_is_realized_when_it_comes(lab):
    namespace = lab.inside("late")
    late = Endpoint("late", "web", HOST, ("10.0.1.60",), "02:00:00:00:00:60", Attachment(namespace))
    body = codec.encode(Document(endpoints=(late,)))
    try:
        with unbroken_flow(lab, "web-1", "web-2"):
            failed = lab.publish_and_wait(HOST, "endpoint.late", body, State.FAILED)
            assert failed.failures[0].errno == errno.ENOENT
            assert failed.failures[0].name == "ENOENT"
            assert "late" in failed.failures[0].object
            assert failed.retry_at is not None
            assert failed.retry_at > failed.at
            assert lab.status(HOST).documents.failed == 1
            add_endpoint(lab.names, "late")
            realized = lab.answer(HOST, "endpoint.late", failed.revision, State.REALIZED)
            assert realized.failures == ()
            assert realized.in_force == failed.revision
        assert "10.0.1.60/24" in lab.ip(namespace, "address", "show", "eth0")
        assert lab.publish_and_wait(HOST, "endpoint.late", None, State.REALIZED).removed
        assert "eth0" not in lab.links(namespace)
    finally:
        remove(namespace)


def log_of(lab: SystemLab) -> str:
    return lab.lab.paths.log(HOST).read_text(errors="replace")


def test_an_interface_whose_mtu_becomes_too_small_removes_nothing_and_ipv4_continues(lab):
    """It leaves 538 bytes, fewer than IPv4 asks for. What the tenant put on its interface stays there."""
    inside, document = lab.inside("web-1"), "endpoint.web-1"
    lab.ip(inside, "address", "add", "10.99.0.1/32", "dev", "eth0")
    index, _, mtu, _ = lab.links(inside)["eth0"]
    lab.lossy = "packets that were too long for the interface are gone"
    lab.ip(lab.names.droplet(HOST), "link", "set", "eth0", "mtu", "600")
    try:
        until(lambda: lab.newest(HOST, document).state is State.FAILED, "the document to fail")
        assert [failure.name for failure in lab.newest(HOST, document).failures] == ["EMSGSIZE"]
        assert lab.newest(HOST, document).in_force > 0
        assert lab.links(inside)["eth0"][:3:2] == (index, 576)
        assert "10.99.0.1/32" in lab.ip(inside, "address", "show", "eth0")
        until(lambda: pings(lab, "web-1", "web-2"), "answers")
    finally:
        lab.ip(lab.names.droplet(HOST), "link", "set", "eth0", "mtu", "1500")
    until(lambda: lab.newest(HOST, document).state is State.REALIZED, "the document to be realized")
    assert lab.links(inside)["eth0"][:3:2] == (index, mtu)
    assert "10.99.0.1/32" in lab.ip(inside, "address", "show", "eth0")
    lab.ip(inside, "address", "delete", "10.99.0.1/32", "dev", "eth0")


def names_of_failures(lab: SystemLab, document: str) -> list[str]:
    found = lab.newest(HOST, document)
    return [failure.name for failure in found.failures] if found else []


def end_connections(lab: SystemLab, address: str) -> None:
    """End the bus's connections from an address that is gone, at both ends, which else notice it by pings in 20 s.

    A kernel without CONFIG_INET_DIAG_DESTROY ends none: the test then takes that long.
    """
    for namespace, end in ((lab.names.droplet(HOST), "src"), (lab.names.fabric, "dst")):
        assert run_in(namespace, ["ss", "--kill", "--tcp", end, address.partition("/")[0]]).returncode == 0


def test_an_address_that_is_missing_for_a_moment_removes_nothing(lab):
    """As with a lease that lapses, or a network manager that starts anew. The agent may start anew meanwhile.

    The bus is reached by another address until the agent has acknowledged the loss.
    """
    address = f"{lab.topology.droplets[HOST].address}/24"
    other = f"{ip_address(lab.topology.droplets[HOST].address) + 100}/16"  # which does not go with the first one
    wanted, links = {name: lab.entries(HOST, name) for name in MAPS}, lab.host_links(HOST)
    lab.lossy = "packets that came while the address was away are gone"
    lab.ip(lab.names.droplet(HOST), "address", "add", other, "dev", "eth0")
    lab.ip(lab.names.droplet(HOST), "address", "delete", address, "dev", "eth0")
    end_connections(lab, address)
    try:
        until(lambda: names_of_failures(lab, "underlay") == ["EADDRNOTAVAIL"], "the agent to acknowledge it")
        lab.ip(lab.names.droplet(HOST), "address", "delete", other, "dev", "eth0")
        assert {name: lab.entries(HOST, name) for name in MAPS} == wanted
        lab.kill_agent(HOST)
        end_connections(lab, other)
        logged = len(log_of(lab))
        lab.lab.start_agent(HOST)
        until(lambda: not lab.lab.agent_runs(HOST), "its end")
        assert "this host cannot run the agent: interface: eth0 has no address" in log_of(lab)[logged:]
        assert {name: lab.entries(HOST, name) for name in MAPS} == wanted
        assert lab.host_links(HOST) == links
    finally:
        lab.ip(lab.names.droplet(HOST), "address", "add", address, "dev", "eth0")
    lab.lab.start_agent(HOST)
    until(lambda: lab.in_sync(HOST), "all to be well")
    lab.wait_for_next_hops(HOST)
    until(lambda: pings(lab, "web-1", "web-2"), "answers")
    assert {name: lab.entries(HOST, name) for name in MAPS} == wanted
    assert lab.host_links(HOST) == links
