"""TCP flows where droplets with and without UDP checksums over IPv6 are mixed, also if it always passes a bouncer.

A bouncer that has to send checksums cannot forward GSO packets: endpoints whose packets never go direct send none.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.traffic import exchange_tcp

from controller_sim.lab.namespaces import run_in

TEXT = """\
underlay: {wires: virtual}
agents: {endpoint_hook: tc, uplink_hook: tc}
droplets:
  h1: {address: "fd18::11/64", udp_checksum: zero}
  h2: {address: "fd18::12/64"}
  h3: {address: "fd18::13/64"}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h2]}
networks:
  - {name: old, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h2], encapsulation: vxlan}
  - {name: new, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [h2]}
endpoints:
  - {name: old-1, network: old, droplet: h1}
  - {name: old-3, network: old, droplet: h3}
  - {name: new-1, network: new, droplet: h1}
  - {name: new-3, network: new, droplet: h3}
"""


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("mixedsums", TEXT) as lab:
        yield lab


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("network", ["old", "new"])
def test_streams_flow_in_both_directions(lab: SystemLab, network: str, family: int) -> None:
    exchange_tcp(lab, f"{network}-1", f"{network}-3", 8 << 20, family)
    exchange_tcp(lab, f"{network}-3", f"{network}-1", 8 << 20, family)


def test_the_status_names_the_bouncer_that_sends_checksums(lab: SystemLab) -> None:
    assert lab.status("h1").gso_refused.endswith("sent from h2")
    shown = run_in(lab.inside("old-1"), ["ethtool", "-k", "eth0"]).stdout
    assert "tcp-segmentation-offload: off" in shown
    assert all(counters["gso_packet"] == 0 for counters in lab.all_counters().values())
