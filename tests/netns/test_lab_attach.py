"""How programs are attached: native, generic or offload, as asked; or exactly why not."""

from __future__ import annotations

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import exchange_all
from lab.waiting import PATIENCE, until

from controller_sim.lab.controller import prepare
from controller_sim.lab.processes import tail

XDP_MODES = {"native": "xdp", "generic": "xdpgeneric"}


def text_with(mode: str) -> str:
    return f"{topology_text('moving')}agents: {{attach_mode: {mode}}}\n"


@pytest.mark.parametrize(("asked", "runs"), [("auto", "native"), ("native", "native"), ("generic", "generic")])
def test_the_programs_run_in_the_mode_that_was_asked_for_and_traffic_flows(lab_cache, asked, runs):
    with running_lab("attach", text_with(asked)) as lab:
        for host in lab.hosts:
            assert {one.attach_mode for one in lab.status(host).uplinks} == {runs}
            assert f" {XDP_MODES[runs]} " in lab.ip(lab.names.droplet(host), "link", "show", "eth0").replace("/", " ")
        for one, other, family in lab.talks():
            exchange_all(lab, one, other, family, 300_000)


def test_offload_is_refused_by_a_driver_without_support_and_the_agent_explains_it(lab_cache):
    lab = SystemLab("offload", text_with("offload"))
    lab.build()
    try:
        prepare(lab.lab)
        lab.lab.start_agent("h1")
        until(lambda: not lab.lab.agent_runs("h1") or "offload" in tail(lab.lab.paths.log("h1")), "a word", PATIENCE)
        said = tail(lab.lab.paths.log("h1"), 40)
        assert "offload" in said
        assert "veth" in said, "whose driver it is"
        assert "Traceback" not in said
        assert "prog" not in lab.ip(lab.names.droplet("h1"), "link", "show", "eth0"), "nothing else is done instead"
    finally:
        lab.down()
