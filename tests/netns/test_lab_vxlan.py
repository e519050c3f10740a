"""A VXLAN network with a peer that supports only VXLAN: the kernel's own device behind a bridge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.frames import IPV4, ethernet, ipv4, udp
from lab.neighbours import keep_neighbours
from lab.traffic import (
    exchange_all,
    exchange_tcp,
    exchange_udp,
    learnt_mtu,
    mtu_of,
    ping,
    ping_whole,
    send_one_way,
    send_tunnelled,
    udp_socket,
)
from lab.underlays import over
from lab.waiting import until
from lab.wire import GENEVE, VXLAN, tapped

from controller_sim.talk.reachability import check_all

PORT = 7112
PEER = "p"
RED, BLUE, NOBODY = 1001, 2002, 3003
TENANT = """\
  - {name: shop-1, network: shop, droplet: h1, address: 10.0.1.77}
  - {name: shop-2, network: shop, droplet: h2, address: 10.0.1.78}
"""


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """The shipped topology with another tenant of the same addresses, over an underlay of either family."""
    text = over(request.param, topology_text("vxlan_peer")) + TENANT
    text = text.replace(
        "networks:\n", f"  - {{name: blue, vni: {BLUE}, cidr: 10.0.0.0/16, dividers: [h3]}}\nnetworks:\n"
    )
    text = text.replace("endpoints:\n", "  - {name: shop, vpc: blue, cidr: 10.0.1.0/24, bouncers: [h3]}\nendpoints:\n")
    with running_lab("vxlan", text, lossy="what the peer sends is counted by no agent") as lab:
        keep_neighbours(lab)
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
def test_echoes_connections_and_datagrams_arrive_unchanged_in_both_directions(lab, family):
    for one, other in (("bare-1", "old-1"), ("old-2", "bare-2"), ("old-1", "old-2"), ("bare-1", "bare-2")):
        exchange_all(lab, one, other, family)
    exchange_tcp(lab, "bare-2", "old-1", 4 << 20, family)


def test_the_peer_is_sent_vxlan_and_no_other_tenants_packets(lab):
    """RFC 7348, section 5: the I flag, the VNI, and Ethernet at once behind the eight bytes.

    A probe may pass, which asks at long intervals whether an agent has come to the peer.
    """
    with tapped(lab, PEER) as tap:
        for family in (4, 6):
            exchange_udp(lab, "old-1", "bare-1", [100], family)
            exchange_udp(lab, "bare-2", "old-2", [100], family)
        packets = [packet for packet in tap.tunnelled(VXLAN, GENEVE) if not packet.is_control]
    own = lab.topology.droplets[PEER].address
    to_peer = [packet for packet in packets if packet.destination == own]
    assert to_peer
    assert {packet.port for packet in packets} == {VXLAN}
    assert {packet.body[:8] for packet in to_peer} == {bytes([8, 0, 0, 0]) + (1001).to_bytes(3, "big") + b"\0"}
    macs = {lab.mac("bare-1"), lab.mac("bare-2")}
    assert {packet.inner[:6] for packet in to_peer if not packet.inner[0] & 1} <= macs
    assert all(packet.right or not packet.checksum for packet in packets)


def test_our_own_hosts_use_vxlan_for_that_network_and_geneve_to_the_bouncer(lab):
    exchange_udp(lab, "old-1", "old-2", [1, 1])
    with tapped(lab, "h2") as tap:
        exchange_udp(lab, "old-1", "old-2", [100] * 5)
        packets = tap.tunnelled(VXLAN, GENEVE)
    assert packets
    to_bouncer = {lab.topology.droplets["h3"].address}
    assert all(packet.port == GENEVE for packet in packets if packet.destination in to_bouncer)
    assert any(packet.port == VXLAN for packet in packets)


def from_peer(vni: int, frame: bytes, flags: int = 8) -> bytes:
    """Return a VXLAN packet (RFC 7348, section 5)."""
    return bytes([flags, 0, 0, 0]) + vni.to_bytes(3, "big") + b"\0" + frame


def called_by_peer(lab: SystemLab, address: str) -> bytes:
    """Return the frame of a datagram from the peer's endpoint to an address."""
    packet = ipv4(lab.address("bare-1", 4), address, udp(PORT))
    return ethernet(lab.mac("old-1"), lab.mac("bare-1"), IPV4, packet)


def test_a_packet_with_the_vni_not_marked_as_there_is_dropped_with_a_reason(lab):
    before = lab.counters("h1")["vxlan_flags"]
    frame = called_by_peer(lab, lab.address("old-1", 4))
    send_tunnelled(lab, PEER, "h1", from_peer(RED, frame, flags=0), port=VXLAN)
    until(lambda: lab.counters("h1")["vxlan_flags"] == before + 1, "the drop")


@pytest.mark.parametrize(
    ("station", "vni", "reason"),
    [("h1", BLUE, "endpoint_not_local"), ("h3", BLUE, "icmp_unreachable_sent_remote"), ("h1", NOBODY, "no_vpc")],
    ids=["at the endpoint's host", "by the bouncer", "of nobody's VNI"],
)
def test_the_same_packet_under_another_vni_does_not_reach_the_endpoint(lab, station, vni, reason):
    frame = called_by_peer(lab, lab.address("old-1", 4))
    with udp_socket(lab.inside("old-1"), lab.address("old-1", 4), PORT) as receiver:
        send_tunnelled(lab, PEER, station, from_peer(RED, frame), port=VXLAN)
        assert receiver.recv(100) == b"spoofed", "under its own VNI it arrives"
        before = lab.counters(station)
        send_tunnelled(lab, PEER, station, from_peer(vni, frame), port=VXLAN)
        until(lambda: lab.counters(station)[reason] == before[reason] + 1, "the drop")
        assert lab.counters(station)["delivered"] == before["delivered"]
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


def test_the_peers_endpoints_do_not_reach_another_tenants_address(lab):
    """What its kernel sends has the VNI of its own VPC, where the bouncer knows no such endpoint."""
    assert ping(lab, "shop-2", lab.address("shop-1")) == 3
    before = lab.counters("h3")["no_endpoint"]
    assert ping(lab, "bare-1", lab.address("shop-1"), count=2, wait=1) == 0
    assert lab.counters("h3")["no_endpoint"] > before, "its ARP request came to nothing"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ends", [("old-1", "old-2"), ("old-1", "bare-1"), ("bare-1", "old-1")])
def test_fragments_reach_their_endpoint_by_the_bouncer_and_vxlan(lab, family, ends):
    before = lab.counters("h3")["bounced"]
    send_one_way(lab, *ends, 4000, family)
    assert lab.counters("h3")["bounced"] - before >= 9, "three fragments each"


@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_that_exceeds_the_mtu_of_our_endpoints_gets_an_icmp_error(lab, family):
    """Through the tunnel that it came by, from the network's gateway."""
    lab.ip(lab.inside("bare-1"), "link", "set", "eth0", "mtu", str(mtu_of(lab, "bare-1") + 12))
    address, fits = lab.address("old-1", family), mtu_of(lab, "old-1")
    try:
        until(lambda: "1 received" in ping_whole(lab, "bare-1", address, fits), "an answer")

        def icmp_sent() -> bool:
            ping_whole(lab, "bare-1", address, fits + 12)
            return learnt_mtu(lab, "bare-1", address) == fits

        until(icmp_sent, "the size")
        exchange_tcp(lab, "bare-1", "old-1", 1 << 20, family)
    finally:
        lab.ip(lab.inside("bare-1"), "link", "set", "eth0", "mtu", str(fits))


def test_everyone_reaches_everyone_by_the_labs_own_check(lab):
    found = check_all(lab.lab)
    assert found.passed, [(pair.source, pair.destination, pair.failures) for pair in found.failures]
