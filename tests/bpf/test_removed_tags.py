"""VLAN tags that the kernel removes before tc. A test run shows none, so tagged frames are sent on a wire."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from socket import htons

import bpf_packets as p
import pytest
from bpf_dut import D1, DROPLET_MAC, SECOND_UPLINK, UPLINK, A, Dut, R, mapped
from bpf_tunnels import Outer, frame_to
from test_gso import TC_ONLY

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.links import TCX_HOOKS
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.uapi import call

pytestmark = TC_ONLY
BPF_PROG_ATTACH = 8
VLAN_ID = 5
PATIENCE = 50_000
"""How often the counters are read until a frame that was sent must have been counted."""


@pytest.fixture(scope="module", autouse=True)
def attached(interfaces: None, shared_dut: Dut) -> None:
    for number in (UPLINK, SECOND_UPLINK):
        subprocess.run(f"ip link set v{number} up".split(), check=True)
    attr = struct.pack("=6IQ", UPLINK, shared_dut.programs["transit_xdp"].fd, TCX_HOOKS["ingress"], 0, 0, 0, 0)
    call(BPF_PROG_ATTACH, attr)  # type: ignore[arg-type]


def outcome_of(dut: Dut, frame: bytes) -> Outcome:
    """Send a frame to the uplink and return its outcome; the kernel's own frames there are shorter."""
    before = dut.counters()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((f"v{SECOND_UPLINK}", 0))
        wire.send(frame)
    for _ in range(PATIENCE):
        now = dut.counters()
        for outcome in (Outcome.DELIVERED, Outcome.PASSED):
            if now[outcome][1] - before[outcome][1] >= len(frame) - 4:
                return outcome
    pytest.fail("the frame was not counted")


@pytest.mark.parametrize(
    ("kind", "vlan", "outcome"),
    [
        (0x8100, VLAN_ID, Outcome.DELIVERED),
        (0x8100, VLAN_ID + 1, Outcome.PASSED),
        (0x8100, 0, Outcome.PASSED),
        (0x88A8, VLAN_ID, Outcome.PASSED),
        (0x88A8, 0, Outcome.PASSED),
    ],
)
def test_only_a_tag_of_802_1q_names_a_droplets_vlan(dut: Dut, kind: int, vlan: int, outcome: Outcome) -> None:
    local = (mapped(D1), UPLINK, UPLINK, UPLINK, DROPLET_MAC[D1], htons(VLAN_ID), 0)
    dut.put(MapName.LOCAL_DROPLETS, map_layout.U32.pack(0), map_layout.LOCAL_DROPLET.pack(*local))
    inner = frame_to(A, R)[:14] + p.ipv4(R, A, p.udp(data=os.urandom(1200)))
    frame = Outer().wrap(p.geneve(7, inner))
    assert outcome_of(dut, frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]) is outcome
