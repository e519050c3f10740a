"""Headers are read within bounds, and every change of a field leaves checksums as scapy computes them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from droplet_functions import HeaderError, parse, rewrite
from droplet_functions.checksum import checksum, total, updated
from droplet_functions.headers import Layers

V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")
PAYLOAD = Raw(bytes(range(1, 40)))
TRANSPORTS: dict[str, Callable[[], Packet]] = {
    "tcp": lambda: TCP(sport=1234, dport=80, flags="PA", options=[("MSS", 1400)]) / PAYLOAD,
    "udp": lambda: UDP(sport=1234, dport=53) / PAYLOAD,
}
PACKETS: dict[str, Callable[[], Packet]] = {
    **{f"v4 {name}": lambda make=make: V4 / make() for name, make in TRANSPORTS.items()},
    **{f"v6 {name}": lambda make=make: V6 / make() for name, make in TRANSPORTS.items()},
    "v4 icmp": lambda: V4 / ICMP(id=7, seq=9) / PAYLOAD,
    "v6 icmp": lambda: V6 / ICMPv6EchoRequest(id=7, seq=9, data=b"x" * 33),
    "v4 options": lambda: IP(src="10.0.0.1", dst="10.0.0.2", options=[b"\x94\x04\0\0"]) / UDP(dport=5) / PAYLOAD,
    "v6 extensions": lambda: V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=53) / PAYLOAD,
    "v4 without checksum": lambda: V4 / UDP(sport=1, dport=53, chksum=0) / PAYLOAD,
}
IPV4 = [name for name in PACKETS if name.startswith("v4")]
PORTS = [name for name in PACKETS if "icmp" not in name]


def frame(name: str, *, tagged: bool = False) -> bytearray:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    packet = ether / Dot1Q(vlan=5) / PACKETS[name]() if tagged else ether / PACKETS[name]()
    return bytearray(bytes(packet))


def assert_right(data: bytes | bytearray, name: str = "") -> None:
    """Compare all lengths and checksums with those that scapy computes for the same fields."""
    built = Ether(bytes(data))
    for layer in (IP, UDP, TCP, ICMP, IPv6, ICMPv6EchoRequest):
        if built.haslayer(layer):
            for field in ("chksum", "cksum", "len", "plen"):
                if field in built[layer].fields and not (layer is UDP and field == "chksum" and "without" in name):
                    del built[layer].fields[field]
    assert bytes(data) == bytes(built)


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("name", PACKETS)
def test_headers_are_read_as_scapy_reads_them(name: str, tagged: bool) -> None:
    data = frame(name, tagged=tagged)
    layers, expected = parse(data), Ether(bytes(data))
    ip = expected[IP] if name.startswith("v4") else expected[IPv6]
    assert layers.ip is not None
    assert layers.transport is not None
    assert (str(layers.ip.source), str(layers.ip.destination)) == (ip.src, ip.dst)
    assert layers.vlans == ((5,) if tagged else ())
    assert layers.source_mac.hex(":") == "02:00:00:00:00:01"
    for protocol, found in ((TCP, layers.tcp), (UDP, layers.udp)):
        assert (found is not None) == expected.haslayer(protocol)
        if found:
            assert (found.source_port, found.destination_port) == (expected[protocol].sport, expected[protocol].dport)
            assert layers.payload.tobytes() == bytes(expected[protocol].payload)
    if "icmp" in name:
        assert layers.icmp is not None
        assert layers.icmp.type == (8 if name.startswith("v4") else 128)


def test_padding_of_ethernet_is_no_payload() -> None:
    data = bytes(Ether() / V4 / UDP(sport=1, dport=2) / Raw(b"abc")) + bytes(40)
    assert parse(data).payload.tobytes() == b"abc"


def test_what_is_not_ip_has_no_ip_layer() -> None:
    layers = parse(bytes(Ether() / ARP()))
    assert (layers.ip, layers.transport, layers.ethertype) == (None, None, 0x0806)
    with pytest.raises(HeaderError, match="EtherType 0x0806"):
        rewrite.set_ttl(layers, 3)


@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_that_is_cut_off_is_one_clear_error(name: str) -> None:
    data = frame(name)
    for length in range(len(data)):
        with pytest.raises(HeaderError, match=r"needs \d+ bytes, and the packet has \d+ left"):
            parse(data[:length])


@given(st.binary(max_size=200), st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x81\0", b""]))
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes, ethertype: bytes) -> None:
    frame = bytes(12) + ethertype + data
    try:
        layers = parse(frame)
    except HeaderError:
        return
    assert len(layers.payload) <= len(frame)


@given(st.sampled_from(list(PACKETS)), st.randoms(use_true_random=False))
def test_no_flipped_bytes_make_the_reader_fail_otherwise(name: str, chance: random.Random) -> None:
    data = frame(name)
    for _ in range(3):
        data[chance.randrange(12, len(data))] = chance.randrange(256)
    try:
        parse(data)
    except HeaderError:
        return


def addresses(name: str) -> tuple[str, str]:
    return ("192.0.2.255", "198.51.100.1") if name.startswith("v4") else ("2001:db8::ffff", "fd00:1234::5")


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("name", PACKETS)
def test_changes_of_fields_keep_checksums_right(name: str, tagged: bool) -> None:
    data = frame(name, tagged=tagged)
    source, destination = addresses(name)
    for change in (
        lambda layers: rewrite.set_source(layers, source),
        lambda layers: rewrite.set_destination(layers, destination),
        lambda layers: rewrite.set_ttl(layers, 3),
        lambda layers: rewrite.set_dscp(layers, 46),
        lambda layers: rewrite.write_payload(layers, 0, b"\xff\xff\xff"),
        lambda layers: rewrite.write_payload(layers, 5, b"\0\0"),
        *(
            [
                lambda layers: rewrite.set_source_port(layers, 65535),
                lambda layers: rewrite.set_destination_port(layers, 0),
            ]
            if name in PORTS
            else []
        ),
    ):
        before = bytes(data)
        change(parse(data))
        assert bytes(data) != before
        assert_right(data, name)
    layers = parse(data)
    assert layers.ip is not None
    assert (str(layers.ip.source), str(layers.ip.destination), layers.ip.ttl) == (source, destination, 3)
    if "without" in name:
        assert layers.udp is not None
        assert layers.udp.checksum == 0


@pytest.mark.parametrize("name", PACKETS)
@pytest.mark.parametrize("change", [-1, -7, 1, 8])
def test_a_changed_length_is_repaired(name: str, change: int) -> None:
    data = frame(name)
    layers = parse(data)
    resized = data[:change] if change < 0 else data + bytes(range(change))
    after = rewrite.refresh(layers, memoryview(resized))
    assert len(after.payload) == len(layers.payload) + change
    assert_right(resized, name)


def test_fragments_keep_their_checksum_and_cannot_be_resized() -> None:
    whole = V4 / UDP(sport=1, dport=2) / Raw(bytes(64))
    data = bytearray(bytes(Ether() / whole))
    data[14 + 6] = 0x20  # more fragments
    data[14 + 10 : 14 + 12] = b"\0\0"
    data[14 + 10 : 14 + 12] = checksum(data[14:34]).to_bytes(2, "big")
    layers = parse(data)
    assert layers.ip is not None
    assert layers.ip.more_fragments
    rewrite.set_source(layers, "10.0.0.77")
    expected = bytearray(bytes(Ether() / IP(src="10.0.0.77", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(64))))
    assert data[34:42] == expected[34:42]
    with pytest.raises(HeaderError, match="fragment"):
        rewrite.refresh(layers, memoryview(data))


def test_a_later_fragment_has_no_transport_header() -> None:
    v4 = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2", frag=8, proto=17) / Raw(bytes(64)))
    v6 = bytes(Ether() / V6 / IPv6ExtHdrFragment(offset=8, nh=17) / Raw(bytes(64)))
    for data in (bytearray(v4), bytearray(v6)):
        layers = parse(data)
        assert layers.transport is None
        assert layers.ip is not None
        assert not layers.ip.first_fragment
        with pytest.raises(HeaderError, match="later fragment"):
            rewrite.set_source_port(layers, 5)


def test_behind_a_routing_header_the_checksum_is_of_the_final_destination() -> None:
    data = bytearray(bytes(Ether() / V6 / IPv6ExtHdrRouting(addresses=["fd00::9"]) / UDP(sport=1, dport=2) / PAYLOAD))
    before = parse(data)
    assert before.transport is not None
    rewrite.set_destination(before, "fd00::77")
    after = parse(data)
    assert after.transport is not None
    assert after.transport.checksum == before.transport.checksum


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda layers: rewrite.set_source(layers, "fd00::1"), "in a packet of IPv4"),
        (lambda layers: rewrite.write_payload(layers, 30, bytes(20)), "ends at"),
        (lambda layers: rewrite.write_payload(layers, -8, b"1"), "from 0"),
        (lambda layers: rewrite.write_transport(layers, layers.transport, -1, b"1"), "ends at"),
        (lambda layers: rewrite.write_transport(layers, layers.transport, 5, b"12"), "checksum"),
    ],
)
def test_changes_beyond_what_is_there_are_refused_and_change_nothing(
    change: Callable[[Layers], None], text: str
) -> None:
    data = frame("v4 udp")
    before = bytes(data)
    with pytest.raises(HeaderError, match=text):
        change(parse(data))
    assert bytes(data) == before


def test_icmp_has_no_ports() -> None:
    with pytest.raises(HeaderError, match="no ports"):
        rewrite.set_source_port(parse(frame("v4 icmp")), 1)


@pytest.mark.parametrize("value", [-1, 64])
def test_a_dscp_beyond_six_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 63"):
        rewrite.set_dscp(parse(frame("v4 udp")), value)


@given(st.binary(max_size=60))
def test_the_sum_is_that_of_rfc_1071(data: bytes) -> None:
    padded = data + b"\0" * (len(data) % 2)
    value = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    assert total(data) == value


@given(st.binary(min_size=4, max_size=60).filter(any), st.data())
def test_an_updated_checksum_is_the_one_computed_anew(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    new = draw.draw(st.binary(max_size=len(data) - at))
    changed = data[:at] + new + data[at + len(new) :]
    if not any(changed):
        return  # a sum of zeros is 0, which no header of IP has
    assert updated(checksum(data), data[at : at + len(new)], new, odd=bool(at % 2)) == checksum(changed)


def test_a_length_cannot_change_by_the_difference() -> None:
    with pytest.raises(ValueError, match="in full"):
        updated(0, b"12", b"1")


@pytest.mark.parametrize("name", PACKETS)
@pytest.mark.parametrize("tagged", [False, True])
def test_a_packet_that_is_turned_round_is_its_answer_with_right_checksums(name: str, tagged: bool) -> None:
    data = frame(name, tagged=tagged)
    before, mac = parse(bytes(data)), bytes(data[:12])
    rewrite.swap(parse(data))
    after = parse(data)
    assert bytes(data[:12]) == mac[6:] + mac[:6]
    assert before.ip is not None
    assert after.ip is not None
    assert (after.ip.source, after.ip.destination) == (before.ip.destination, before.ip.source)
    if name in PORTS:
        assert before.transport is not None
        assert after.transport is not None
        ports = before.transport.destination_port, before.transport.source_port
        assert (after.transport.source_port, after.transport.destination_port) == ports
    assert_right(data, name)


def test_what_has_no_ip_header_or_another_final_destination_is_not_turned_round() -> None:
    routed = V6 / IPv6ExtHdrRouting(addresses=["fd00::9"]) / UDP()
    for packet in (Ether() / ARP(), Ether() / routed):
        data = bytearray(bytes(packet))
        with pytest.raises(HeaderError):
            rewrite.swap(parse(data))
        assert bytes(data) == bytes(packet)
