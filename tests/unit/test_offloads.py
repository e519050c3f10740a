"""The offloads of an endpoint's interface follow the hook, and whether GSO packets may leave."""

from __future__ import annotations

import pytest

from agent.core.model.hooks import Hook
from agent.core.model.offloads import (
    NO_GSO,
    OFFLOADS,
    Offload,
    Sending,
    cuts_too_late,
    lost_by,
    required_offloads,
    wrong_offloads,
)

BULK, SINGLE = Sending(Hook.TC, gso=True), Sending(Hook.TC)
ALL_ON = dict.fromkeys(OFFLOADS, Offload(True, True))
ALL_OFF = dict.fromkeys(OFFLOADS, Offload(False, True))
NOT_CARRIED = {"tx-udp-segmentation", "tx-sctp-segmentation", "tx-checksum-sctp", "tx-gso-list", "tx-esp-segmentation"}


@pytest.mark.parametrize("sending", [BULK, SINGLE])
def test_what_no_tunnel_carries_is_off_at_tc(sending: Sending) -> None:
    wrong = wrong_offloads(ALL_ON, sending)
    assert wrong.items() >= dict.fromkeys(NOT_CARRIED, False).items()
    assert {name for name in wrong if "tnl" in name or "gre" in name or "ipxip" in name}
    assert lost_by(wrong, sending).keys() >= NOT_CARRIED


def test_bulk_leaves_segmentation_and_checksums_to_devices() -> None:
    wrong = wrong_offloads(ALL_OFF, BULK)
    wanted = {"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-checksum-ip-generic", "tx-scatter-gather", "rx-gro"}
    assert wrong.items() >= dict.fromkeys(wanted, True).items()
    assert lost_by(wrong, BULK) == {"rx-gro": True}, "without the others nothing is lost"


@pytest.mark.parametrize("sending", [SINGLE, NO_GSO])
def test_endpoints_complete_their_checksums_where_no_gso_packets_may_leave(sending: Sending) -> None:
    wrong = wrong_offloads(ALL_ON, sending)
    assert wrong["tx-checksum-ip-generic"] is False
    assert "tx-checksum-ip-generic" in lost_by(wrong, sending)
    assert wrong_offloads(dict.fromkeys(OFFLOADS, Offload(False, False)), sending) == {"rx-gro": True}


@pytest.mark.parametrize("sending", [BULK, SINGLE])
def test_all_kinds_of_tcp_segmentation_of_the_kernel_follow_whether_gso_packets_may_leave(sending: Sending) -> None:
    """Without a rule, `tx-tcp-accecn-segmentation` of new kernels stays on where the others are off."""
    tcp = {"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-accecn-segmentation"}
    wrong = wrong_offloads(ALL_OFF if sending.gso else ALL_ON, sending)
    assert {name: wrong.get(name) for name in tcp} == dict.fromkeys(tcp, sending.gso)


def test_the_required_state_names_also_what_is_right_now() -> None:
    """An offload that is off only because another is off would come on with it."""
    found = {"tx-udp-segmentation": Offload(False, True), "tx-checksum-ip-generic": Offload(False, True)}
    assert wrong_offloads(found, BULK) == {"tx-checksum-ip-generic": True}
    assert required_offloads(found, BULK) == {"tx-checksum-ip-generic": True, "tx-udp-segmentation": False}


@pytest.mark.parametrize(
    ("sending", "size", "too_late"), [(BULK, 65536, False), (BULK, 65537, True), (SINGLE, 190_000, False)]
)
def test_gso_packets_beyond_64_kib_are_cut_before_they_leave(sending: Sending, size: int, too_late: bool) -> None:
    assert cuts_too_late(size, sending) is too_late
