"""An endpoint moves beside a bouncer that is gone: unplugged with its whole host, or, with VXLAN, without its agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.moves import adopt_without
from lab.neighbours import keep_neighbours
from lab.traffic import exchange_all, flow_between, send_one_way, udp_socket
from lab.underlays import over
from lab.waiting import until

from controller_sim.lab.controller import converge

FAMILIES = (4, 6)
MOVING = ("web-2", "vx-2")
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
  - {name: vx, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [h4, h5], encapsulation: vxlan}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
  - {name: "web-near-{n}", network: web, count: 4, droplet: h1}
  - {name: web-new, network: web, droplet: h3}
  - {name: vx-1, network: vx, droplet: h1}
  - {name: vx-2, network: vx, droplet: h2}
  - {name: "vx-near-{n}", network: vx, count: 4, droplet: h1}
  - {name: vx-new, network: vx, droplet: h3}
"""


@pytest.fixture(params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("unplug", over(request.param, TEXT), lossy="a wire is cut") as lab:
        keep_neighbours(lab)
        yield lab


def move(lab: SystemLab) -> None:
    """Move both endpoints from h2 to h3 and wait for all hosts but h4, which hears nothing of it."""
    text = lab.text
    for network in ("web", "vx"):
        text = text.replace(
            f"{network}-2, network: {network}, droplet: h2", f"{network}-2, network: {network}, droplet: h3"
        )
    adopt_without(lab, text, "h4")


def pairs() -> list[tuple[str, str]]:
    """Return who sends to which of the endpoints that move."""
    return [(f"{name[:-2]}-{who}", name) for name in MOVING for who in ("1", "near-1", "near-2", "near-3", "near-4")]


def test_an_endpoint_that_moves_while_a_bouncers_host_is_unplugged_is_reached_by_the_other_bouncer(
    lab: SystemLab,
) -> None:
    """Over Geneve and VXLAN: no host sends to a bouncer that answers no probe."""
    port = lab.ports()["h4", "eth0"]
    with ExitStack() as stack:
        flows = [
            stack.enter_context(flow_between(lab, f"{name[:-2]}-1", name, family))
            for name in MOVING
            for family in FAMILIES
        ]
        lab.ip(lab.names.fabric, "link", "set", port, "down")
        stack.callback(lab.ip, lab.names.fabric, "link", "set", port, "up")
        for host in ("h1", "h2", "h3"):
            until(lambda host=host: "h4" in lab.status(host).down_droplets, f"{host} to see that h4 is down")
        move(lab)
        done = [flow.sent for flow in flows]
        for flow, again in zip(flows, done, strict=True):
            until(lambda flow=flow, again=again: any(n > again + 50 for n in flow.back), "the flow to go on", 20)
        for sender, receiver in pairs():
            for family in FAMILIES:
                send_one_way(lab, sender, receiver, 20, family)
        for flow, again in zip(flows, done, strict=True):
            assert [n for n in flow.missing if n > again] == [], f"of {flow.sent}, the move done at {again}"
    until(lambda: "h4" not in lab.status("h1").down_droplets, "h1 to see that h4 is back")
    assert converge(lab.lab).converged


def one_datagram_each(lab: SystemLab) -> tuple[int, int]:
    """Have every endpoint of vx on h1 send vx-2 a datagram in each family; return how many were sent and arrived.

    Each of the others must have been dropped on h2, which has nothing else of the VPC.
    """
    before = lab.counters("h2").get("no_vpc", 0)
    arrived: set[tuple[str, int]] = set()
    sent = [(sender, family) for sender, receiver in pairs() if receiver == "vx-2" for family in FAMILIES]
    with ExitStack() as stack:
        receivers = {
            family: stack.enter_context(udp_socket(lab.inside("vx-2"), lab.address("vx-2", family), 7104))
            for family in FAMILIES
        }
        for sender, family in sent:
            with udp_socket(lab.inside(sender), lab.address(sender, family)) as one:
                one.sendto(sender.encode(), (lab.address("vx-2", family), 7104))

        def all_told() -> bool:
            for family, receiver in receivers.items():
                receiver.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        arrived.add((receiver.recv(100).decode(), family))
            return len(arrived) + lab.counters("h2").get("no_vpc", 0) - before == len(sent)

        until(all_told, "all to arrive or to be dropped on the old host")
    return len(sent), len(arrived)


def test_with_vxlan_senders_whose_bouncer_has_no_agent_wait_for_it_and_the_others_do_not(lab: SystemLab) -> None:
    """VXLAN cannot carry the origin, so a misdirected packet cannot be returned."""
    lab.kill_agent("h4")
    move(lab)
    sent, arrived = one_datagram_each(lab)
    assert 0 < arrived < sent, "those whose bouncer is h5"
    for family in FAMILIES:
        exchange_all(lab, "web-1", "web-2", family, size=1 << 16)
    lab.restart_agent("h4")
    assert converge(lab.lab).converged
    sent, arrived = one_datagram_each(lab)
    assert arrived == sent
