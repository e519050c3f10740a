"""An uplink that gets another Ethernet address: its agent announces it; without an agent, others resolve it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.filters import let_all_in, let_only_its_own_address_in
from lab.fixtures import SystemLab, running_lab
from lab.peers import knows
from lab.traffic import exchange_all, flow_between
from lab.underlays import over
from lab.waiting import until
from lab.wire import tapped

from agent.core.nexthop.neighbour_frames import announcement
from controller_sim.lab.namespaces import run_in
from protocol.addresses import parse_address

HOUR = 3_600_000
FAMILIES = (4, 6)
TWO_HOSTS = """\
droplets:
  h1: {address: 172.18.0.11/24}
  h2: {address: 172.18.0.12/24}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h1]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h1]}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
"""


def sure_of_neighbours(lab: SystemLab) -> None:
    """Have no host's kernel doubt by itself what it knows of a neighbour, nor announce anything."""
    for host in lab.hosts:
        settings = [f"net.{ip}.neigh.eth0.base_reachable_time_ms={HOUR}" for ip in ("ipv4", "ipv6")]
        settings += ["net.ipv4.conf.eth0.arp_notify=0", "net.ipv6.conf.eth0.ndisc_notify=0"]
        done = run_in(lab.names.droplet(host), ["sysctl", "-qw", *settings])
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    text = over(request.param, TWO_HOSTS)
    with running_lab(
        "unannounced", text, wires=sure_of_neighbours, lossy="a wire drops what is for an old address"
    ) as lab:
        yield lab


def mac_of(lab: SystemLab, host: str) -> str:
    (link,) = json.loads(lab.ip(lab.names.droplet(host), "-j", "link", "show", "eth0"))
    return str(link["address"])


def change_mac(lab: SystemLab, host: str, new: str) -> None:
    """Give an uplink another Ethernet address; what is sent to the old one does not come in any more."""
    let_only_its_own_address_in(lab, host, mac_of(lab, host))
    lab.ip(lab.names.droplet(host), "link", "set", "eth0", "address", new)


def announced(frames: list[bytes], lab: SystemLab, host: str, mac: str) -> bool:
    address = parse_address(lab.topology.droplets[host].address)
    return announcement(bytes.fromhex(mac.replace(":", "")), address) in frames


def test_an_agent_announces_its_droplets_when_it_starts(lab: SystemLab) -> None:
    with tapped(lab, "h2") as tap:
        seen: list[bytes] = []
        lab.kill_agent("h2")
        lab.restart_agent("h2")
        until(lambda: seen.extend(tap.frames()) or announced(seen, lab, "h2", mac_of(lab, "h2")), "the announcement")


def test_an_agent_announces_its_droplets_when_their_ethernet_address_changes(lab: SystemLab) -> None:
    new = "02:00:00:00:18:01"
    with ExitStack() as stack:
        tap = stack.enter_context(tapped(lab, "h2"))
        flows = [stack.enter_context(flow_between(lab, "web-1", "web-2", family)) for family in FAMILIES]
        seen: list[bytes] = []
        tap.frames()
        try:
            change_mac(lab, "h2", new)
            until(lambda: seen.extend(tap.frames()) or announced(seen, lab, "h2", new), "the announcement")
            comes_back(flows)
        finally:
            let_all_in(lab, "h2")
    tell_outages("announced", flows)


def test_traffic_recovers_from_an_unannounced_change_of_an_ethernet_address(lab: SystemLab) -> None:
    """The other host's agent is dead, and this host's kernel trusts its entry: the agent resolves it again."""
    until(lambda: knows(lab, "h1"), "h2 to answer probes")
    with ExitStack() as stack:
        flows = [stack.enter_context(flow_between(lab, "web-1", "web-2", family)) for family in FAMILIES]
        lab.kill_agent("h2")
        try:
            change_mac(lab, "h2", "02:00:00:00:18:02")
            comes_back(flows)
        finally:
            let_all_in(lab, "h2")
    tell_outages("not announced", flows)
    assert lab.status("h1").unresolved_next_hops == ()
    lab.restart_agent("h2")
    for family in FAMILIES:
        exchange_all(lab, "web-1", "web-2", family)


def comes_back(flows: list) -> None:
    for flow in flows:
        since = flow.sent
        until(lambda flow=flow, since=since: len([n for n in flow.back if n > since + 20]) > 100, "packets again")


def tell_outages(what: str, flows: list) -> None:
    for family, flow in zip(FAMILIES, flows, strict=True):
        print(f"{what}: IPv{family} lost {len(flow.missing)} packets, {len(flow.missing) * flow.EVERY:.2f} s")
