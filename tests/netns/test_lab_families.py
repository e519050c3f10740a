"""Both families inside the overlay, over an underlay of either: 6 in 4, 4 in 6, 6 in 6, and IPv4 beside them."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.frames import IPV6, ethernet, geneve, ipv4, udp
from lab.traffic import exchange_all, exchange_udp, ping, send_tunnelled, udp_socket
from lab.waiting import until
from lab.wire import tapped

from controller_sim.lab.namespaces import call_in
from controller_sim.talk.reachability import check_all
from controller_sim.topology.model import gateway_of

PORT = 7110
IPV6_DSTOPTS = 59
PADDING = bytes([0, 0, 1, 4, *bytes(4)])
"""A destination options header that holds padding alone (RFC 8200, sections 4.2 and 4.6); Linux takes 7 bytes of it."""
GATEWAY_MAC = "02:d2:01:e7:00:01"


@pytest.fixture(scope="module", params=["dual_stack", "ipv6_underlay"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("families", topology_text(request.param)) as lab:
        yield lab


@pytest.fixture(scope="module")
def over_ipv6(lab: SystemLab) -> SystemLab:
    if ":" not in lab.topology.droplets["h1"].address:
        pytest.skip("the underlay of this topology is IPv4")
    return lab


def addresses_in(lab: SystemLab, endpoint: str) -> list[dict]:
    (link,) = json.loads(lab.ip(lab.inside(endpoint), "-j", "-6", "address", "show", "dev", "eth0"))
    return link["addr_info"]


def test_the_first_ping_of_every_pair_is_answered_in_each_family(lab):
    for one, other, family in lab.talks():
        assert ping(lab, one, lab.address(other, family), count=1) == 1, (one, other, family)
        assert ping(lab, other, lab.address(one, family), count=1) == 1, (other, one, family)


def test_echoes_connections_and_datagrams_of_all_sizes_arrive_unchanged_in_both_directions(lab):
    for one, other, family in lab.talks():
        exchange_all(lab, one, other, family)


def test_a_conversation_goes_direct_after_its_first_packets(lab):
    for family in lab.families("web-1", "web-2"):
        exchange_udp(lab, "web-1", "web-2", [100, 100], family)
        assert lab.path("web-1", "web-2", family).route == "direct"
        assert lab.path("web-2", "web-1", family).route == "direct"


def test_neighbour_solicitations_are_answered_as_arp_is(lab):
    """With the endpoint's own MAC in its network, and with the gateway's for what lies beyond."""
    exchange_udp(lab, "web-1", "web-2", [1], 6)
    neighbours = json.loads(lab.ip(lab.inside("web-1"), "-j", "-6", "neigh", "show", "dev", "eth0"))
    found = {one["dst"]: one.get("lladdr") for one in neighbours}
    assert found[lab.address("web-2", 6)] == lab.mac("web-2").hex(":")
    assert ping(lab, "web-1", lab.address("data-1", 6)) == 3
    gateway = gateway_of(next(c for c in lab.topology.networks["web"].cidrs if ":" in c))
    neighbours = json.loads(lab.ip(lab.inside("web-1"), "-j", "-6", "neigh", "show", "dev", "eth0"))
    assert {one["dst"]: one.get("lladdr") for one in neighbours}[gateway] == GATEWAY_MAC


def test_the_gateway_answers_echo_requests(lab):
    for cidr in lab.topology.networks["web"].cidrs:
        assert ping(lab, "web-1", gateway_of(cidr)) == 3


def test_duplicate_address_detection_of_an_address_that_is_set_again_finds_no_duplicate(lab):
    address = lab.address("web-1", 6)
    inside, text = lab.inside("web-1"), f"{address}/64"
    lab.kill_agent("h1")  # it would put the address back at any moment, and without such a probe
    try:
        lab.ip(inside, "address", "del", text, "dev", "eth0")
        lab.ip(inside, "address", "add", text, "dev", "eth0")
    finally:
        lab.restart_agent("h1")

    def settled() -> bool:
        found = [one for one in addresses_in(lab, "web-1") if one["local"] == address]
        assert not any(one.get("dadfailed") for one in found)
        return bool(found) and not any(one.get("tentative") for one in found)

    until(settled, "the end of duplicate address detection")
    exchange_udp(lab, "web-1", "web-2", [100], 6)


def is_free(lab: SystemLab, endpoint: str, address: str) -> bool:
    """Have an endpoint try to take an address, and say what duplicate address detection found; then it goes again."""
    inside, text = lab.inside(endpoint), f"{address}/64"
    lab.ip(inside, "address", "add", text, "dev", "eth0")

    def found() -> dict | None:
        one = next(one for one in addresses_in(lab, endpoint) if ip_address(one["local"]) == ip_address(address))
        return one if one.get("dadfailed") or not one.get("tentative") else None

    try:
        return not until(found, "the end of duplicate address detection").get("dadfailed")
    finally:
        lab.ip(inside, "address", "del", text, "dev", "eth0")


def test_duplicate_address_detection_finds_a_neighbour_on_the_own_host(lab):
    if "web-3" not in lab.endpoints:
        pytest.skip("no two endpoints of this topology's networks share a host")
    assert not is_free(lab, "web-1", lab.address("web-3", 6))


def test_duplicate_address_detection_finds_one_that_only_other_hosts_know(lab):
    """The bouncer answers, or the endpoint's own host where a direct path to it is in use."""

    def answered() -> int:
        return sum(lab.counters(host)["nd_answered_remote"] for host in ("h2", "h3"))

    before = answered()
    assert not is_free(lab, "web-1", lab.address("web-2", 6))
    assert answered() > before
    exchange_udp(lab, "web-1", "web-2", [100], 6)


def test_duplicate_address_detection_of_a_free_address_finds_no_duplicate(lab):
    before = lab.counters("h3")["no_endpoint"]
    assert is_free(lab, "web-1", str(ip_address(lab.address("web-1", 6)) + 0x7700))
    assert lab.counters("h3")["no_endpoint"] > before


def test_a_packet_with_an_extension_header_inside_arrives(lab):
    with (
        udp_socket(lab.inside("web-2"), lab.address("web-2", 6), PORT) as receiver,
        udp_socket(lab.inside("web-1"), lab.address("web-1", 6)) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, PADDING)
        for size in (1, 100, 4000):
            sender.sendto(bytes(size), (lab.address("web-2", 6), PORT))
            assert receiver.recv(1 << 16) == bytes(size)


def test_tunnel_packets_over_ipv6_have_a_correct_checksum_unless_configured_otherwise(over_ipv6):
    lab = over_ipv6
    zero = {one.address for one in lab.topology.droplets.values() if one.udp_checksum == "zero"}
    assert zero
    with tapped(lab, "h2") as tap:
        for family in (4, 6):
            exchange_udp(lab, "web-1", "web-2", [1, 100, 1001, 4000], family)
            exchange_udp(lab, "data-1", "data-2", [1, 100, 1001, 4000], family)
        packets = tap.tunnelled()
    summed = [packet for packet in packets if not {packet.source, packet.destination} & zero]
    assert summed
    assert all(packet.checksum and packet.right for packet in summed)
    to_zero = [packet for packet in packets if packet.destination in zero]
    assert to_zero
    assert {packet.checksum for packet in to_zero} == {0}


def test_a_tunnel_packet_without_a_required_checksum_is_dropped_with_a_reason(over_ipv6):
    """RFC 8200, section 8.1; RFC 6936 lets only those through that are configured: h3 is, h1 is not."""
    lab = over_ipv6
    inner = ethernet(lab.mac("web-2"), bytes(6), 0x0800, ipv4("10.0.1.77", lab.address("web-2", 4), udp(PORT)))
    before = lab.counters("h2")["no_checksum"]
    for host in ("h3", "h1"):
        send_tunnelled(lab, host, "h2", geneve(1001, inner), sum=0)
    until(lambda: lab.counters("h2")["no_checksum"] > before, "the drop")
    assert lab.counters("h2")["no_checksum"] == before + 1


def test_a_tunnel_packet_with_an_extension_header_outside_is_dropped_with_a_reason(over_ipv6):
    lab = over_ipv6
    inner = ethernet(lab.mac("web-2"), bytes(6), IPV6, bytes(40))
    before = lab.counters("h2")["outer_options"]
    with udp_socket(lab.names.droplet("h1"), lab.topology.droplets["h1"].address) as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, PADDING)
        sender.sendto(geneve(1001, inner), (lab.topology.droplets["h2"].address, 6081))
    lab.handmade += 1
    until(lambda: lab.counters("h2")["outer_options"] == before + 1, "the drop")


def test_an_endpoint_cannot_send_as_another_over_ipv6(lab):
    """A raw socket inside the endpoint writes a source that is not its own."""
    other = ip_address(lab.address("web-1", 6)) + 77
    before = lab.counters("h1")["source_address"]
    header = struct.pack("!IHBB", 0x60000000, 8, socket.IPPROTO_UDP, 64)
    packet = header + other.packed + ip_address(lab.address("web-2", 6)).packed + struct.pack("!HHHH", 1, PORT, 8, 0)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(ethernet(lab.mac("web-2"), lab.mac("web-1"), IPV6, packet))

    call_in(lab.inside("web-1"), send)
    until(lambda: lab.counters("h1")["source_address"] == before + 1, "the drop")


def test_everyone_reaches_everyone_by_the_labs_own_check(lab):
    found = check_all(lab.lab)
    assert found.passed, [(pair.source, pair.destination, pair.failures) for pair in found.failures]
