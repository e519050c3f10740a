"""Frames longer than a page, as there are in generic mode. A test run takes none, so these are sent on a wire."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    ARRIVAL,
    D1,
    D2,
    MAC,
    R6,
    S1,
    S2,
    SECOND_UPLINK,
    SLOT,
    UNCOUNTED,
    UPLINK,
    XDP_ONLY,
    A,
    Dut,
    R,
)
from bpf_tunnels import Outer, tunnelled

from agent.datapath.attach.xdp import AttachableProgram, AttachMode, ProgramOwnership, attach
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import RECEIVED, Outcome
from agent.datapath.net.netlink import Netlink

MTU = 9000
PATIENCE = 50_000
"""How often the counters are read until a frame that was sent must have been counted."""
INNER = MTU - 94
LENGTHS = [3900, 4000, 4053, 4095, 4096, 4097, 5000, 6143, 6144, 8000, 8191, 8192, 8193, INNER]
"""Of inner packets: on both sides of where a sum's next part begins, and the longest."""
pytestmark = XDP_ONLY


@pytest.fixture(scope="module", autouse=True)
def attached(interfaces: None, shared_dut: Dut) -> None:
    """The programs are on interfaces with long frames."""
    for number in (ARRIVAL, UNCOUNTED, UPLINK, SECOND_UPLINK):
        subprocess.run(f"ip link set v{number} mtu {MTU} up".split(), check=True)

    async def attach_both() -> None:
        async with Netlink() as netlink:
            for name, interface in (("transit_xdp", UPLINK), ("transit_agent", ARRIVAL)):
                fd = shared_dut.programs[name].fd
                program = AttachableProgram(fd, bpf.program_info(fd).id, name)
                own = ProgramOwnership(lambda _: False, bpf.program_by_id)
                await attach(netlink, interface, program, own, AttachMode.GENERIC)

    asyncio.run(attach_both())


@pytest.fixture
def dut_for_long_frames(dut: Dut) -> Iterator[Dut]:
    dut.fill(over_ipv6=True)
    for address in (A, A6):
        dut.endpoint(address, D1, SLOT, mtu=INNER)
    dut.interface(mtu=INNER)
    dut.next_hop(D2, mtu=MTU)
    return dut


def on(interface: int) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((f"v{interface}", 0))
    raw.settimeout(5)
    return raw


def sent(dut: Dut, interface: int, frame: bytes) -> Outcome:
    """Send a frame and return what became of it; the kernel's own frames on the interface have none of its length."""
    before = dut.counters()
    with on(interface) as raw:
        raw.send(frame)
        for _ in range(PATIENCE):
            after = dut.counters()
            moved = [one for one, now in after.items() if one not in RECEIVED and
                     now[1] - before[one][1] >= len(frame)]  # fmt: skip
            if moved:
                return moved[0]
    pytest.fail("the frame was not counted")


def packet(family: int, length: int) -> bytes:
    """Return a UDP packet of R to A, or of A to R by `family` -4 and -6, without a checksum of its own for IPv4."""
    ends = {4: (R, A), 6: (R6, A6), -4: (A, R), -6: (A6, R6)}[family]
    data = os.urandom(length - (48 if abs(family) == 6 else 28))
    return p.ipv6(*ends, p.udp(data=data)) if abs(family) == 6 else p.ipv4(*ends, p.udp(data=data))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("family", [4, 6])
def test_a_long_tunnel_packets_checksum_is_verified(dut_for_long_frames: Dut, family: int, length: int) -> None:
    inner = p.ethernet(MAC[A], MAC[R], p.IPV6 if family == 6 else p.IPV4, packet(family, length))
    frame = tunnelled(inner, Outer(S2, S1))
    assert sent(dut_for_long_frames, SECOND_UPLINK, frame) is Outcome.DELIVERED
    for damaged in (frame[:-1] + bytes([frame[-1] ^ 1]), frame[:200] + bytes([frame[200] ^ 1]) + frame[201:]):
        assert sent(dut_for_long_frames, SECOND_UPLINK, damaged) is Outcome.OUTER_CHECKSUM


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("family", [4, 6])
def test_a_long_packet_leaves_with_a_right_checksum(dut_for_long_frames: Dut, family: int, length: int) -> None:
    frame = p.ethernet(MAC[R], MAC[A], p.IPV6 if family == 6 else p.IPV4, packet(-family, length))
    with on(SECOND_UPLINK) as wire:
        assert sent(dut_for_long_frames, UNCOUNTED, frame) is Outcome.SENT_DIRECT
        out = b""
        while len(out) < length:
            out = wire.recv(1 << 14)
    assert out.endswith(frame)
    assert p.checksum(p.pseudo(S1, S2, len(out) - 54, p.UDP) + out[54:]) == 0
