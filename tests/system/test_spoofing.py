"""What must not pass does not, and each kind of it is counted under a reason of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.balance import check_balance
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.frames import ARP, BROADCAST, GENEVE_PORT, IPV4, IPV6, arp, ethernet, geneve, ipv4, udp
from lab.traffic import ping, pings, raw_socket, udp_socket
from lab.waiting import until

from controller_sim.lab.namespaces import call_in
from controller_sim.lab.underlay import remove

TIMES = 7
SO_NO_CHECK = 11
"""asm-generic/socket.h."""
STRANGER = "172.18.0.99"
VICTIM_PORT = 7105
OTHER_MAC = bytes.fromhex("020000000bad")
GATEWAY_MAC = bytes.fromhex("02d201e70001")


def silence_ipv6(namespace: str) -> None:
    """Have a namespace's kernel send nothing by itself: router solicitations and reports to groups would be counted."""
    call_in(namespace, lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("spoof", topology_text("one_bouncer")) as lab:
        silence_ipv6(lab.inside("web-1"))
        assert pings(lab, "web-1", "web-2")
        yield lab


@pytest.fixture
def victim(lab: SystemLab) -> Iterator[socket.socket]:
    """A socket of web-2 that must stay silent."""
    with udp_socket(lab.inside("web-2"), port=VICTIM_PORT) as listener:
        yield listener


@pytest.fixture(scope="module")
def stranger(lab: SystemLab) -> Iterator[str]:
    """A host on the underlay that is no droplet."""
    namespace = f"{lab.lab.name}_stranger"
    lab.ip(lab.names.fabric, "netns", "add", namespace)
    try:
        lab.ip(lab.names.fabric, "link", "add", "stranger", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        lab.ip(lab.names.fabric, "link", "set", "stranger", "master", "br0", "up")
        lab.ip(namespace, "address", "add", f"{STRANGER}/24", "dev", "eth0")
        lab.ip(namespace, "link", "set", "eth0", "up")
        yield namespace
    finally:
        remove(namespace)


class Frames:
    """Frames from web-1, mostly to web-2."""

    def __init__(self, lab: SystemLab) -> None:
        self.own, self.other = lab.address("web-1"), lab.address("web-2")
        self.own_mac, self.other_mac = lab.mac("web-1"), lab.mac("web-2")

    def ip(self, source: str, destination: str, payload: bytes = udp(VICTIM_PORT), mac: bytes | None = None) -> bytes:
        return ethernet(self.other_mac, mac or self.own_mac, IPV4, ipv4(source, destination, payload))

    def arp(self, *fields: object, mac: bytes | None = None) -> bytes:
        return ethernet(BROADCAST, mac or self.own_mac, ARP, arp(*fields))  # type: ignore[arg-type]


FROM_ENDPOINT = {
    "another address": ("source_address", lambda f: f.ip("10.0.1.77", f.other)),
    "the destination's own address": ("source_address", lambda f: f.ip(f.other, f.other)),
    "the gateway's address": ("source_address", lambda f: f.ip("10.0.1.1", f.other)),
    "an address of the underlay": ("source_address", lambda f: f.ip("172.18.0.11", f.other)),
    "another MAC": ("source_mac", lambda f: f.ip(f.own, f.other, mac=OTHER_MAC)),
    "the destination's MAC": ("source_mac", lambda f: f.ip(f.own, f.other, mac=f.other_mac)),
    "an ARP request as someone else": ("source_arp", lambda f: f.arp(1, f.own_mac, "10.0.1.77", f.other)),
    "an ARP request with someone else's MAC inside": (
        "source_arp",
        lambda f: f.arp(1, OTHER_MAC, f.own, f.other),
    ),
    "an ARP request from another MAC": ("source_mac", lambda f: f.arp(1, OTHER_MAC, f.own, f.other, mac=OTHER_MAC)),
    "an ARP answer for another": ("arp_opcode", lambda f: f.arp(2, f.own_mac, f.other, f.own)),
    "an unasked ARP answer": ("arp_opcode", lambda f: f.arp(2, f.own_mac, f.own, f.other, f.other_mac)),
    "an ARP announcement of its own address": ("arp_own_address", lambda f: f.arp(1, f.own_mac, f.own, f.own)),
    "an ARP frame cut short": ("malformed_arp", lambda f: f.arp(1, f.own_mac, f.own, f.other)[:40]),
    "broadcast": ("multicast", lambda f: f.ip(f.own, "255.255.255.255")),
    "multicast": ("multicast", lambda f: f.ip(f.own, "224.0.0.251")),
    "an IPv4 length beyond the frame": ("malformed_inner", lambda f: f.ip(f.own, f.other)[:-4]),
    "IPv6 of another version": ("malformed_inner", lambda f: ethernet(f.other_mac, f.own_mac, IPV6, bytes(40))),
    "a VLAN tag": ("inner_protocol", lambda f: ethernet(f.other_mac, f.own_mac, 0x8100, bytes(46))),
    "a hop too many": (
        "icmp_ttl_exceeded_sent",
        lambda f: ethernet(GATEWAY_MAC, f.own_mac, IPV4, ipv4(f.own, f.other, udp(VICTIM_PORT), ttl=1)),
    ),
    "UDP to the gateway": ("gateway_refused", lambda f: f.ip(f.own, "10.0.1.1")),
}


@pytest.mark.parametrize(("reason", "frame"), FROM_ENDPOINT.values(), ids=FROM_ENDPOINT.keys())
def test_an_endpoint_that_sends(lab, victim, reason, frame):
    data = frame(Frames(lab))
    before = lab.counters("h1")[reason]
    with raw_socket(lab.inside("web-1")) as sender:
        for _ in range(TIMES):
            sender.send(data)
    until(lambda: lab.counters("h1")[reason] - before >= TIMES, f"{TIMES} of {reason}")
    assert lab.counters("h1")[reason] - before == TIMES
    victim.setblocking(False)
    with pytest.raises(BlockingIOError):
        victim.recv(100)


def test_an_endpoints_own_tunnel_packets_are_data_like_any_other(lab, victim):
    """A tenant may run a tunnel of its own: only the endpoint that it is for parses it."""
    frames = Frames(lab)
    tunnel = geneve(1001, frames.ip("10.0.1.77", frames.other))
    with udp_socket(lab.inside("web-2"), lab.address("web-2"), GENEVE_PORT) as receiver:
        receiver.settimeout(10)
        with raw_socket(lab.inside("web-1")) as sender:
            sender.send(frames.ip(frames.own, frames.other, udp(GENEVE_PORT, tunnel)))
        assert receiver.recv(1 << 16) == tunnel
    victim.setblocking(False)
    with pytest.raises(BlockingIOError):
        victim.recv(100)


@pytest.mark.parametrize("destination", ["10.0.1.200", "10.0.9.9", "192.0.2.1", "172.18.0.12"])
def test_packets_to_an_unused_address_end_at_a_bouncer_or_divider_with_a_reason(lab, destination):
    counted = ("no_endpoint", "no_network", "icmp_unreachable_sent_remote")
    before = lab.counters("h3")
    assert ping(lab, "web-1", destination, count=1, wait=1) == 0
    until(lambda: sum(lab.counters("h3")[one] - before[one] for one in counted) > 0, "a reason")


def tunnel_packet(lab: SystemLab, source: str = "10.0.1.77") -> bytes:
    inner = ethernet(lab.mac("web-2"), OTHER_MAC, IPV4, ipv4(source, lab.address("web-2"), udp(VICTIM_PORT)))
    return geneve(1001, inner)


def tunnel_socket(namespace: str) -> socket.socket:
    """Open a UDP socket that sends no checksum: its interface would leave a partial one to absent hardware."""
    sender = udp_socket(namespace)
    sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    return sender


def test_tunnel_packets_from_an_unknown_host_are_dropped(lab, stranger, victim):
    before = lab.counters("h2")["unknown_droplet"]
    with tunnel_socket(stranger) as sender:
        for _ in range(TIMES):
            sender.sendto(tunnel_packet(lab), ("172.18.0.12", GENEVE_PORT))
            lab.handmade += 1
    until(lambda: lab.counters("h2")["unknown_droplet"] - before == TIMES, "every drop")
    victim.setblocking(False)
    with pytest.raises(BlockingIOError):
        victim.recv(100)


def test_a_known_droplet_cannot_pretend_to_be_an_endpoint_of_the_receiving_host(lab, victim):
    """h3 is a droplet; what it sends as web-2 to web-2's own host is no packet of web-2's."""
    before = lab.counters("h2")["source_elsewhere"]
    with tunnel_socket(lab.names.droplet("h3")) as sender:
        for _ in range(TIMES):
            sender.sendto(tunnel_packet(lab, lab.address("web-2")), ("172.18.0.12", GENEVE_PORT))
            lab.handmade += 1
    until(lambda: lab.counters("h2")["source_elsewhere"] - before == TIMES, "every drop")
    victim.setblocking(False)
    with pytest.raises(BlockingIOError):
        victim.recv(100)


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("geneve_version", b"\x40\x00\x65\x58"),
        ("geneve_control", b"\x00\x80\x65\x58"),
        ("geneve_protocol", b"\x00\x00\x08\x00"),
        ("malformed_geneve", b"\x3f\x00\x65\x58"),
        ("critical_option", b"\x01\x00\x65\x58"),
    ],
)
def test_a_malformed_tunnel_packet_of_a_known_droplet(lab, victim, reason, header):
    body = tunnel_packet(lab)[8:]
    options = b"\x01\x02\x81\x00" if reason == "critical_option" else b""
    before = lab.counters("h2")[reason]
    with tunnel_socket(lab.names.droplet("h3")) as sender:
        for _ in range(TIMES):
            packet = header + (1001 << 8).to_bytes(4, "big") + options + body
            sender.sendto(packet[:200], ("172.18.0.12", GENEVE_PORT))
            lab.handmade += 1
    until(lambda: lab.counters("h2")[reason] - before == TIMES, "every drop")
    victim.setblocking(False)
    with pytest.raises(BlockingIOError):
        victim.recv(100)


def test_after_all_that_everything_balances_and_flows(lab):
    assert pings(lab, "web-1", "web-2")
    assert pings(lab, "web-2", "web-1")
    check_balance(lab.lab)
