"""GSO packets on a wire, through the programs at tcx: sent and received whole, with the offloads' marks."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    ARRIVAL,
    D2,
    D3,
    R6,
    SECOND_UPLINK,
    SLOT,
    UNCOUNTED,
    UNKNOWN,
    UPLINK,
    A,
    Dut,
    R,
)  # fmt: skip
from test_gso import TC_ONLY, stream

from agent.core.model import map_layout
from agent.datapath.bpf.links import TCX_HOOKS
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.uapi import call

pytestmark = TC_ONLY
BPF_PROG_ATTACH = 8
SOL_PACKET, PACKET_VNET_HDR, NEEDS_CHECKSUM = 263, 15, 1
VNET_HEADER = struct.Struct("=BBHHHH")
"""struct virtio_net_hdr { u8 flags, gso_type; u16 hdr_len, gso_size, csum_start, csum_offset }."""
TCP4, TCP6 = 1, 4
SIZE, PAYLOAD, SEGMENTS = 1200, 50_000, 42


@pytest.fixture(scope="module", autouse=True)
def attached(interfaces: None, duts: object, shared_dut: Dut) -> None:
    for number in (ARRIVAL, UNCOUNTED, UPLINK, SECOND_UPLINK):
        subprocess.run(f"ip link set v{number} up".split(), check=True)
    for name, interface in (("transit_xdp", UPLINK), ("transit_agent", ARRIVAL)):
        attr = struct.pack("=6IQ", interface, shared_dut.programs[name].fd, TCX_HOOKS["ingress"], 0, 0, 0, 0)
        call(BPF_PROG_ATTACH, attr)  # type: ignore[arg-type]


def is_ipv6(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd"


class Wire:
    """One end of a veth: sends and receives GSO packets of TCP whose checksums are not complete."""

    def __init__(self, interface: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._socket.bind((f"v{interface}", 0))
        self._socket.settimeout(5)

    def send(self, frame: bytes, size: int = SIZE) -> None:
        """Send a TCP packet that is to be cut into segments of `size` bytes."""
        ipv6 = is_ipv6(frame)
        start = 14 + (40 if ipv6 else 20)
        header = VNET_HEADER.pack(NEEDS_CHECKSUM, TCP6 if ipv6 else TCP4, start + 20, size, start, 16)
        self._socket.send(header + frame)

    def receive(self, ending: bytes) -> bytes:
        """Return the next frame that ends with these bytes, whole."""
        while not (raw := self._socket.recv(1 << 17)).endswith(ending):
            pass
        return raw[VNET_HEADER.size :]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def endpoint() -> Iterator[Wire]:
    wire = Wire(UNCOUNTED)
    yield wire
    wire.close()


@pytest.fixture
def underlay() -> Iterator[Wire]:
    wire = Wire(SECOND_UPLINK)
    yield wire
    wire.close()


def segments(dut: Dut, outcome: Outcome, before: dict[Outcome, tuple[int, int]]) -> int:
    """Return how many packets an outcome has counted since."""
    return dut.counters().get(outcome, (0, 0))[0] - before.get(outcome, (0, 0))[0]


def unfinished(frame: bytes) -> bytes:
    """Return a TCP frame with the sum of its pseudo-header in place of the checksum, and random data at its end."""
    ipv6 = is_ipv6(frame)
    start = 54 if ipv6 else 34
    addresses = frame[22:54] if ipv6 else frame[26:34]
    length = len(frame) - start
    sum_ = ~p.checksum(addresses + length.to_bytes(4, "big") + bytes([0, 0, 0, p.TCP])) & 0xFFFF
    return frame[: start + 16] + sum_.to_bytes(2, "big") + frame[start + 18 : -8] + os.urandom(8)


@pytest.mark.parametrize("over", [4, 6])
@pytest.mark.parametrize(("source", "to"), [(A, R), (A6, R6), (A, UNKNOWN)], ids=["IPv4", "IPv6", "by a bouncer"])
def test_a_gso_packet_of_an_endpoint_leaves_whole(
    dut: Dut, endpoint: Wire, underlay: Wire, source: str, to: str, over: int
) -> None:
    dut.fill(over_ipv6=over == 6)
    for name in (D2, D3):
        dut.next_hop(name, flags=map_layout.NEXT_HOP_ZERO_CHECKSUM)
    frame, before, own = unfinished(stream(source, to, PAYLOAD)), dut.counters(), dut.endpoint_traffic(SLOT)[0]
    endpoint.send(frame)
    found = underlay.receive(frame[-8:])
    outcome = Outcome.SENT_TO_BOUNCER if to == UNKNOWN else Outcome.SENT_DIRECT
    assert segments(dut, outcome, before) == SEGMENTS
    assert dut.endpoint_traffic(SLOT)[0] - own == SEGMENTS
    assert found.endswith(frame)
    outer = 14 + (20 if over == 4 else 40)
    udp_length = int.from_bytes(found[outer + 4 : outer + 6], "big")
    assert udp_length == len(found) - outer
    assert found[outer + 6 : outer + 8] == bytes(2), "no UDP checksum"


@pytest.mark.parametrize(("narrower", "outcome"), [(0, Outcome.SENT_DIRECT), (1, Outcome.ICMP_TOO_BIG_SENT)])
def test_the_mtu_of_the_path_holds_for_each_segment(dut: Dut, endpoint: Wire, narrower: int, outcome: Outcome) -> None:
    dut.next_hop(D2, mtu=SIZE + 40 + 50 - narrower)
    before = dut.counters()
    endpoint.send(unfinished(stream(A, R, PAYLOAD)))
    assert until_counted(dut, outcome, before) == SEGMENTS


def until_counted(dut: Dut, outcome: Outcome, before: dict[Outcome, tuple[int, int]]) -> int:
    for _ in range(50_000):
        if found := segments(dut, outcome, before):
            return found
    pytest.fail(f"no packet was counted as {outcome.name}")
