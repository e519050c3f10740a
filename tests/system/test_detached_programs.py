"""Transit XDP that another process detaches from an uplink is attached again long before the next resync."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.fixtures import INTERVALS, SystemLab, running_lab, topology_text
from lab.repairs import HOST, detach_tcx_programs
from lab.traffic import pings
from lab.waiting import until

LOSSY = "what came to the uplink without its program is gone"
AGENTS = {
    "xdp": "agents: {uplink_hook: xdp}\n",
    "tc": "underlay: {wires: virtual}\nagents: {endpoint_hook: tc, uplink_hook: tc}\n",
}


def never_resync(lab: SystemLab) -> None:
    for host in lab.hosts:
        lab.set_intervals(host, {**INTERVALS, "observe": 3600.0})


@pytest.fixture(params=AGENTS)
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    text = topology_text("bouncer_on_host") + AGENTS[request.param]
    with running_lab("detached", text, lossy=LOSSY, wires=never_resync) as lab:
        yield lab


def detach(lab: SystemLab) -> None:
    """Detach the program of the host's uplink, at whichever hook it runs."""
    lab.ip(lab.names.droplet(HOST), "link", "set", "dev", "eth0", "xdp", "off")
    detach_tcx_programs(lab, "eth0")


def test_a_detached_program_returns_without_a_resync(lab: SystemLab) -> None:
    assert pings(lab, "web-1", "web-2")
    before = lab.status(HOST)
    with lab.events(HOST, "repaired") as events:
        detach(lab)
        until(events, "the event")
    assert any("attach transit XDP" in line for line in events()[0].detail)
    after = lab.status(HOST)
    assert after.repairs > before.repairs
    assert [one.hook for one in after.uplinks] == [one.hook for one in before.uplinks]
    until(lambda: pings(lab, "web-1", "web-2"), "answers")
    assert lab.plan(HOST) == ()
