"""Foreign changes of what only programs at tc have are repaired as those of XDP are (test_repair.py)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.repairs import HOST, NAME, detach_tcx_programs, inside, offload, repaired_after
from lab.traffic import exchange_tcp
from lab.waiting import until

from agent.datapath.bpf import syscall as bpf

AGENTS = "underlay: {wires: virtual}\nagents: {endpoint_hook: tc, uplink_hook: tc}\n"


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("tcrepair", topology_text("bouncer_on_host") + AGENTS) as lab:
        yield lab


OFFLOADS = {
    "generic receive offload (rx-gro) is off at eth0": offload("gro", "off"),
    "transmit checksum offload (tx-checksum-ip-generic) is off at eth0": offload("tx-checksum-ip-generic", "off"),
    "TCP segmentation offload (tx-tcp-segmentation) is off at eth0": offload("tx-tcp-segmentation", "off"),
    "UDP segmentation offload (tx-udp-segmentation) is on at eth0": offload("tx-udp-segmentation", "on"),
    "segmentation offload of UDP tunnels (tx-udp_tnl-segmentation) is on": offload("tx-udp_tnl-segmentation", "on"),
    "VLAN tag insertion offload (tx-vlan-hw-insert) is on at eth0": offload("txvlan", "on"),
    "GSO packets of eth0 may have 190,000 bytes (gso_max_size)": inside(
        "link", "set", "eth0", "gso_max_size", "190000"
    ),
}
"""What the repair says, and the damage."""
DAMAGES: dict[str, Callable[[SystemLab], None]] = {
    "the transit agent is detached": lambda lab: detach_tcx_programs(lab, lab.host_side(NAME)),
    "transit XDP is detached": lambda lab: detach_tcx_programs(lab, "eth0"),
    "the endpoint's pair is deleted from inside": inside("link", "delete", "eth0"),
}


@pytest.mark.parametrize("said", OFFLOADS)
def test_a_changed_offload_is_repaired_and_reported(lab: SystemLab, said: str) -> None:
    assert said in repaired_after(lab, lambda: OFFLOADS[said](lab))
    exchange_tcp(lab, "web-1", "web-2", 1_000_000)
    exchange_tcp(lab, "web-2", "web-1", 1_000_000)


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_repaired_when(lab: SystemLab, damage: str) -> None:
    assert repaired_after(lab, lambda: DAMAGES[damage](lab))
    exchange_tcp(lab, "web-1", "web-2", 1_000_000)


def test_a_cleared_jump_table_is_restored(lab: SystemLab) -> None:
    first = struct.pack("=I", 0)
    with lab.map(HOST, "tc_programs") as descriptor:
        wanted = bpf.lookup(descriptor, first, 4)
        assert wanted is not None
        bpf.delete(descriptor, first)
        until(lambda: bpf.lookup(descriptor, first, 4) == wanted, "the tail call")
