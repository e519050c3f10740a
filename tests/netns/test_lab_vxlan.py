"""A network of VXLAN with a peer that speaks only that: the kernel's own VXLAN device behind a bridge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import exchange_all, exchange_tcp, exchange_udp, learnt_mtu, mtu_of, ping, ping_whole, udp_socket
from lab.waiting import until
from lab.wire import GENEVE, VXLAN, tapped

from controller_sim.reachability import check_all

PORT = 7112
PEER = "p"


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """The shipped topology, and the same over a substrate of IPv6."""
    text = topology_text("vxlan_peer")
    if request.param == "ipv6":
        for number in (11, 12, 13, 14):
            text = text.replace(f"172.18.0.{number}/24", f'"fd18::{number}/64"')
    with running_lab("vxlan", text) as lab:
        yield lab


def flush_neighbours(lab: SystemLab, *endpoints: str) -> None:
    for endpoint in endpoints:
        lab.ip(lab.inside(endpoint), "neigh", "flush", "dev", "eth0")


def neighbours(lab: SystemLab, endpoint: str) -> dict[str, str]:
    """Return what an endpoint's kernel has resolved: address -> MAC."""
    found = json.loads(lab.ip(lab.inside(endpoint), "-j", "neigh", "show", "dev", "eth0"))
    return {one["dst"]: one.get("lladdr", "") for one in found}


@pytest.mark.parametrize("family", [4, 6])
def test_the_first_ping_is_answered_from_the_peer_and_to_it(lab, family):
    flush_neighbours(lab, *lab.endpoints)
    assert ping(lab, "bare-1", lab.address("old-1", family), count=1) == 1
    assert ping(lab, "old-2", lab.address("bare-2", family), count=1) == 1


@pytest.mark.parametrize("family", [4, 6])
def test_arp_and_neighbour_discovery_find_the_endpoints_own_macs_on_both_sides(lab, family):
    flush_neighbours(lab, *lab.endpoints)
    exchange_udp(lab, "bare-1", "old-1", [10], family)
    assert neighbours(lab, "bare-1")[lab.address("old-1", family)] == lab.mac("old-1").hex(":")
    assert neighbours(lab, "old-1")[lab.address("bare-1", family)] == lab.mac("bare-1").hex(":")


@pytest.mark.parametrize("family", [4, 6])
def test_echoes_connections_and_datagrams_arrive_unchanged_both_ways(lab, family):
    for one, other in (("bare-1", "old-1"), ("old-2", "bare-2"), ("old-1", "old-2"), ("bare-1", "bare-2")):
        exchange_all(lab, one, other, family)
    exchange_tcp(lab, "bare-2", "old-1", 4 << 20, family)


def test_the_peer_is_sent_vxlan_and_nothing_else(lab):
    """RFC 7348, section 5: the I flag, the VNI, and Ethernet at once behind the eight bytes."""
    with tapped(lab, PEER) as tap:
        for family in (4, 6):
            exchange_udp(lab, "old-1", "bare-1", [100], family)
            exchange_udp(lab, "bare-2", "old-2", [100], family)
        packets = tap.tunnelled(VXLAN, GENEVE)
    own = lab.topology.droplets[PEER].address
    to_peer = [packet for packet in packets if packet.destination == own]
    assert to_peer
    assert {packet.port for packet in packets} == {VXLAN}
    assert {packet.body[:8] for packet in to_peer} == {bytes([8, 0, 0, 0]) + (1001).to_bytes(3, "big") + b"\0"}
    macs = {lab.mac("bare-1"), lab.mac("bare-2")}
    assert {packet.inner[:6] for packet in to_peer if not packet.inner[0] & 1} <= macs
    assert all(packet.right or not packet.checksum for packet in packets)


def test_our_own_hosts_speak_vxlan_for_that_network_too_and_geneve_to_the_bouncer(lab):
    exchange_udp(lab, "old-1", "old-2", [1, 1])
    with tapped(lab, "h2") as tap:
        exchange_udp(lab, "old-1", "old-2", [100] * 5)
        packets = tap.tunnelled(VXLAN, GENEVE)
    assert packets
    to_bouncer = {lab.topology.droplets["h3"].address}
    assert all(packet.port == GENEVE for packet in packets if packet.destination in to_bouncer)
    assert any(packet.port == VXLAN for packet in packets)


def test_a_packet_with_the_vni_not_marked_as_there_is_dropped_with_a_reason(lab):
    own, to = lab.topology.droplets[PEER].address, lab.topology.droplets["h1"].address
    before = lab.counters("h1")["vxlan_flags"]
    with udp_socket(lab.names.droplet(PEER), own) as sender:
        sender.sendto(bytes(4) + (1001).to_bytes(3, "big") + b"\0" + bytes(60), (to, VXLAN))
    until(lambda: lab.counters("h1")["vxlan_flags"] == before + 1, "the drop", 10)


def test_the_peer_cannot_reach_another_tenant_by_its_vni(lab):
    own, to = lab.topology.droplets[PEER].address, lab.topology.droplets["h1"].address
    before = lab.counters("h1")
    frame = lab.mac("old-1") + lab.mac("bare-1") + b"\x08\x00" + b"\x45" + bytes(59)
    with udp_socket(lab.names.droplet(PEER), own) as sender:
        sender.sendto(bytes([8, 0, 0, 0]) + (2002).to_bytes(3, "big") + b"\0" + frame, (to, VXLAN))
    until(lambda: lab.counters("h1")["received_from_substrate"] > before["received_from_substrate"], "the packet", 10)
    assert lab.counters("h1")["delivered"] == before["delivered"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_that_sends_more_than_our_endpoints_take_is_told_the_size(lab, family):
    """Through the tunnel that it came by, from the network's gateway."""
    lab.ip(lab.inside("bare-1"), "link", "set", "eth0", "mtu", str(mtu_of(lab, "bare-1") + 12))
    address, fits = lab.address("old-1", family), mtu_of(lab, "old-1")
    try:
        until(lambda: "1 received" in ping_whole(lab, "bare-1", address, fits), "an answer", 10)

        def told() -> bool:
            ping_whole(lab, "bare-1", address, fits + 12)
            return learnt_mtu(lab, "bare-1", address) == fits

        until(told, "the size", 10)
        exchange_tcp(lab, "bare-1", "old-1", 1 << 20, family)
    finally:
        lab.ip(lab.inside("bare-1"), "link", "set", "eth0", "mtu", str(fits))


def test_everyone_reaches_everyone_by_the_labs_own_check(lab):
    found = check_all(lab.lab)
    assert found.passed, [(pair.source, pair.destination, pair.failures) for pair in found.failures]
