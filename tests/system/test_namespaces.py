"""Endpoints' namespaces that come late, are made again, or are named by a process: by agents that retry once an hour.

What is noticed here is therefore noticed by a watch, not by a retry or a comparison.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.processes import end, living_in, reuse, start_in
from lab.traffic import pings
from lab.waiting import PATIENCE, until

from controller_sim.lab.namespaces import call_in
from controller_sim.lab.state import NATS_PORT
from controller_sim.lab.underlay import add_endpoint, remove
from protocol import codec
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Attachment, Document, Endpoint

HOST = "h1"
SELDOM = {"heartbeat": 0.5, "observe": 3600, "telemetry": 2.0, "retry": 3600}


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    def retry_seldom(lab: SystemLab) -> None:
        lab.set_intervals(HOST, SELDOM)

    with running_lab("namespaces", topology_text("bouncer_on_host"), wires=retry_seldom) as lab:
        yield lab


@pytest.fixture
def spaces(lab: SystemLab) -> Iterator[Callable[[str], str]]:
    """Make tenants' namespaces by name, and remove them afterwards."""
    made: set[str] = set()

    def make(name: str) -> str:
        made.add(name)
        add_endpoint(lab.names, name)
        return lab.inside(name)

    yield make
    for name in made:
        remove(lab.inside(name))


def document(namespace: str, number: int) -> bytes:
    endpoint = Endpoint(
        f"late-{number}", "web", HOST, (f"10.0.1.{number}",), f"02:00:00:00:00:{number}", Attachment(namespace)
    )
    return codec.encode(Document(endpoints=(endpoint,)))


@pytest.fixture
def withdrawn(lab: SystemLab) -> Iterator[list[str]]:
    """Documents that are removed after the test."""
    names: list[str] = []
    yield names
    for name in names:
        lab.publish_and_wait(HOST, name, None, State.REALIZED)


def failed(lab: SystemLab, name: str, namespace: str, number: int) -> Acknowledgement:
    return lab.publish_and_wait(HOST, name, document(namespace, number), State.FAILED)


def test_a_namespace_that_comes_after_its_document_is_used_at_once(lab, spaces, withdrawn):
    withdrawn.append("late.name")
    answer = failed(lab, "late.name", lab.inside("late"), 61)
    assert [one.name for one in answer.failures] == ["ENOENT"]
    assert "ip netns add" in answer.failures[0].message
    namespace = spaces("late")
    lab.answer(HOST, "late.name", answer.revision, State.REALIZED)
    assert "10.0.1.61/24" in lab.ip(namespace, "address", "show", "eth0")


def test_a_process_that_gets_its_namespace_after_its_document_is_used_soon(lab, spaces, withdrawn):
    """A runtime's process is there first, in the host's own namespace, and moves."""
    withdrawn.append("late.process")
    namespace = spaces("process")
    with living_in(namespace) as pid:
        end(pid)
        answer = failed(lab, "late.process", str(pid), 62)
        start_in(namespace, pid, born_in=lab.names.droplet(HOST))
        lab.answer(HOST, "late.process", answer.revision, State.REALIZED)
        assert "10.0.1.62/24" in lab.ip(namespace, "address", "show", "eth0")


def test_a_namespace_that_is_made_again_under_its_name_gets_its_interface_back_at_once(lab, spaces):
    lab.lossy = "packets to an endpoint without an interface are gone"
    with lab.events(HOST, "repaired") as events:
        remove(lab.inside("web-1"))
        add_endpoint(lab.names, "web-1")
        until(lambda: "eth0" in lab.links(lab.inside("web-1")), "the interface")
        until(events, "the event")
    assert "web-1" in events()[0].detail[0]
    until(lambda: pings(lab, "web-1", "web-2"), "answers")
    assert lab.plan(HOST) == ()


def start_without_bus(lab: SystemLab) -> None:
    """Start the agent while no server runs; return when it connects, which it does once it has applied what is saved.

    A socket takes the connections of all hosts' agents in the server's place, and closes them.
    """
    server = lab.topology.underlay.server, NATS_PORT
    with call_in(lab.names.fabric, lambda: socket.create_server(server)) as listener:
        listener.settimeout(PATIENCE)

        def connected() -> str:
            connection, (address, _) = listener.accept()
            connection.close()
            return str(address)

        lab.lab.start_agent(HOST)
        until(lambda: connected() == lab.topology.droplets[HOST].address, "a connection of the agent")


def test_a_process_id_that_was_given_out_again_gets_nothing_from_an_agent_that_starts_without_a_bus(
    lab, spaces, withdrawn
):
    """The first tenant's interface, address and routes would stand in the second one's namespace."""
    withdrawn.append("late.reused")
    first, second = spaces("first"), spaces("second")
    with living_in(first) as pid:
        lab.publish_and_wait(HOST, "late.reused", document(str(pid), 63), State.REALIZED)
        assert "10.0.1.63/24" in lab.ip(first, "address", "show", "eth0")
        lab.kill_agent(HOST)
        lab.lab.stop_server()
        again = reuse(pid, second)
        try:
            remove(first)
            start_without_bus(lab)
            assert list(lab.links(second)) == ["lo"]
            lab.lab.start_server()
            lab.wait_in_sync(HOST)
            until(lambda: lab.newest(HOST, "late.reused").state is State.FAILED, "the answer")
            (failure,) = lab.newest(HOST, "late.reused").failures
            assert failure.name == "ESTALE"
            assert "publish the document again" in failure.message
            assert list(lab.links(second)) == ["lo"]
            assert lab.status(HOST).documents.failed == 1
            lab.publish_and_wait(HOST, "late.reused", document(str(pid), 63), State.REALIZED)
            assert "10.0.1.63/24" in lab.ip(second, "address", "show", "eth0")
        finally:
            end(again)
