"""ICMP errors about our tunnels, built by an independent library; and whatever else may come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.packet import Packet, Raw

from agent.core.probe.icmp_errors import Problem, TunnelError, checksum, parse_icmp, parse_icmpv6
from agent.core.probe.paths import Path
from agent.core.probe.probe_packet import Kind, build

V4 = Path(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
V6 = Path(bytes.fromhex("fd000000000000000000000000000001"), bytes.fromhex("fd000000000000000000000000000002"))
ROUTER6 = bytes.fromhex("fd0000000000000000000000000000fe")
PATHS = {V4, V6}
PORTS = (6081, 4789)
NONCE = b"8 bytes!"
PROBE = build(Kind.REQUEST, NONCE, 1472)


def quoted_v4(payload: bytes = bytes(1472), port: int = 6081, cut: int = 548, **ip: object) -> bytes:
    fields = {"src": "10.0.0.1", "dst": "10.0.0.2", "flags": "DF"} | ip
    return bytes(IP(**fields) / UDP(sport=50000, dport=port) / Raw(payload))[:cut]


def icmp(quote: bytes, type_: int = 3, code: int = 4, mtu: int = 1400) -> bytes:
    return bytes(IP(src="10.0.0.254", dst="10.0.0.1") / ICMP(type=type_, code=code, nexthopmtu=mtu) / Raw(quote))


def quoted_v6(payload: bytes = bytes(1452), port: int = 6081, cut: int = 1232, **ip: object) -> bytes:
    fields = {"src": "fd00::1", "dst": "fd00::2"} | ip
    return bytes(IPv6(**fields) / UDP(sport=50000, dport=port) / Raw(payload))[:cut]


def icmpv6(header: Packet, quote: bytes) -> bytes:
    return bytes(IPv6(src="fd00::fe", dst="fd00::1") / header / Raw(quote))[40:]


def read_v4(packet: bytes) -> TunnelError | None:
    return parse_icmp(packet, PATHS, PORTS)


def read_v6(message: bytes) -> TunnelError | None:
    return parse_icmpv6(message, ROUTER6, V6.source, PATHS, PORTS)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("cut", [28, 100, 548])
def test_fragmentation_needed_names_path_and_mtu(port: int, cut: int) -> None:
    assert read_v4(icmp(quoted_v4(port=port, cut=cut))) == TunnelError(V4, Problem.TOO_LARGE, 1400)


@pytest.mark.parametrize("port", PORTS)
def test_packet_too_big_names_path_and_mtu(port: int) -> None:
    assert read_v6(icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(port=port))) == TunnelError(
        V6, Problem.TOO_LARGE, 1400
    )


@pytest.mark.parametrize("code", [0, 1, 3, 9, 10, 13])
def test_unreachable_of_every_kind_is_reported(code: int) -> None:
    assert read_v4(icmp(quoted_v4(), code=code)) == TunnelError(V4, Problem.UNREACHABLE)


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_unreachable_over_ipv6_is_reported(code: int) -> None:
    assert read_v6(icmpv6(ICMPv6DestUnreach(code=code), quoted_v6())) == TunnelError(V6, Problem.UNREACHABLE)


def test_a_quoted_probe_is_known_by_its_nonce() -> None:
    assert read_v4(icmp(quoted_v4(PROBE))) == TunnelError(V4, Problem.TOO_LARGE, 1400, NONCE)
    found = read_v6(icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(PROBE)))
    assert found == TunnelError(V6, Problem.TOO_LARGE, 1400, NONCE)


def test_a_quote_with_ip_options_is_read() -> None:
    options = quoted_v4(options=b"\x94\x04\x00\x00")  # router alert
    assert read_v4(icmp(options)) == TunnelError(V4, Problem.TOO_LARGE, 1400)


@pytest.mark.parametrize(("length", "guess"), [(1472, 1492), (1000, 1006), (4400, 4352)])
def test_a_ptb_without_an_mtu_is_guessed_by_the_plateaus(length: int, guess: int) -> None:
    assert read_v4(icmp(quoted_v4(bytes(length)), mtu=0)) == TunnelError(V4, Problem.TOO_LARGE, guess)


@pytest.mark.parametrize(
    "packet",
    [
        icmp(quoted_v4(src="10.0.0.9")),
        icmp(quoted_v4(dst="10.0.0.9")),
        icmp(quoted_v4(src="10.0.0.2", dst="10.0.0.1")),
        icmp(quoted_v4(port=53)),
        icmp(quoted_v4(frag=100)),
        icmp(quoted_v4(cut=27)),
        icmp(quoted_v4(proto=6)),
        icmp(quoted_v4(), type_=11, code=0),
        icmp(quoted_v4(), type_=0, code=4),
        icmp(quoted_v4(), mtu=67),
        icmp(quoted_v4(), mtu=1500),
        icmp(quoted_v4(), mtu=9000),
        icmp(quoted_v6()),
        icmp(b""),
    ],
)
def test_what_is_not_about_our_tunnels_is_nothing(packet: bytes) -> None:
    assert read_v4(packet) is None


@pytest.mark.parametrize(
    "message",
    [
        icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(src="fd00::9")),
        icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(dst="fd00::9")),
        icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(port=53)),
        icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(nh=0)),
        icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6(cut=47)),
        icmpv6(ICMPv6PacketTooBig(mtu=1279), quoted_v6()),
        icmpv6(ICMPv6PacketTooBig(mtu=1500), quoted_v6()),
        icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v4()),
    ],
)
def test_what_is_not_about_our_tunnels_over_ipv6_is_nothing(message: bytes) -> None:
    assert read_v6(message) is None


@settings(deadline=None)  # packets are built anew each time
@given(st.integers(20, 575), st.integers(1, 255))
def test_a_wrong_checksum_is_seen(at: int, change: int) -> None:
    packet = bytearray(icmp(quoted_v4()))
    packet[at] ^= change
    assert read_v4(bytes(packet)) is None
    message = bytearray(icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6()))
    message[at] ^= change
    assert read_v6(bytes(message)) is None


def test_an_error_over_ipv6_to_another_address_has_a_wrong_checksum() -> None:
    message = icmpv6(ICMPv6PacketTooBig(mtu=1400), quoted_v6())
    assert parse_icmpv6(message, ROUTER6, V6.peer, PATHS, PORTS) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_an_error_or_nothing(data: bytes) -> None:
    assert read_v4(data) is None or data
    assert read_v6(data) is None or data


@settings(deadline=None)  # packets are built anew each time
@given(st.binary(max_size=100), st.integers(0, 100), st.integers(0, 3))
def test_any_bytes_in_the_right_place_are_an_error_or_nothing(noise: bytes, at: int, type_: int) -> None:
    """With a right checksum, so that what is quoted is looked at."""
    quote = quoted_v4(PROBE, cut=at) + noise
    found = read_v4(icmp(quote, type_=3, code=type_ + 1))
    assert found is None or found.path == V4
    quote = quoted_v6(PROBE, cut=at) + noise
    found = read_v6(icmpv6(ICMPv6PacketTooBig(mtu=1400), quote))
    assert found is None or found.path == V6


@pytest.mark.parametrize("cut", range(0, 576, 7))
def test_an_error_cut_anywhere_is_nothing(cut: int) -> None:
    assert read_v4(icmp(quoted_v4())[:cut]) is None


def test_the_checksum_is_the_internets() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")  # RFC 1071, 3
    assert checksum(data) == 0xFFFF - 0xDDF2
    assert checksum(b"\x01") == 0xFEFF
