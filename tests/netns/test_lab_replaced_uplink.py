"""An interface in the underlay that another of its name takes the place of, under a running agent with traffic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.fixtures import INTERVALS, SystemLab, running_lab, topology_text
from lab.traffic import exchange_all, flow_between, pings
from lab.underlays import over
from lab.waiting import until

from controller_sim.lab.underlay import _add_interface

RARELY = 60.0
"""Seconds between resyncs: an agent that notices a change sooner learnt it from a netlink event."""


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def uplinks(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """Over an underlay of either family."""
    text = over(request.param, topology_text("two_uplinks"))
    with running_lab("replaced", text, lossy="an interface is taken away under traffic") as lab:
        yield lab


def replace_interface(lab: SystemLab, host: str, interface: str) -> None:
    """Replace an interface by another one with its name and addresses, as reloading a driver does."""
    names, topology = lab.names, lab.topology
    own = [one for one in topology.droplets.values() if (one.host, one.interface) == (host, interface)]
    lab.ip(names.droplet(host), "link", "delete", interface)
    _add_interface(names, topology.underlay, own, lab.ports()[host, interface])


def ifindex(lab: SystemLab, host: str, interface: str) -> str:
    return lab.ip(lab.names.droplet(host), "-o", "link", "show", interface).partition(":")[0]


def test_an_interface_that_is_replaced_is_served_again_at_once(uplinks):
    uplinks.set_intervals("a", {**INTERVALS, "observe": RARELY})
    uplinks.lab.stop_agent("a")
    uplinks.lab.start_agent("a")
    uplinks.wait_in_sync("a")
    uplinks.wait_for_next_hops("a")
    before, agent = ifindex(uplinks, "a", "eth1"), uplinks.pid("a")
    with flow_between(uplinks, "web-1", "web-3") as flow:
        replace_interface(uplinks, "a", "eth1")
        assert ifindex(uplinks, "a", "eth1") != before
        until(lambda: pings(uplinks, "web-2", "web-4"), "traffic by the new interface", RARELY / 2)
        again = flow.sent
        until(lambda: len([n for n in flow.back if n > again]) > 100, "the other interface's traffic")
    found = {one.interface: one.attach_mode for one in uplinks.status("a").uplinks}
    assert found == {"eth0": "native", "eth1": "native"}
    assert uplinks.pid("a") == agent, "the agent goes on"
    for one, other, family in uplinks.talks():
        exchange_all(uplinks, one, other, family, 50_000)
