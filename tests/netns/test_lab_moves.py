"""Endpoints that move between hosts: published in any order, and no move waits for the hosts of another."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from lab.fixtures import INTERVALS, SystemLab, running_lab, topology_text
from lab.neighbours import keep_neighbours
from lab.stream import streaming
from lab.traffic import exchange_all
from lab.waiting import PATIENCE, until

from controller_sim.control.bus import read_stream
from controller_sim.control.convergence import Report
from controller_sim.lab import controller
from protocol import codec, streams, subjects
from protocol.acknowledgements import State

FULL_SPEED = "a stream at full speed may overrun a queue on the way"
NEVER = 86_400.0
"""Seconds between retries: what is tried again in this test is so for another reason."""


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("moves", topology_text("moving"), lossy=FULL_SPEED) as lab:
        keep_neighbours(lab)
        for host in lab.hosts:
            lab.kill_agent(host)
            lab.set_intervals(host, {**INTERVALS, "retry": NEVER, "observe": NEVER})
            lab.restart_agent(host)
        yield lab


def moved_text(lab: SystemLab, **hosts: str) -> str:
    """Return the lab's topology with endpoints (`web_2="h3"`) on other hosts."""
    text = lab.text
    for name, host in hosts.items():
        old = f"{name.replace('_', '-')}, network: web, droplet: "
        before, _, after = text.partition(old)
        text = f"{before}{old}{host}{after[2:]}"
    return text


def converged(lab: SystemLab) -> Report:
    report = controller.converge(lab.lab, timeout=PATIENCE)
    assert report.converged, report.problems
    return report


@pytest.mark.parametrize(
    "order",
    list(itertools.permutations(("new host", "bouncer", "old host"))),
    ids=lambda order: ", ".join(order),
)
def test_hosts_may_learn_of_a_move_in_any_order(lab, order):
    """The new host has the endpoint as soon as the old one has let go, and connections go on."""
    old = lab.host_of("web-2")
    new = "h2" if old == "h3" else "h3"
    text = moved_text(lab, web_2=new)
    with streaming(lab, "web-1", "web-2") as stream:
        lab.lab.adopt(text)
        documents = lab.lab.documents()
        # A host that has no other endpoint of the VPC has nothing of it.
        lab.publish_and_wait(new, "vpc.red", codec.encode(documents[new]["vpc.red"]), State.REALIZED)
        messages = {
            "new host": (new, "endpoint.web-2", codec.encode(documents[new]["endpoint.web-2"])),
            "bouncer": ("h4", "network.web.p", codec.encode(documents["h4"]["network.web.p"])),
            "old host": (old, "endpoint.web-2", None),
        }
        let_go, revisions = False, {}
        for who in order:
            host, document, body = messages[who]
            revisions[who] = lab.publish(host, document, body)
            let_go |= who == "old host"
            if who == "new host" and not let_go:
                refused = lab.answer(host, document, revisions[who], State.FAILED)
                assert [one.name for one in refused.failures] == ["EEXIST"]
                assert "as soon as it is free" in refused.failures[0].message
            else:
                lab.answer(host, document, revisions[who], State.REALIZED)
        lab.answer(new, "endpoint.web-2", revisions["new host"], State.REALIZED)
        stream.goes_on()
    converged(lab)
    lab.text = text
    del lab.topology
    for family in (4, 6):
        exchange_all(lab, "web-1", "web-2", family)


def test_a_move_waits_for_its_own_hosts_only(lab, monkeypatch):
    """The agent of web-2's old host stands still; web-3 moves from elsewhere and arrives."""
    monkeypatch.setattr(controller, "RELEASE_TIMEOUT", 600.0)
    old = lab.host_of("web-2")
    new = "h2" if old == "h3" else "h3"
    if old == "h3":  # web-3 is there too
        lab.lab.adopt(moved_text(lab, web_2="h2"))
        converged(lab)
        lab.text = moved_text(lab, web_2="h2")
        del lab.topology
        old, new = new, old
    text = moved_text(lab, web_2=new, web_3="h1")
    reports: list[Report] = []
    lab.lab.adopt(text)
    thread = threading.Thread(target=lambda: reports.append(controller.converge(lab.lab, timeout=600.0)))
    os.kill(lab.pid(old), signal.SIGSTOP)
    try:
        thread.start()

        def arrived() -> bool:
            newest = lab.newest("h1", "endpoint.web-3")
            return newest is not None and newest.state is State.REALIZED and not newest.removed

        until(arrived, "web-3 on its new host while web-2 waits")
        subject = subjects.config(new, "endpoint.web-2")
        stored = lab.with_client(lambda client: read_stream(client, streams.CONFIG_STREAM, subject))
        assert [one for one in stored if not streams.is_delete(one.headers, one.body)] == []
    finally:
        os.kill(lab.pid(old), signal.SIGCONT)
        thread.join()
    assert reports[0].converged, reports[0].problems
    assert {moved.move.endpoint for moved in reports[0].moves} == {"web-2", "web-3"}
    lab.text = text
    del lab.topology
