"""The direct path: learnt, kept, and left: an endpoint that moves under traffic, one that goes, bouncers elsewhere."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.counting import DETOURS, grown
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.neighbours import keep_neighbours
from lab.stream import streaming
from lab.traffic import (
    connect_error,
    exchange_all,
    exchange_udp,
    flow_between,
    ping,
    pings,
    send_one_way,
    udp_socket,
    unbroken_flow,
)
from lab.underlays import over
from lab.waiting import PATIENCE, until

from controller_sim.control.convergence import Report
from controller_sim.lab.controller import converge

PORT = 7114
FAMILIES = (4, 6)
FULL_SPEED = "a stream at full speed may overrun a queue on the way"
PROGRAM = Path(sys.executable).parent / "droplet-lab"
over_both = pytest.mark.parametrize("lab", ["ipv4", "ipv6"], indirect=True)
"""Over an underlay of each family."""


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("moving", over(getattr(request, "param", "ipv4"), topology_text("moving"))) as lab:
        keep_neighbours(lab)
        yield lab


def moved_text(lab: SystemLab, host: str) -> str:
    """Return the lab's topology with web-2 on another host."""
    return re.sub(r"(web-2, network: web, droplet: )h\d", rf"\g<1>{host}", lab.text)


def adopt(lab: SystemLab, text: str) -> Report:
    """Make another topology the one in force."""
    lab.lab.adopt(text)
    report = converge(lab.lab, timeout=PATIENCE)
    assert report.converged, report.problems
    del lab.topology  # it is read anew
    lab.text = text
    return report


def move(lab: SystemLab, host: str) -> Report:
    """Move web-2 to another host."""
    return adopt(lab, moved_text(lab, host))


def route_to(lab: SystemLab, family: int) -> tuple[str, tuple[str, ...]]:
    """Return how web-1's packets go to web-2, and to which hosts."""
    path = lab.path("web-1", "web-2", family)
    return path.route, path.hosts


@pytest.mark.parametrize("ends", [("web-1", "web-2"), ("web-2", "web-1")], ids=["to it", "from it"])
@over_both
def test_an_endpoint_moves_under_tcp_connections_which_go_on(lab, ends):
    """In both families at once, three times, also onto the host of its other end and back."""
    lab.lossy = FULL_SPEED
    assigned = lab.lab.paths.load().assignments["web-2"]
    with ExitStack() as stack:
        streams = [stack.enter_context(streaming(lab, *ends, family)) for family in FAMILIES]
        for host in ("h3", "h1", "h2"):
            report = move(lab, host)
            assert [one.arrived is not None for one in report.moves] == [True]
            for stream in streams:
                stream.goes_on()
            route = ("same_host", ()) if host == "h1" else ("direct", (lab.topology.droplets[host].address,))
            for family in FAMILIES:
                until(lambda family=family, route=route: route_to(lab, family) == route, f"{route} over IPv{family}")
    assert lab.lab.paths.load().assignments["web-2"] == assigned
    for family in FAMILIES:
        exchange_all(lab, "web-1", "web-2", family)


def test_the_command_line_moves_an_endpoint_during_a_connection_and_reports_the_interruption(lab, tmp_path):
    lab.lossy = FULL_SPEED
    file = tmp_path / "moved.yaml"
    file.write_text(moved_text(lab, "h3"))
    with streaming(lab, "web-1", "web-2") as stream:
        done = subprocess.run(
            [str(PROGRAM), "--name", lab.lab.name, "apply", str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        stream.goes_on()
    assert "web-2: h2 -> h3, unreachable for at most" in done.stdout
    lab.text = moved_text(lab, "h3")
    del lab.topology
    assert lab.lab.topology().endpoints["web-2"].droplet == "h3"


@over_both
def test_a_sender_with_a_direct_path_to_a_moved_endpoint_gets_an_invalidate_and_learns_the_new_path(lab):
    """By the packets themselves: the old host gives them back, the sender's host sends them by the bouncer.

    Nothing is lost but what was sent before the move was done; nor are fragments that go that way.
    """
    with ExitStack() as stack:
        flows = [stack.enter_context(flow_between(lab, "web-1", "web-2", family)) for family in FAMILIES]
        for family in FAMILIES:
            until(lambda family=family: lab.path("web-1", "web-2", family).route == "direct", "the direct path")
        before = lab.all_counters()
        move(lab, "h3")
        done = [flow.sent for flow in flows]
        to = (lab.topology.droplets["h3"].address,)
        for flow, family, again in zip(flows, FAMILIES, done, strict=True):
            until(lambda flow=flow, again=again: any(number > again for number in flow.back), "answers")
            until(lambda family=family: lab.path("web-1", "web-2", family).hosts == to, "the new direct path")
        after = lab.all_counters()
    for host, name in (("h2", "returned"), ("h1", "rerouted")):
        assert after[host][name] - before[host][name] >= 2, "a packet of each family"
    for flow, again in zip(flows, done, strict=True):
        assert [number for number in flow.missing if number > again] == [], f"of {flow.sent}, the move done at {again}"

    for family, (old, new) in zip(FAMILIES, (("h3", "h2"), ("h2", "h3")), strict=True):
        exchange_udp(lab, "web-1", "web-2", [100, 100], family)
        to = (lab.topology.droplets[old].address,)
        move(lab, new)
        assert route_to(lab, family) == ("direct", to), "the sender's host has not heard of it"
        before = lab.all_counters()
        send_one_way(lab, "web-1", "web-2", 4000, family)
        after = lab.all_counters()
        assert after[old]["returned"] - before[old]["returned"] >= 1
        assert after["h1"]["rerouted"] - before["h1"]["rerouted"] >= 1
        assert after["h4"]["bounced"] - before["h4"]["bounced"] >= 9, "three fragments each"


def test_two_endpoints_that_change_places_keep_their_connections(lab):
    lab.lossy = FULL_SPEED
    text = moved_text(lab, "h3").replace("web-3, network: web, droplet: h3", "web-3, network: web, droplet: h2")
    with ExitStack() as stack:
        streams = [stack.enter_context(streaming(lab, "web-1", name)) for name in ("web-2", "web-3")]
        report = adopt(lab, text)
        assert {moved.move.endpoint for moved in report.moves} == {"web-2", "web-3"}
        for stream in streams:
            stream.goes_on()
    exchange_all(lab, "web-2", "web-3", 4)


def test_a_packet_to_a_removed_endpoint_is_returned_once_and_then_answered_by_the_bouncer(lab):
    """The first packet goes direct, is returned and sent again; the bouncer knows no such endpoint."""
    whole = lab.text
    addresses = {family: lab.address("web-2", family) for family in FAMILIES}
    for family in FAMILIES:
        exchange_udp(lab, "web-1", "web-2", [100, 100], family)
    before = lab.all_counters()
    adopt(lab, "\n".join(line for line in whole.splitlines() if "web-2," not in line) + "\n")
    for number, family in enumerate(FAMILIES, 1):
        with udp_socket(lab.inside("web-1"), lab.address("web-1", family)) as sender:
            sender.sendto(b"first", (addresses[family], PORT))
            until(lambda number=number: dropped(before, lab.all_counters()) == number, "the first one's end")
            after = lab.all_counters()
            assert after["h2"]["returned"] - before["h2"]["returned"] == number
            assert after["h1"]["rerouted"] - before["h1"]["rerouted"] == number
            assert grown(before, after, "bounced") == 0
            assert all(after[host]["delivered"] == before[host]["delivered"] for host in ("h2", "h3", "h4"))
    for count, family in enumerate(FAMILIES, 1):
        assert ping(lab, "web-1", addresses[family], count=5, wait=1) == 0
        until(lambda count=count: dropped(before, lab.all_counters()) >= 2 + 5 * count, "the others' end")
    after = lab.all_counters()
    assert grown(before, after, "returned", "rerouted") == 4, "the others went by the bouncer at once"
    assert grown(before, after, "too_many_bounces", "outer_ttl", "endpoint_not_local") == 0
    for family in FAMILIES:  # its kernel still knows the Ethernet address, and asks nobody
        assert connect_error(lab, "web-1", addresses[family]) == errno.EHOSTUNREACH
    adopt(lab, whole)
    assert pings(lab, "web-1", "web-2")


def dropped(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> int:
    """Return how many packets the bouncer has answered since, because it knows no such endpoint."""
    return after["h4"]["icmp_unreachable_sent_remote"] - before["h4"]["icmp_unreachable_sent_remote"]


def converse_once(lab: SystemLab, one: str, other: str) -> None:
    """Send one datagram and one back."""
    with (
        udp_socket(lab.inside(one), lab.address(one)) as asking,
        udp_socket(lab.inside(other), lab.address(other), PORT) as answering,
    ):
        asking.sendto(b"there", (lab.address(other), PORT))
        answering.sendto(b"back", answering.recvfrom(10)[1])
        assert asking.recv(10) == b"back"


def test_a_path_is_forgotten_when_nothing_confirms_it_and_kept_all_along_when_something_does(lab):
    """A path that was learnt later and is not used ends meanwhile: so long is longer than an unconfirmed one lasts."""
    with ExitStack() as stack:
        flows = [stack.enter_context(unbroken_flow(lab, "web-1", "web-2", family)) for family in FAMILIES]
        for family in FAMILIES:
            until(lambda family=family: lab.path("web-1", "web-2", family).route == "direct", "the direct path")
        converse_once(lab, "web-1", "web-3")
        assert lab.path("web-1", "web-3").route == "direct"
        before, began = lab.all_counters(), [flow.sent for flow in flows]
        until(lambda: lab.path("web-1", "web-3").route == "bouncer", "the end of the path that nothing confirms")
        went_on = lambda: all(flow.sent > start + 1000 for flow, start in zip(flows, began, strict=True))  # noqa: E731
        until(went_on, "packets all that while")
        assert grown(before, lab.all_counters(), *DETOURS) == 0
        for family in FAMILIES:
            assert lab.path("web-1", "web-2", family).route == lab.path("web-2", "web-1", family).route == "direct"


def test_endpoints_of_one_host_whose_bouncer_is_elsewhere_talk_without_leaving_it(lab_cache):
    text = topology_text("moving").replace("web-3, network: web, droplet: h3", "web-3, network: web, droplet: h1")
    with running_lab("samehost", text) as lab:
        before = lab.all_counters()
        for family in FAMILIES:
            exchange_all(lab, "web-1", "web-3", family)
            assert lab.path("web-1", "web-3", family).route == "same_host"
        after = lab.all_counters()
        assert after["h1"]["delivered_same_host"] - before["h1"]["delivered_same_host"] > 100
        assert grown(before, after, "bounced", "sent_direct") == 0
        with unbroken_flow(lab, "web-1", "web-3", 4) as one, unbroken_flow(lab, "web-1", "web-3", 6) as other:
            lab.kill_agent("h4")
            for flow in (one, other):
                until(lambda flow=flow: len(flow.back) > 200, "packets without the bouncer's agent")
            lab.restart_agent("h4")
