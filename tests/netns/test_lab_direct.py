"""The direct path, whole: an endpoint that moves under traffic, one that goes, bouncers elsewhere, pinned networks."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import exchange_all, exchange_udp, flow_between, ping, pings, udp_socket, unbroken_flow
from lab.waiting import PATIENCE, until

from controller_sim.controller import converge
from controller_sim.convergence import Report
from controller_sim.transfer import Transfer, transfer
from protocol import codec
from protocol.rpc import PeersReply, PeersRequest

PORT = 7114
DETOURS = ("sent_to_bouncer", "sent_to_divider", "bounced", "handed_to_bouncer", "handed_to_divider")
SECONDS, MANY = 6.0, 2000
INTERRUPTION = 3.2
"""Seconds in which nothing may arrive while an endpoint moves. It is away for a tenth of one; but TCP's timer doubles
(0.2, 0.4, 0.8, 1.6), and a move that ends just after a try is noticed by the next, on a machine that others use too."""
PROGRAM = Path(sys.executable).parent / "droplet-lab"


@pytest.fixture
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("moving", topology_text("moving")) as lab:
        yield lab


def moved_text(host: str) -> str:
    return topology_text("moving").replace("web-2, network: web, droplet: h2", f"web-2, network: web, droplet: {host}")


def move(lab: SystemLab, host: str) -> Report:
    """Make the topology with web-2 on another host the one in force."""
    lab.lab.adopt(moved_text(host))
    report = converge(lab.lab, timeout=PATIENCE)
    assert report.converged, report.problems
    del lab.topology  # it is read anew
    lab.text = moved_text(host)
    return report


def flowed(before: dict[str, int], after: dict[str, int]) -> int:
    """Return how many packets one host has sent directly and delivered since."""
    return sum(after[name] - before[name] for name in ("sent_direct", "delivered"))


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], *names: str) -> int:
    """Return by how much some counters grew, over all hosts."""
    return sum(after[host][name] - before[host][name] for host in before for name in names)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ends", [("web-1", "web-2"), ("web-2", "web-1")], ids=["to it", "from it"])
def test_an_endpoint_moves_under_a_tcp_transfer_which_goes_on(lab, family, ends):
    source, destination = ends
    exchange_udp(lab, source, destination, [100, 100], family)
    address = lab.address(destination, family)
    assigned = lab.lab.paths.load().assignments["web-2"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before = lab.counters("h1")
        sending = pool.submit(transfer, lab.inside(source), lab.inside(destination), address, SECONDS)
        until(lambda: flowed(before, lab.counters("h1")) > MANY, "the transfer's beginning", 10)
        reports = []
        for host in ("h3", "h2", "h3"):
            until(lambda: lab.path("web-1", "web-2", family).way in ("direct", "same_host"), "the direct path", 5)
            reports.append(move(lab, host))
        done: Transfer = sending.result(SECONDS + 30)
    assert done.right, "every byte in its place"
    assert done.size > 10 << 20
    assert done.silence < INTERRUPTION
    assert [len(report.moves) for report in reports] == [1, 1, 1]
    assert all(report.moves[0].arrived is not None for report in reports)
    assert lab.lab.paths.load().assignments["web-2"] == assigned
    exchange_all(lab, "web-1", "web-2", family)
    assert lab.path("web-1", "web-2", family).hosts == (lab.topology.droplets["h3"].address,)


def test_the_command_line_moves_an_endpoint_under_a_transfer_and_says_how_long_it_was_away(lab, tmp_path):
    file = tmp_path / "moved.yaml"
    file.write_text(moved_text("h3"))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(transfer, lab.inside("web-1"), lab.inside("web-2"), lab.address("web-2"), 4.0)
        until(lambda: lab.path("web-1", "web-2").way == "direct", "the direct path", 5)
        done = subprocess.run(
            [str(PROGRAM), "--name", lab.lab.name, "apply", str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert sending.result(40).right
    assert "web-2: h2 -> h3, away for at most" in done.stdout
    lab.text = moved_text("h3")
    del lab.topology
    assert lab.lab.topology().endpoints["web-2"].droplet == "h3"


@pytest.mark.parametrize("family", [4, 6])
def test_a_sender_with_a_direct_path_is_told_that_the_endpoint_left_and_learns_anew(lab, family):
    """By the packets themselves: the old host gives them back, the sender's host sends them by the bouncer."""
    with flow_between(lab, "web-1", "web-2", family) as flow:
        until(lambda: lab.path("web-1", "web-2", family).way == "direct", "the direct path", 5)
        before = lab.all_counters()
        move(lab, "h3")
        again = flow.sent
        until(lambda: any(number > again for number in flow.back), "answers from the new host", 10)
        until(lambda: lab.path("web-1", "web-2", family).way == "direct", "the new direct path", 5)
        after = lab.all_counters()
    assert grown(before, after, "returned") > 0
    assert grown(before, after, "rerouted") > 0
    assert lab.path("web-1", "web-2", family).hosts == (lab.topology.droplets["h3"].address,)
    lost = len(flow.missing) * flow.EVERY
    assert lost < INTERRUPTION, f"{len(flow.missing)} of {flow.sent}"


def test_two_endpoints_that_change_places_keep_their_connections(lab):
    text = topology_text("moving")
    text = text.replace("web-2, network: web, droplet: h2", "web-2, network: web, droplet: XX")
    text = text.replace("web-3, network: web, droplet: h3", "web-3, network: web, droplet: h2").replace("XX", "h3")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        sending = [
            pool.submit(transfer, lab.inside("web-1"), lab.inside(name), lab.address(name), 4.0)
            for name in ("web-2", "web-3")
        ]
        until(lambda: lab.path("web-1", "web-2").way == "direct", "the direct path", 5)
        lab.lab.adopt(text)
        report = converge(lab.lab, timeout=PATIENCE)
        assert report.converged, report.problems
        assert {moved.move.endpoint for moved in report.moves} == {"web-2", "web-3"}
        assert all(job.result(40).right for job in sending)
    lab.text = text
    del lab.topology
    exchange_all(lab, "web-2", "web-3", 4)


def test_what_is_sent_to_an_endpoint_that_is_gone_is_dropped_with_a_reason_and_not_sent_round_for_ever(lab):
    exchange_udp(lab, "web-1", "web-2", [100, 100])
    lab.lab.adopt("\n".join(line for line in topology_text("moving").splitlines() if "web-2," not in line) + "\n")
    address = lab.address("web-2")
    before = lab.all_counters()
    report = converge(lab.lab, timeout=PATIENCE)
    assert report.converged, report.problems
    assert ping(lab, "web-1", address, count=5, wait=1) == 0
    after = lab.all_counters()
    assert grown(before, after, "no_endpoint", "not_here") >= 5
    assert grown(before, after, "too_many_bounces", "outer_ttl") == 0
    lab.lab.adopt(topology_text("moving"))
    assert converge(lab.lab, timeout=PATIENCE).converged
    assert pings(lab, "web-1", "web-2")


# Endpoints on one host whose bouncer is elsewhere


@pytest.mark.parametrize("family", [4, 6])
def test_endpoints_of_one_host_talk_without_leaving_it(lab_cache, family):
    text = topology_text("moving").replace("web-3, network: web, droplet: h3", "web-3, network: web, droplet: h1")
    with running_lab("samehost", text, lossless=True) as lab:
        before = lab.all_counters()
        exchange_all(lab, "web-1", "web-3", family)
        after = lab.all_counters()
        assert lab.path("web-1", "web-3", family).way == "same_host"
        assert after["h1"]["delivered_same_host"] - before["h1"]["delivered_same_host"] > 50
        assert grown(before, after, "bounced", "sent_direct") == 0
        with unbroken_flow(lab, "web-1", "web-3", family) as flow:
            lab.kill_agent("h4")
            until(lambda: len(flow.back) > 200, "packets without the bouncer's agent")
            lab.restart_agent("h4")


# A peer that falls silent


BROKEN = """\
substrate:
  subnets:
    north: {cidr: [172.18.1.0/24, "fd18:0:0:1::/64"]}
    south: {cidr: [172.18.2.0/24, "fd18:0:0:2::/64"]}
droplets:
  h1: {address: 172.18.1.11}
  h2: {address: 172.18.2.12}
  h3: {address: 172.18.2.13}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h3]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h3]}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
"""
"""Between h1 and h2 stands a router, which can be told to drop what they send each other; h3 reaches both."""


def is_known(lab: SystemLab, host: str) -> bool:
    """Say whether every other droplet has answered a host once: only such a one can be found to be silent."""
    reply = codec.decode(lab.ask(host, "peers", codec.encode(PeersRequest())), PeersReply)
    return all(peer.state == "up" for peer in reply.peers)


@pytest.fixture
def broken(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("silent", BROKEN) as lab:
        until(lambda: all(is_known(lab, host) for host in lab.hosts), "all to answer all")
        yield lab


def cut(lab: SystemLab, what: str) -> None:
    """Add or remove the rules by which the router drops what h1 and h2 send each other."""
    one, other = (lab.topology.droplets[name].address for name in ("h1", "h2"))
    for source, destination in ((one, other), (other, one)):
        rule = ("from", source, "to", destination, "blackhole", "priority", "100")
        lab.ip(lab.names.router, "rule", what, *rule)


@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_that_falls_silent_is_left_for_the_bouncer_and_comes_back(broken, family):
    lab = broken
    exchange_udp(lab, "web-1", "web-2", [100, 100], family)
    assert lab.path("web-1", "web-2", family).way == "direct"
    with (
        flow_between(lab, "web-1", "web-2", family) as flow,
        lab.events("h1", "droplet_down") as down,
        lab.events("h1", "droplet_up") as up,
    ):
        cut(lab, "add")
        until(lambda: lab.status("h1").down_droplets == ("h2",), "h1 to see it")
        until(lambda: lab.status("h2").down_droplets == ("h1",), "h2 to see it")
        until(lambda: lab.path("web-1", "web-2", family).way == "bouncer", "the bouncer's way")
        detour = flow.sent
        until(lambda: len([n for n in flow.back if n > detour]) > 100, "answers by the bouncer", 20)
        assert any("h2" in line for event in until(down, "the event", 10) for line in event.detail)
        cut(lab, "del")
        until(lambda: lab.status("h1").down_droplets == () == lab.status("h2").down_droplets, "them to come back")
        until(lambda: lab.path("web-1", "web-2", family).way == "direct", "the direct path", 20)
        assert any("h2" in line for event in until(up, "the event", 10) for line in event.detail)
    exchange_all(lab, "web-1", "web-2", family)


def test_a_host_that_is_cut_off_altogether_is_reached_again_when_it_is_back(broken):
    lab = broken
    exchange_udp(lab, "web-1", "web-2", [100])
    port = lab.ports()["h2", "eth0"]
    lab.ip(lab.names.fabric, "link", "set", port, "down")
    until(lambda: "h2" in lab.status("h1").down_droplets, "h1 to see it")
    assert ping(lab, "web-1", lab.address("web-2"), count=2, wait=1) == 0
    lab.ip(lab.names.fabric, "link", "set", port, "up")
    until(lambda: lab.status("h1").down_droplets == (), "it to come back")
    until(lambda: pings(lab, "web-1", "web-2"), "answers")


# Between networks: direct, or pinned through the divider


@pytest.fixture(scope="module")
def pinned(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("pinned", topology_text("pinned_networks")) as lab:
        yield lab


@pytest.mark.parametrize("family", [4, 6])
def test_ordinary_networks_go_direct_after_the_first_packets(pinned, family):
    exchange_udp(pinned, "web-1", "data-1", [100, 100], family)
    before = pinned.all_counters()
    exchange_udp(pinned, "web-1", "data-1", [100] * 50, family)
    assert grown(before, pinned.all_counters(), *DETOURS) == 0
    assert pinned.path("web-1", "data-1", family).way == "direct"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ends", [("web-1", "secret-1"), ("secret-1", "web-1"), ("web-1", "secret-2")])
def test_every_packet_of_a_pinned_network_to_or_from_another_passes_a_divider(pinned, family, ends):
    """Also between endpoints of one host."""
    exchange_udp(pinned, *ends, [100, 100], family)
    before = pinned.all_counters()
    exchange_udp(pinned, *ends, [100] * 50, family)
    after = pinned.all_counters()
    assert after["h4"]["handed_to_bouncer"] - before["h4"]["handed_to_bouncer"] >= 100
    assert grown(before, after, "sent_direct", "delivered_same_host") == 0
    assert pinned.path(*ends, family).way == "divider"


@pytest.mark.parametrize("family", [4, 6])
def test_within_a_pinned_network_packets_go_direct(pinned, family):
    exchange_udp(pinned, "secret-1", "secret-2", [100, 100], family)
    before = pinned.all_counters()
    exchange_udp(pinned, "secret-1", "secret-2", [100] * 50, family)
    assert grown(before, pinned.all_counters(), *DETOURS) == 0


def test_everything_arrives_unchanged_over_pinned_ways_too(pinned):
    for one, other, family in pinned.talks():
        exchange_all(pinned, one, other, family, 200_000)


def test_a_pinned_network_stops_when_no_divider_is_left_and_the_others_go_on(pinned):
    exchange_udp(pinned, "web-1", "data-1", [100, 100])
    port = pinned.ports()["h4", "eth0"]
    pinned.ip(pinned.names.fabric, "link", "set", port, "down")
    try:
        assert ping(pinned, "web-1", pinned.address("secret-1"), count=2, wait=1) == 0
        assert pings(pinned, "web-1", "data-1")
    finally:
        pinned.ip(pinned.names.fabric, "link", "set", port, "up")
    until(lambda: pings(pinned, "web-1", "secret-1"), "the divider's return")


def test_what_was_learnt_is_forgotten_when_nothing_confirms_it(lab):
    with (
        udp_socket(lab.inside("web-1"), lab.address("web-1")) as one,
        udp_socket(lab.inside("web-2"), lab.address("web-2"), PORT) as other,
    ):
        one.sendto(b"there", (lab.address("web-2"), PORT))
        other.sendto(b"back", other.recvfrom(10)[1])
        assert one.recv(10) == b"back"
    assert lab.path("web-1", "web-2").way == "direct"
    until(lambda: lab.path("web-1", "web-2").way == "bouncer", "the end of the path", 20)
