"""The probe on the wire: every byte, and anything else that may come instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.probe.probe_packet import Kind, ProbePacket, build, headers, parse, smallest

NONCE = bytes.fromhex("0102030405060708")


def test_every_byte_of_a_probe() -> None:
    geneve, option, body = "04 80 6558 00000000", "ff4d 03 03", "01 000000 0102030405060708"
    assert build(Kind.REQUEST, NONCE, 50) == bytes.fromhex(geneve + option + body).ljust(50, b"\0")


def test_sizes_count_the_outer_headers() -> None:
    assert (headers(bytes(4)), headers(bytes(16))) == (28, 48)
    assert (smallest(bytes(4)), smallest(bytes(16))) == (66, 86)


@given(st.sampled_from(Kind), st.binary(min_size=8, max_size=8), st.integers(38, 9000))
def test_what_is_built_is_read(kind: Kind, nonce: bytes, length: int) -> None:
    packet = build(kind, nonce, length)
    assert len(packet) == length
    assert parse(packet) == ProbePacket(kind, nonce)


@pytest.mark.parametrize(("length", "nonce"), [(37, NONCE), (50, b"short")])
def test_a_probe_that_cannot_be_is_not_built(length: int, nonce: bytes) -> None:
    with pytest.raises(ValueError, match="at least 38 bytes"):
        build(Kind.REQUEST, nonce, length)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_probe_or_none(data: bytes) -> None:
    found = parse(data)
    assert found is None or len(found.nonce) == 8


@given(st.binary(max_size=60), st.integers(0, 60))
def test_a_probe_with_any_bytes_changed_is_read_or_none(noise: bytes, at: int) -> None:
    packet = build(Kind.REPLY, NONCE, 60)
    parse(packet[:at] + noise + packet[at + len(noise) :])


def test_other_options_beside_it_are_skipped() -> None:
    packet = build(Kind.REPLY, NONCE, 50)
    other = bytes.fromhex("0101 07 01 aabbccdd")
    assert parse(bytes([6]) + packet[1:8] + other + packet[8:]) == ProbePacket(Kind.REPLY, NONCE)


@pytest.mark.parametrize(
    "change",
    [
        (0, 0x44),  # version 1
        (1, 0x00),  # no control packet
        (3, 0x59),  # not Ethernet
        (5, 0x01),  # a VPC's
        (9, 0x4E),  # another class
        (10, 0x01),  # another type
        (11, 0x02),  # too short an option
        (12, 0x03),  # no such kind
    ],
)
def test_what_differs_in_its_header_is_no_probe(change: tuple[int, int]) -> None:
    packet = bytearray(build(Kind.REQUEST, NONCE, 50))
    packet[change[0]] = change[1]
    assert parse(bytes(packet)) is None
