"""Senders to unreachable destinations get ICMP errors, with real sockets in both families; the gateway as a host."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Iterator

import pytest
from lab.echoes import answered
from lab.fixtures import SystemLab, running_lab
from lab.frames import GENEVE_PORT, IPV4, IPV6, checksum, ethernet, geneve, ipv4, udp
from lab.traffic import connect_error, exchange_tcp, ping, raw_socket, udp_socket
from lab.underlays import over
from lab.waiting import until

from controller_sim.lab.namespaces import call_in, run_in

TOPOLOGY = """\
droplets:
  h1: {address: 172.18.0.11/24}
  h2: {address: 172.18.0.12/24}
  h3: {address: 172.18.0.13/24}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h3]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h2]}
  - {name: db, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [h3]}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
  - {name: web-3, network: web, droplet: h3}
"""
SENDERS = {"web-1": "elsewhere", "web-2": "on the bouncer", "web-3": "on the divider"}
GATEWAYS = {4: "10.0.1.1", 6: "fd10:0:0:1::1"}
FREE = {4: "10.0.1.200", 6: "fd10:0:0:1::c8"}
"""An unused address of the own network."""
NOWHERE = [
    ("another network's address that nobody has", {4: "10.0.2.200", 6: "fd10:0:0:2::c8"}, errno.EHOSTUNREACH),
    ("an address of no network", {4: "10.0.9.9", 6: "fd10:0:0:9::9"}, errno.ENETUNREACH),
    ("an address outside the VPC", {4: "192.0.2.77", 6: "2001:db8:77::1"}, errno.ENETUNREACH),
]
TAGGED_PORT = 7110
both_families = pytest.mark.parametrize("family", [4, 6])
each_sender = pytest.mark.parametrize("sender", SENDERS, ids=SENDERS.values())


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("nowhere", over(request.param, TOPOLOGY)) as lab:
        yield lab


@both_families
@each_sender
@pytest.mark.parametrize(("sentence", "addresses", "error"), NOWHERE, ids=[row[0] for row in NOWHERE])
def test_a_connection_to_an_unused_address_fails_at_once(lab, sentence, addresses, error, sender, family):
    assert connect_error(lab, sender, addresses[family]) == error, sentence


@both_families
@each_sender
def test_a_connection_to_a_removed_endpoint_fails_at_once_despite_a_cached_ethernet_address(lab, sender, family):
    mac = "02:00:00:00:00:77"
    lab.ip(lab.inside(sender), "neigh", "replace", FREE[family], "dev", "eth0", "lladdr", mac, "nud", "permanent")
    assert connect_error(lab, sender, FREE[family]) == errno.EHOSTUNREACH
    lab.ip(lab.inside(sender), "neigh", "del", FREE[family], "dev", "eth0")


@both_families
@each_sender
def test_the_gateway_refuses_connections(lab, sender, family):
    for port in (22, 80, 179):
        assert connect_error(lab, sender, GATEWAYS[family], port) == errno.ECONNREFUSED


@both_families
def test_the_gateway_refuses_datagrams(lab, family):
    with udp_socket(lab.inside("web-1"), lab.address("web-1", family)) as sender:
        sender.connect((GATEWAYS[family], 53))
        sender.send(b"who is there?")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(100)


@both_families
def test_the_gateway_knows_no_other_protocol(lab, family):
    """An unconnected raw socket hears of it by its error queue; the kernel counts what it heard in any case."""
    before = lab.counters("h1")["gateway_refused"]
    place = socket.AF_INET if family == 4 else socket.AF_INET6

    def opened() -> socket.socket:
        made = socket.socket(place, socket.SOCK_RAW, 47)
        made.settimeout(10)
        made.connect((GATEWAYS[family], 0))
        return made

    with call_in(lab.inside("web-1"), opened) as sender:
        sender.send(bytes(16))
        with pytest.raises(OSError, match=r"Protocol|not available") as caught:
            sender.recv(100)
        assert caught.value.errno in {errno.ENOPROTOOPT, errno.EPROTO}
    assert lab.counters("h1")["gateway_refused"] == before + 1


@both_families
@pytest.mark.parametrize("size", [56, 1400, 4000, 9000, 30000])
def test_the_gateway_answers_echoes_of_any_size(lab, family, size):
    assert answered(lab.inside("web-1"), GATEWAYS[family], 3, 5, size) == 3


@both_families
def test_a_flood_of_undeliverable_packets_gets_a_bounded_number_of_errors_and_disturbs_no_other(lab, family):
    """Every packet is counted once, answered or dropped with its reason; a connection beside it continues."""
    before, kinds = lab.counters("h2"), ("icmp_unreachable_sent_remote", "no_endpoint")
    lab.ip(lab.inside("web-1"), "neigh", "replace", FREE[family], "dev", "eth0", "lladdr", "02:00:00:00:00:77",
           "nud", "permanent")  # fmt: skip
    with udp_socket(lab.inside("web-1"), lab.address("web-1", family)) as sender:
        for _ in range(1000):
            sender.sendto(b"flood", (FREE[family], 7109))
    exchange_tcp(lab, "web-1", "web-2", 1 << 18, family)
    until(lambda: sum(lab.counters("h2")[kind] - before[kind] for kind in kinds) >= 1000, "all to end")
    after = lab.counters("h2")
    assert 50 <= after["icmp_unreachable_sent_remote"] - before["icmp_unreachable_sent_remote"] < 1000
    assert after["no_endpoint"] > before["no_endpoint"]
    lab.ip(lab.inside("web-1"), "neigh", "del", FREE[family], "dev", "eth0")


def test_multicast_and_broadcast_packets_never_leave_the_host(lab):
    """A subnet's broadcast address, a group and everybody, by real sockets."""
    before = lab.all_counters()
    with udp_socket(lab.inside("web-1"), lab.address("web-1", 4)) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for to in ("10.0.1.255", "255.255.255.255", "224.0.0.251", "10.0.2.255"):
            sender.sendto(b"to all", (to, 7109))
    with udp_socket(lab.inside("web-1"), "::") as sender:
        index = lab.links(lab.inside("web-1"))["eth0"][0]
        sender.sendto(b"to all", ("ff02::1", 7109, 0, index))
    done = run_in(lab.inside("web-1"), ["ping", "-n", "-q", "-b", "-c", "2", "-i", "0.1", "-W", "1", "10.0.1.255"])
    assert " 0 received" in done.stdout, done.stdout
    until(lambda: lab.counters("h1")["multicast"] - before["h1"]["multicast"] >= 6, "their end on their own host")
    for host in ("h1", "h2"):
        after = lab.counters(host)
        for way in ("sent_to_bouncer", "sent_to_divider", "sent_direct", "icmp_unreachable_sent_remote"):
            assert after[way] - before[host][way] <= 1, f"{host}: {way}"
    assert ping(lab, "web-1", lab.address("web-2", 4)) == 3


def priority_tagged(lab: SystemLab, payload: bytes) -> bytes:
    """Return h2's tunnel frame to h1 with web-2's datagram for web-1, behind an 802.1Q tag of priority 5 and VLAN 0."""
    own, to = (lab.topology.droplets[name].address for name in ("h2", "h1"))
    inner = ethernet(lab.mac("web-1"), lab.mac("web-2"), IPV4,
                     ipv4(lab.address("web-2", 4), lab.address("web-1", 4), udp(TAGGED_PORT, payload)))  # fmt: skip
    datagram = udp(GENEVE_PORT, geneve(1001, inner), 50000)
    if ":" in own:
        ends = b"".join(socket.inet_pton(socket.AF_INET6, one) for one in (own, to))
        pseudo = ends + struct.pack("!II", len(datagram), socket.IPPROTO_UDP)
        sum_ = checksum(pseudo + datagram + bytes(len(datagram) % 2)) or 0xFFFF
        datagram = datagram[:6] + struct.pack("!H", sum_) + datagram[8:]
        kind, packet = IPV6, struct.pack("!IHBB", 6 << 28, len(datagram), socket.IPPROTO_UDP, 64) + ends + datagram
    else:
        kind, packet = IPV4, ipv4(own, to, datagram)
    macs = [json.loads(lab.ip(lab.names.droplet(host), "-j", "link", "show", "eth0"))[0]["address"]
            for host in ("h1", "h2")]  # fmt: skip
    head = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs)
    return head + struct.pack("!HHH", 0x8100, 5 << 13, kind) + packet


def test_a_priority_tagged_frame_from_the_underlay_is_delivered(lab):
    """With the tag in the frame's bytes: the underlay's port leaves none to its hardware."""
    port = lab.ports()["h1", "eth0"]
    done = run_in(lab.names.fabric, ["ethtool", "-K", port, "txvlan", "off"])
    assert done.returncode == 0, done.stderr
    with (
        udp_socket(lab.inside("web-1"), lab.address("web-1", 4), TAGGED_PORT) as receiver,
        raw_socket(lab.names.droplet("h2")) as sender,
    ):
        for number in range(3):
            sender.send(priority_tagged(lab, b"tagged %d" % number))
            lab.handmade += 1
            assert receiver.recv(100) == b"tagged %d" % number
