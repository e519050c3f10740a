"""A changed hook is taken over at the next start of an agent, and no packet is lost."""

from __future__ import annotations

import re

from lab.echoes import unbroken
from lab.fixtures import running_lab, topology_text
from lab.traffic import exchange_all

STEPS = (("tc", "xdp"), ("tc", "tc"), ("xdp", "tc"), ("xdp", "xdp"), ("tc", "tc"), ("xdp", "xdp"))
"""The hooks of endpoints and of the uplink, one after the other; both change at the last two."""
TEXT = f"{topology_text('one_bouncer')}agents: {{endpoint_hook: xdp, uplink_hook: xdp}}\n"


def test_every_change_of_a_hook_is_taken_over_without_a_lost_packet(lab_cache):
    with running_lab("takeover", TEXT) as lab:
        here, there = (lab.names.endpoint(name) for name in ("web-1", "web-2"))
        addresses = {here: "10.0.1.2", there: "10.0.1.3"}
        settings = lab.lab.paths.settings("h1")
        for endpoints, uplinks in STEPS:
            text = re.sub(r'(?m)^endpoint_hook = ".*"$', f'endpoint_hook = "{endpoints}"', settings.read_text())
            settings.write_text(re.sub(r'(?m)^uplink_hook = ".*"$', f'uplink_hook = "{uplinks}"', text))
            with unbroken(here, addresses[there]), unbroken(there, addresses[here]):
                lab.kill_agent("h1")
                status = lab.restart_agent("h1")
            shown = {"tc": "tcx", "xdp": "xdp"}
            assert status.endpoint_hook == shown[endpoints]
            assert status.endpoint_hooks == {shown[endpoints]: status.objects.local_endpoints}
            assert ("endpoint" in status.losses_at_tc) is (endpoints == "tc")
            assert ("eth0" in status.losses_at_tc) is (uplinks == "tc")
            assert [one.hook for one in status.uplinks] == [shown[uplinks]]
            exchange_all(lab, "web-1", "web-2", 4, 300_000)
