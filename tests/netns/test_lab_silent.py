"""A peer that falls silent: its packets go round by the bouncer while it is, and straight again when it is back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.peers import knows
from lab.traffic import exchange_all, exchange_udp, flow_between, ping, pings, send_one_way
from lab.underlays import over
from lab.waiting import until

from controller_sim.lab.namespaces import run_in

FAMILIES = (4, 6)
BROKEN = """\
underlay:
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
"""Between h1 and h2 is a router that can drop their packets to each other; h3 reaches both."""


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def broken(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("silent", over(request.param, BROKEN), lossy="a router drops packets, and a wire is cut") as lab:
        until(lambda: all(knows(lab, host) for host in lab.hosts), "all to answer all")
        yield lab


def cut(lab: SystemLab, what: str) -> None:
    """Add or remove the rules by which the router drops what h1 and h2 send each other."""
    one, other = (lab.topology.droplets[name].address for name in ("h1", "h2"))
    family = "-6" if ":" in one else "-4"
    for source, destination in ((one, other), (other, one)):
        rule = ("from", source, "to", destination, "blackhole", "priority", "100")
        lab.ip(lab.names.router, family, "rule", what, *rule)


def test_fragments_that_are_never_answered_reach_their_endpoint_by_the_bouncer(broken):
    for family in FAMILIES:
        until(lambda family=family: broken.path("web-1", "web-2", family).route == "bouncer", "no path")
        before = broken.counters("h3")["bounced"]
        send_one_way(broken, "web-1", "web-2", 4000, family)
        assert broken.counters("h3")["bounced"] - before >= 9, "three fragments each"


def test_a_silent_peer_is_avoided_by_the_bouncer_and_used_again_later(broken):
    """In both families at once; fragments go round by the bouncer too."""
    lab = broken
    for family in FAMILIES:
        exchange_udp(lab, "web-1", "web-2", [100, 100], family)
        assert lab.path("web-1", "web-2", family).route == "direct"
    with ExitStack() as stack:
        flows = [stack.enter_context(flow_between(lab, "web-1", "web-2", family)) for family in FAMILIES]
        down = stack.enter_context(lab.events("h1", "droplet_down"))
        up = stack.enter_context(lab.events("h1", "droplet_up"))
        cut(lab, "add")
        until(lambda: lab.status("h1").down_droplets == ("h2",), "h1 to see it")
        until(lambda: lab.status("h2").down_droplets == ("h1",), "h2 to see it")
        for family in FAMILIES:
            until(lambda family=family: lab.path("web-1", "web-2", family).route == "bouncer", "the bouncer's route")
            until(lambda family=family: lab.path("web-2", "web-1", family).route == "bouncer", "the route back")
        for flow in flows:
            detour = flow.sent
            until(lambda flow=flow, at=detour: len([n for n in flow.back if n > at]) > 100, "answers by it")
        for family in FAMILIES:
            send_one_way(lab, "web-1", "web-2", 4000, family)
            send_one_way(lab, "web-2", "web-1", 4000, family)
        assert any("h2" in line for event in until(down, "the event") for line in event.detail)
        assert lab.status("h1").down_droplets == ("h2",), "all that while"
        cut(lab, "del")
        until(lambda: lab.status("h1").down_droplets == () == lab.status("h2").down_droplets, "them to come back")
        for family in FAMILIES:
            until(lambda family=family: lab.path("web-1", "web-2", family).route == "direct", "the direct path")
        assert any("h2" in line for event in until(up, "the event") for line in event.detail)
    for family in FAMILIES:
        exchange_all(lab, "web-1", "web-2", family)


def nft(lab: SystemLab, host: str, *rules: str) -> None:
    done = run_in(lab.names.droplet(host), ["nft", "; ".join(rules)])
    assert done.returncode == 0, done.stderr


def test_a_host_whose_own_firewall_drops_its_probes_marks_no_peer_down(broken):
    """What endpoints send passes no packet filter of the host: direct paths go on."""
    lab = broken
    for family in FAMILIES:
        exchange_udp(lab, "web-1", "web-2", [100, 100], family)
    chain = "add chain inet host out { type filter hook output priority 0; }"
    nft(lab, "h1", "add table inet host", chain, "add rule inet host out udp dport 6081 drop")
    try:
        until(lambda: [fault.kind for fault in lab.status("h1").faults] == ["local_firewall"], "the fault")
        (fault,) = lab.status("h1").faults
        assert "leave eth0 to UDP port 6081" in fault.detail
        assert fault.subject == f"eth0 {lab.topology.droplets['h1'].address}"
        tried = lab.probes("h1").sent
        until(lambda: lab.probes("h1").sent > tried + 8, "more probes than it takes to lose both peers")
        assert lab.status("h1").down_droplets == ()
        for family in FAMILIES:
            exchange_udp(lab, "web-1", "web-2", [100, 100], family)
            assert lab.path("web-1", "web-2", family).route == "direct"
    finally:
        nft(lab, "h1", "delete table inet host")
    until(lambda: lab.status("h1").faults == (), "the end of the fault")


def test_the_rules_that_the_documentation_names_let_all_through_that_an_agent_needs(broken):
    lab = broken
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (rules,) = re.findall(r"```\n(table inet filter \{.*?)```", page, re.DOTALL)
    nft(lab, "h1", rules)
    try:
        lab.ip(lab.names.droplet("h1"), "neigh", "flush", "dev", "eth0")
        tried, answered = lab.probes("h1").sent, lab.probes("h1").answered
        until(lambda: lab.probes("h1").sent > tried + 8, "probes")
        until(lambda: lab.probes("h1").answered > answered + 8, "answers")
        status = lab.status("h1")
        assert (status.faults, status.down_droplets, status.unresolved_next_hops) == ((), (), ())
        lab.restart_agent("h1")
        until(lambda: knows(lab, "h1"), "all to answer again")
    finally:
        nft(lab, "h1", "delete table inet filter")


def test_a_host_that_is_cut_off_altogether_is_reached_again_when_it_is_back(broken):
    lab = broken
    for family in FAMILIES:
        exchange_udp(lab, "web-1", "web-2", [100], family)
    port = lab.ports()["h2", "eth0"]
    lab.ip(lab.names.fabric, "link", "set", port, "down")
    until(lambda: "h2" in lab.status("h1").down_droplets, "h1 to see it")
    assert ping(lab, "web-1", lab.address("web-2"), count=2, wait=1) == 0
    lab.ip(lab.names.fabric, "link", "set", port, "up")
    until(lambda: lab.status("h1").down_droplets == (), "it to come back")
    until(lambda: pings(lab, "web-1", "web-2"), "answers")
