"""Segments of GSO packets fit the path: with frames of both sizes, and when the path changes under a stream."""

from __future__ import annotations

import concurrent.futures

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.traffic import exchange_all, learnt_mtu, mtu_of
from lab.underlays import over
from lab.waiting import until

from controller_sim.talk.transfer import Transfer, transfer

TEXT = """\
underlay:
  wires: {wires}
  mtu: {mtu}
  subnets:
    north: {{cidr: 172.18.1.0/24}}
    south: {{cidr: 172.18.2.0/24}}
agents: {{endpoint_hook: tc, uplink_hook: {uplinks}}}
droplets:
  h1: {{address: 172.18.1.11, udp_checksum: zero}}
  h2: {{address: 172.18.2.12, udp_checksum: zero}}
vpcs:
  - {{name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h1]}}
networks:
  - {{name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h1]}}
endpoints:
  - {{name: "web-{{n}}", network: web, count: 2, droplets: [h1, h2]}}
"""
HOOKS = {"tc": ("virtual", "tc"), "tc, XDP": ("physical", "xdp")}
"""Wires, and the hook of uplinks: the router forwards GSO packets whole, or the sender's uplink cuts them."""
OVERHEAD = {"ipv4": 62, "ipv6": 94}
NARROW = 1400
SECONDS = 6.0
AGENTS = pytest.mark.parametrize("hooks", HOOKS)
UNDERLAYS = pytest.mark.parametrize("underlay", OVERHEAD)


def text_of(hooks: str, underlay: str, mtu: int = 1500) -> str:
    wires, uplinks = HOOKS[hooks]
    text = TEXT.format(wires=wires, uplinks=uplinks, mtu=mtu)
    return over(underlay, text if underlay == "ipv6" else text.replace(", udp_checksum: zero", ""))


@AGENTS
@UNDERLAYS
def test_endpoints_use_the_large_frames_of_an_underlay(lab_cache: None, hooks: str, underlay: str) -> None:
    with running_lab("jumbo", text_of(hooks, underlay, 9000)) as lab:
        assert {mtu_of(lab, endpoint) for endpoint in lab.endpoints} == {9000 - OVERHEAD[underlay]}
        for family in (4, 6):
            exchange_all(lab, "web-1", "web-2", family)


@AGENTS
@UNDERLAYS
def test_a_stream_goes_on_when_its_path_gets_narrow(lab_cache: None, hooks: str, underlay: str) -> None:
    text = text_of(hooks, underlay)
    with running_lab("narrowing", text, lossy="what was too long for the path when it changed is gone") as lab:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            streams = [pool.submit(stream, lab, family) for family in (4, 6)]
            until(lambda: lab.counters("h2")["delivered"] > 10_000, "the streams to flow")
            lab.ip(lab.names.router, "link", "set", "eth1", "mtu", str(NARROW))
            found = [one.result() for one in streams]
        assert [one.well for one in found] == [True, True], found
        for family in (4, 6):
            assert learnt_mtu(lab, "web-1", lab.address("web-2", family)) == NARROW - OVERHEAD[underlay]


def stream(lab: SystemLab, family: int) -> Transfer:
    """Send for some seconds, longer than it takes to find out what the path carries."""
    return transfer(lab.inside("web-1"), lab.inside("web-2"), lab.address("web-2", family), SECONDS, 7008 + family)
