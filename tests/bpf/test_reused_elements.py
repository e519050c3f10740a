"""Endpoints are written anew while packets are on their way: the kernel gives an element of a hash that a program still
reads to another key at once, also to one of another VPC."""

from __future__ import annotations

import os
from threading import Thread

import bpf_packets as p
import pytest
from bpf_dut import ARRIVAL, MAC, MTU, SLOT, VNI, XDP_ONLY, A, B, Dut, key, mapped
from bpf_tunnels import frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome

STRANGE_SLOT, STRANGE_VNI = 5, VNI + 1
STRANGE = "10.0.0.9"
B_SLOT = 2
TO_B = p.ethernet(MAC[B], MAC[A], p.IPV4, p.ipv4(A, B, p.udp()))
ROUNDS, ENTRIES, FRAMES = 400, 8000, 50_000

pytestmark = XDP_ONLY


def here(slot: int) -> bytes:
    return map_layout.ENDPOINT.pack(mapped("192.0.2.1"), IFINDEX_BASE + slot, 0, MTU, MAC[A])


def test_packets_for_one_vpc_never_reach_another_while_endpoints_of_both_are_written(dut: Dut) -> None:
    """Without the last word of `interfaces` a dozen packets in the ten millions of this test go astray."""
    dut.receiver(STRANGE_SLOT, MAC[B], STRANGE_VNI)
    strange = [(key(STRANGE, STRANGE_VNI + n), here(STRANGE_SLOT)) for n in range(3)]
    entries = [(key(B), here(B_SLOT)), *strange] * (ENTRIES // 4)
    cpus = sorted(os.sched_getaffinity(0))
    before = [dut.endpoint_traffic(slot)[2] for slot in (B_SLOT, STRANGE_SLOT)]

    def write() -> None:
        os.sched_setaffinity(0, cpus[:1])
        for _ in range(ROUNDS):
            bpf.update_batch(dut.fds[MapName.ENDPOINTS], entries)

    writer = Thread(target=write)
    try:
        os.sched_setaffinity(0, cpus[-1:])
        writer.start()
        while writer.is_alive():
            bpf.run_program(dut.programs["transit_agent"].fd, TO_B, repeat=FRAMES, ifindex=ARRIVAL)
        writer.join()
    finally:
        os.sched_setaffinity(0, cpus)
    own, strange_one = (
        dut.endpoint_traffic(slot)[2] - n for slot, n in zip((B_SLOT, STRANGE_SLOT), before, strict=True)
    )
    assert own > 0
    assert strange_one == 0


@pytest.mark.parametrize("vni", [0, STRANGE_VNI], ids=["of nobody", "of another VPC"])
def test_an_interface_that_is_not_of_the_endpoints_vpc_is_not_delivered_to(dut: Dut, vni: int) -> None:
    """What a packet would find that reads such an element."""
    dut.receiver(SLOT, MAC[A], vni)
    assert dut.from_underlay(tunnelled(frame_to(A))).outcome is Outcome.ENDPOINT_NOT_LOCAL
    dut.interface()
    dut.receiver(2, MAC[B], vni)
    assert dut.from_endpoint(TO_B).outcome is Outcome.ENDPOINT_NOT_LOCAL
