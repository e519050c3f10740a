"""Tunnels by RFC 8926 and RFC 6040 between real agents on several hosts, seen on the wire."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.frames import IPV4, ethernet, geneve, ipv4, udp
from lab.neighbours import keep_neighbours
from lab.traffic import exchange_all, exchange_udp, pings, send_tunnelled, udp_socket
from lab.underlays import over
from lab.waiting import until
from lab.wire import GENEVE, Tunnelled, tapped

GENEVE_PORT, VXLAN_PORT = 16081, 8472
"""Those of `VARIANTS` in tests/bpf/test_variants.py: these programs are compiled once for both."""
PORT = 7111
EXPEDITED = 46
"""The DSCP that web-1 is configured with."""
ECT_1, ECT_0, CE = 1, 2, 3
IP_RECVTOS, IPV6_RECVTCLASS, IPV6_TCLASS = 13, 66, 67
OTHER_MAC = bytes.fromhex("020000000bad")


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """Over an underlay of either family."""
    text = over(request.param, topology_text("moving"))
    text = text.replace("web-1, network: web,", f"web-1, network: web, dscp: {EXPEDITED},")
    text += f"agents: {{data_plane: {{geneve_port: {GENEVE_PORT}, vxlan_port: {VXLAN_PORT}}}}}\n"
    with running_lab("geneve", text) as lab:
        keep_neighbours(lab)
        yield lab


def sent_by(lab: SystemLab, packets: list[Tunnelled], host: str) -> list[Tunnelled]:
    return [packet for packet in packets if packet.source == lab.topology.droplets[host].address]


def test_tunnels_use_the_configured_port_and_no_other(lab):
    with tapped(lab, "h1") as tap:
        for family in (4, 6):
            exchange_all(lab, "web-1", "web-2", family, 100_000)
        packets = tap.tunnelled(GENEVE, GENEVE_PORT)
    assert packets
    assert {packet.port for packet in packets} == {GENEVE_PORT}
    assert {packet.body[2:4] for packet in packets} == {b"\x65\x58"}
    assert {packet.body[4:7] for packet in packets if not packet.is_control} == {(1001).to_bytes(3, "big")}


def test_what_follows_the_first_packets_carries_no_options(lab):
    exchange_udp(lab, "web-1", "web-2", [1, 1])
    with tapped(lab, "h1") as tap:
        exchange_udp(lab, "web-1", "web-2", [100] * 20)
        packets = [packet for packet in tap.tunnelled(GENEVE_PORT) if not packet.is_control]
    assert len(packets) >= 40
    assert {packet.option_length for packet in packets} == {0}


def is_udp(frame: bytes) -> bool:
    """Whether a frame carries UDP, or a fragment of it: this test sends no others."""
    if frame[12:14] == b"\x86\xdd":
        return frame[20] in (socket.IPPROTO_UDP, socket.IPPROTO_FRAGMENT)
    return frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP


@pytest.mark.parametrize("family", [4, 6])
def test_the_source_port_is_constant_for_a_flow_with_its_fragments_and_spreads_over_the_ephemeral_range(lab, family):
    exchange_udp(lab, "web-1", "web-2", [1, 1], family)
    ports = set()
    for _ in range(40):
        with (
            udp_socket(lab.inside("web-2"), lab.address("web-2", family), PORT) as receiver,
            udp_socket(lab.inside("web-1"), lab.address("web-1", family)) as sender,
            tapped(lab, "h1") as tap,
        ):
            for size in (1, 1000, 5000):
                sender.sendto(bytes(size), (lab.address("web-2", family), PORT))
                receiver.recv(1 << 16)
            packets = sent_by(lab, tap.tunnelled(GENEVE_PORT), "h1")
        carried = [packet for packet in packets if is_udp(packet.inner)]
        assert len(carried) == 6, "two that are whole, and four fragments"
        assert len({packet.source_port for packet in carried}) == 1
        ports.add(carried[0].source_port)
    assert len(ports) > 30
    assert all(port >= 49152 for port in ports)


def test_the_outer_dscp_is_the_endpoints_class_and_the_inner_one_stays_its_own(lab):
    with (
        udp_socket(lab.inside("web-2"), lab.address("web-2"), PORT) as receiver,
        udp_socket(lab.inside("web-1"), lab.address("web-1")) as sender,
        tapped(lab, "h1") as tap,
    ):
        receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        for tos in (0, 10 << 2):
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            sender.sendto(b"one", (lab.address("web-2"), PORT))
            assert received_tos(receiver) == tos
        packets = [packet for packet in sent_by(lab, tap.tunnelled(GENEVE_PORT), "h1") if b"one" in packet.body]
    assert {packet.tos >> 2 for packet in packets} == {EXPEDITED}
    with tapped(lab, "h2") as tap:
        exchange_udp(lab, "web-2", "web-3", [10])
        assert {packet.tos for packet in sent_by(lab, tap.tunnelled(GENEVE_PORT), "h2")} == {0}


def received_tos(receiver: socket.socket) -> int:
    """Return the TOS or traffic class with which the next datagram came."""
    _, ancillary, _, _ = receiver.recvmsg(1 << 16, 256)
    return int.from_bytes(ancillary[0][2], "little")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ecn", [0, ECT_1, ECT_0, CE])
def test_congestion_marks_of_an_endpoint_are_copied_outside_and_arrive_as_they_were(lab, family, ecn):
    """RFC 6040, section 4.1, normal mode."""
    level, option = (socket.IPPROTO_IP, socket.IP_TOS) if family == 4 else (socket.IPPROTO_IPV6, IPV6_TCLASS)
    asked = IP_RECVTOS if family == 4 else IPV6_RECVTCLASS
    with (
        udp_socket(lab.inside("web-2"), lab.address("web-2", family), PORT) as receiver,
        udp_socket(lab.inside("web-1"), lab.address("web-1", family)) as sender,
        tapped(lab, "h1") as tap,
    ):
        receiver.setsockopt(level, asked, 1)
        sender.setsockopt(level, option, ecn)
        sender.sendto(b"marked", (lab.address("web-2", family), PORT))
        assert received_tos(receiver) == ecn
        packets = [packet for packet in sent_by(lab, tap.tunnelled(GENEVE_PORT), "h1") if b"marked" in packet.body]
    assert packets
    assert {packet.tos & 3 for packet in packets} == {ecn}


def marked(lab: SystemLab, ecn: int) -> bytes:
    """Return a tunnel packet from an unknown endpoint to web-2, with an inner mark."""
    inner = bytearray(ipv4("10.0.1.77", lab.address("web-2"), udp(PORT)))
    inner[1] = ecn
    inner[10:12] = bytes(2)
    total = sum(struct.unpack("!10H", inner[:20]))
    inner[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return geneve(1001, ethernet(lab.mac("web-2"), OTHER_MAC, IPV4, bytes(inner)))


DROPPED = None
OUTER = (0, ECT_0, ECT_1, CE)
DECAPSULATION = {
    0: (0, 0, 0, DROPPED),
    ECT_0: (ECT_0, ECT_0, ECT_1, CE),
    ECT_1: (ECT_1, ECT_1, ECT_1, CE),
    CE: (CE, CE, CE, CE),
}
"""RFC 6040, figure 4: by the inner mark what is delivered, for each outer one: not capable, ECT(0), ECT(1), CE."""


@pytest.mark.parametrize("station", ["h2", "h4"], ids=["at the endpoint's host", "by a bouncer"])
def test_a_congestion_mark_reaches_the_endpoint_or_the_packet_is_dropped_with_a_reason(lab, station):
    drops = lab.counters(station)["ecn_not_capable"]
    with udp_socket(lab.inside("web-2"), lab.address("web-2"), PORT) as receiver:
        receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        for inner, row in DECAPSULATION.items():
            for outer, delivered in zip(OUTER, row, strict=True):
                send_tunnelled(lab, "h3", station, marked(lab, inner), port=GENEVE_PORT, tos=outer)
                if delivered is DROPPED:
                    drops += 1
                    until(lambda n=drops: lab.counters(station)["ecn_not_capable"] == n, f"{inner, outer}")
                else:
                    assert received_tos(receiver) == delivered, (inner, outer)
        assert lab.counters(station)["ecn_not_capable"] == drops, "and no others"
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


def test_unknown_options_are_skipped_and_unknown_critical_ones_drop_the_packet(lab):
    frame = marked(lab, 0)[8:]
    ordinary = struct.pack("!HBB", 0x1234, 0x11, 1) + bytes(4)
    critical = struct.pack("!HBB", 0x1234, 0x91, 1) + bytes(4)
    before = lab.counters("h2")["critical_option"]
    with udp_socket(lab.inside("web-2"), lab.address("web-2"), PORT) as receiver:
        for options, flags in ((ordinary, 0), (ordinary * 3, 0), (ordinary + critical, 0x40), (critical, 0)):
            header = struct.pack("!BBHI", len(options) // 4, flags, 0x6558, 1001 << 8)
            send_tunnelled(lab, "h3", "h2", header + options + frame, port=GENEVE_PORT)
        for _ in range(2):
            assert receiver.recv(100) == b"spoofed"
        until(lambda: lab.counters("h2")["critical_option"] == before + 2, "both drops")
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


def test_the_time_to_live_inside_is_untouched_within_a_network_and_the_outer_one_is_the_tunnels(lab):
    assert pings(lab, "web-1", "web-2")
    with (
        udp_socket(lab.inside("web-2"), lab.address("web-2"), PORT) as receiver,
        udp_socket(lab.inside("web-1"), lab.address("web-1")) as sender,
        tapped(lab, "h1") as tap,
    ):
        receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        for ttl in (1, 7, 255):
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sender.sendto(b"living", (lab.address("web-2"), PORT))
            _, ancillary, _, _ = receiver.recvmsg(100, 256)
            assert int.from_bytes(ancillary[0][2], "little") == ttl
        packets = [packet for packet in sent_by(lab, tap.tunnelled(GENEVE_PORT), "h1") if b"living" in packet.body]
    assert {packet.ttl for packet in packets} == {64}
