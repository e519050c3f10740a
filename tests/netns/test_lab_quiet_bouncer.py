"""Two hosts that talk straight need no bouncer, not even when their endpoints' kernels doubt an Ethernet address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.peers import knows
from lab.traffic import flow_between
from lab.underlays import over
from lab.waiting import until

FAMILIES = (4, 6)
TALK = (("web-1", "web-2"), ("web-2", "web-1"))


@pytest.fixture(params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("quiet", over(request.param, topology_text("moving")), lossy="a wire is cut") as lab:
        yield lab


def neighbour(lab: SystemLab, asker: str, address: str) -> str:
    """Return in which state an endpoint's kernel has a neighbour; an empty text for none."""
    found = json.loads(lab.ip(lab.inside(asker), "-j", "neigh", "show", address))
    return " ".join(found[0].get("state", [])) if found else ""


def test_a_flow_continues_while_its_only_bouncers_host_is_down(lab):
    """Its kernels ask for the addresses again: the one that they hold, and all when they hold none."""
    port = lab.ports()["h4", "eth0"]
    until(lambda: knows(lab, "h1"), "every droplet to answer h1")
    with ExitStack() as stack:
        flows = [stack.enter_context(flow_between(lab, "web-1", "web-2", family)) for family in FAMILIES]
        for family in FAMILIES:
            for one, other in TALK:
                until(lambda f=family, a=one, b=other: lab.path(a, b, f).route == "direct", "the direct path")
        lab.ip(lab.names.fabric, "link", "set", port, "down")
        stack.callback(lab.ip, lab.names.fabric, "link", "set", port, "up")
        until(lambda: "h4" in lab.status("h1").down_droplets, "h1 to see that h4 is down")
        cut = [flow.sent for flow in flows]
        for family in FAMILIES:
            for one, other in TALK:
                ask_anew(lab, one, lab.address(other, family))
        for flow, family, since in zip(flows, FAMILIES, cut, strict=True):
            now = flow.sent
            until(lambda flow=flow, now=now: any(n > now + 50 for n in flow.back), "the flow to go on")
            lost = [n for n in range(since, now) if n not in flow.back]
            until(lambda flow=flow, lost=lost: not [n for n in lost if n not in flow.back], f"all over IPv{family}")


def ask_anew(lab: SystemLab, asker: str, address: str) -> None:
    """Make a kernel revalidate a neighbour, and then delete it; each time it must resolve it again."""
    until(lambda: neighbour(lab, asker, address) != "", "an entry")
    lab.ip(lab.inside(asker), "neigh", "change", address, "dev", "eth0", "nud", "probe")
    until(lambda: neighbour(lab, asker, address) not in ("PROBE", "DELAY", "STALE"), "the end of the doubt")
    assert neighbour(lab, asker, address) == "REACHABLE", "the one who was asked has answered"
    lab.ip(lab.inside(asker), "neigh", "del", address, "dev", "eth0")
    until(lambda: neighbour(lab, asker, address) not in ("", "INCOMPLETE"), "an answer to who asks all")
    assert neighbour(lab, asker, address) == "REACHABLE"
