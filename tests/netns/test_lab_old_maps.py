"""A bouncer whose agent is dead keeps an old map: endpoints that move meanwhile are reached by the other one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.counting import grown
from lab.fixtures import SystemLab, running_lab
from lab.moves import adopt_without
from lab.neighbours import keep_neighbours
from lab.traffic import exchange_all, flow_between, send_one_way
from lab.underlays import over
from lab.waiting import until

FAMILIES = (4, 6)
MOVING = "web-2"
TEXT = """\
droplets:
  h1: {address: 172.18.0.11/24}
  h2: {address: 172.18.0.12/24}
  h3: {address: 172.18.0.13/24}
  h4: {address: 172.18.0.14/24}
  h5: {address: 172.18.0.15/24}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h4, h5]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h4, h5]}
  - {name: app, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [h1]}
  - {name: far, vpc: red, cidr: [10.0.3.0/24, "fd10:0:0:3::/64"], bouncers: [h1], routing: divider}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
  - {name: "web-near-{n}", network: web, count: 3, droplet: h1}
  - {name: "web-old-{n}", network: web, count: 3, droplet: h2}
  - {name: web-new, network: web, droplet: h3}
  - {name: "app-{n}", network: app, count: 3, droplet: h1}
  - {name: "far-{n}", network: far, count: 3, droplet: h1}
"""


@pytest.fixture(params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("oldmap", over(request.param, TEXT)) as lab:
        keep_neighbours(lab)
        yield lab


def move_without_h4(lab: SystemLab) -> None:
    """Move web-2 from h2 to h3 and wait for both; the agent of h4 is dead and hears nothing of it."""
    text = lab.text.replace("web-2, network: web, droplet: h2", "web-2, network: web, droplet: h3")
    adopt_without(lab, text, "h4")


def test_senders_whose_bouncer_has_an_old_map_reach_an_endpoint_that_moved_by_the_other_bouncer(lab: SystemLab) -> None:
    """Not one packet is lost once the move is done: of a conversation that went on, nor of any sender's first ones."""
    senders = [name for name in lab.endpoints if name not in (MOVING, "web-new", "web-1")]
    with ExitStack() as stack:
        flows = [stack.enter_context(flow_between(lab, "web-1", MOVING, family)) for family in FAMILIES]
        until(lambda: lab.path("web-1", MOVING).route == "direct", "the direct path")
        lab.kill_agent("h4")
        alive = [host for host in lab.hosts if host != "h4"]
        before = {host: lab.counters(host) for host in alive}
        move_without_h4(lab)
        done = [flow.sent for flow in flows]
        for flow, again in zip(flows, done, strict=True):
            until(lambda flow=flow, again=again: any(number > again for number in flow.back), "answers")
        moved = {host: lab.counters(host) for host in alive}
        for sender in senders:
            for family in FAMILIES:
                send_one_way(lab, sender, MOVING, 100, family)
        after = {host: lab.counters(host) for host in alive}
    for flow, again in zip(flows, done, strict=True):
        assert [number for number in flow.missing if number > again] == [], f"of {flow.sent}, the move done at {again}"
    assert after["h2"]["misdirected"] > before["h2"]["misdirected"], "the old host returned some to their senders' host"
    assert after["h1"]["rerouted"] > before["h1"]["rerouted"]
    assert after["h2"]["rerouted"] > before["h2"]["rerouted"], "and what its own endpoints sent, it sent anew"
    assert (
        grown(moved, after, "all_misdirected", "endpoint_not_local", "too_many_bounces", "outer_ttl", "no_endpoint")
        == 0
    )
    for sender in ("web-1", "web-old-1", "app-1"):
        for family in FAMILIES:
            exchange_all(lab, sender, MOVING, family, size=1 << 16)
    lab.restart_agent("h4")
