"""A VXLAN peer, whose kernel sends GSO packets, reaches endpoints behind every combination of hooks and is reached."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.offloaded import send_segments
from lab.traffic import exchange_all, exchange_tcp
from lab.waiting import PATIENCE, until

TEXT = """\
underlay: {{wires: {wires}, cidr: 172.18.0.0/24}}
agents:
  hosts:
    x: {{endpoint_hook: xdp, uplink_hook: {uplink}}}
    t: {{endpoint_hook: tc, uplink_hook: {uplink}}}
    b: {{endpoint_hook: tc, uplink_hook: tc}}
droplets:
  x: {{address: 172.18.0.11}}
  t: {{address: 172.18.0.12}}
  b: {{address: 172.18.0.13}}
  p: {{address: 172.18.0.14, peer: vxlan}}
vpcs:
  - {{name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: []}}
networks:
  - {{name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [{bouncer}], encapsulation: vxlan}}
endpoints:
  - {{name: web-x, network: web, droplet: x}}
  - {{name: web-t, network: web, droplet: t}}
  - {{name: web-b, network: web, droplet: b}}
  - {{name: web-p, network: web, droplet: p}}
"""
SIZE = 2 << 20


@pytest.fixture(scope="module", params=[("physical", "xdp", "x"), ("virtual", "tc", "b")], ids=lambda one: one[0])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """All of the peer's packets come by one bouncer, which sends them on to the hosts of endpoints."""
    wires, uplink, bouncer = request.param
    text = TEXT.format(wires=wires, uplink=uplink, bouncer=bouncer)
    with running_lab("hookspeer", text, lossy="a peer's packets are not counted") as lab:
        yield lab


ENDPOINTS = pytest.mark.parametrize("endpoint", ["web-x", "web-t", "web-b"])
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
@ENDPOINTS
def test_a_peer_and_endpoints_exchange_echoes_streams_and_datagrams(lab, endpoint, family):
    exchange_all(lab, endpoint, "web-p", family, SIZE)
    exchange_tcp(lab, "web-p", endpoint, SIZE, family)


@FAMILIES
@ENDPOINTS
def test_datagrams_that_the_kernel_segments_reach_peers(lab, endpoint, family):
    send_segments(lab, endpoint, "web-p", 1200, 40, family)


@FAMILIES
@ENDPOINTS
def test_datagrams_that_the_kernel_segments_arrive_from_peers(lab, endpoint, family):
    """Over virtual wires they stay together, and no stack can cut them behind a tunnel: they are counted drops."""
    if "wires: virtual" not in lab.text:
        send_segments(lab, "web-p", endpoint, 1200, 40, family)
        return
    host = endpoint.removeprefix("web-")
    before = lab.counters(host).get("gso_packet", 0)
    with pytest.raises((AssertionError, TimeoutError)):
        send_segments(lab, "web-p", endpoint, 1200, 40, family)
    until(lambda: lab.counters(host).get("gso_packet", 0) - before >= 40, "the drops", PATIENCE)
