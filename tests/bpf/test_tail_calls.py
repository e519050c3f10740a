"""What one program leaves for another that it calls: used once, by the right one, and never for another frame."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import ARRIVAL, D2, MAC, MTU, SLOT, UNKNOWN, UPLINK, A, B, Dut, R
from bpf_tunnels import frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.core.plan.render import IFINDEX_BASE
from agent.datapath.bpf.outcomes import Outcome

TRANSIT_XDP, TRANSIT_ERRORS = 0, 1
EMPTY_SLOT, FOREIGN_SLOT = 5, 6
TO_B = p.ethernet(MAC[B], MAC[A], p.IPV4, p.ipv4(A, B, p.udp()))
TOO_LONG = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(data=bytes(MTU))))
UNREACHABLE = tunnelled(frame_to(UNKNOWN), options=p.rts(D2))
CALLED = [("transit_xdp", ARRIVAL), ("transit_errors", ARRIVAL), ("transit_errors", UPLINK)]


def test_an_endpoint_of_the_same_host_gets_what_the_agent_left_for_it(dut: Dut) -> None:
    dut.leave_state(1 + TRANSIT_XDP, receiver=IFINDEX_BASE + 2)
    run = dut.after_tail_call(TO_B)
    assert (run.outcome, run.frame) == (Outcome.DELIVERED_SAME_HOST, TO_B)


def test_after_the_tail_call_an_interface_of_nobody_is_closed(dut: Dut) -> None:
    """One that was removed while its packet was on its way."""
    dut.leave_state(1 + TRANSIT_XDP, receiver=IFINDEX_BASE + 2)
    dut.remove(MapName.INTERFACES, map_layout.U32.pack(SLOT))
    assert dut.after_tail_call(TO_B).outcome is Outcome.UNKNOWN_INTERFACE


@pytest.mark.parametrize("slot", [EMPTY_SLOT, FOREIGN_SLOT, 1 << 20], ids=["of nobody", "of another VPC", "none"])
def test_after_the_tail_call_the_receiver_is_looked_at_again(dut: Dut, slot: int) -> None:
    dut.receiver(FOREIGN_SLOT, MAC[B], vni=8)
    dut.leave_state(1 + TRANSIT_XDP, receiver=IFINDEX_BASE + slot)
    assert dut.after_tail_call(TO_B).outcome is Outcome.NOT_HERE


@pytest.mark.parametrize(("program", "arrival"), CALLED)
def test_a_called_program_uses_nothing_that_was_not_left_for_it(dut: Dut, program: str, arrival: int) -> None:
    """Neither when nobody called it, nor when another program was meant."""
    other = TRANSIT_XDP if program == "transit_errors" else TRANSIT_ERRORS
    for called in (0, 1 + other):
        dut.leave_state(called, receiver=IFINDEX_BASE + 2)
        assert dut.after_tail_call(TO_B, program, arrival).outcome is Outcome.NO_PROGRAM


@pytest.mark.parametrize(("program", "arrival"), CALLED)
def test_a_called_program_uses_what_was_left_for_it_once(dut: Dut, program: str, arrival: int) -> None:
    assert dut.from_endpoint(TO_B).outcome is Outcome.DELIVERED_SAME_HOST
    assert dut.from_endpoint(TOO_LONG).outcome is Outcome.TOO_BIG_TOLD
    assert dut.after_tail_call(TO_B, program, arrival).outcome is Outcome.NO_PROGRAM


def test_what_was_left_is_not_used_for_the_next_frame(dut: Dut) -> None:
    """Also where its program was not called: an error would tell of the frame before."""
    dut.leave_state(1 + TRANSIT_ERRORS)
    assert dut.from_substrate(tunnelled()).outcome is Outcome.DELIVERED
    assert dut.after_tail_call(TOO_LONG, "transit_errors", UPLINK).outcome is Outcome.NO_PROGRAM


def test_without_transit_errors_an_endpoints_packet_is_dropped_and_counted(dut: Dut) -> None:
    dut.remove(MapName.PROGRAMS, map_layout.U32.pack(TRANSIT_ERRORS))
    before = dut.endpoint_traffic(SLOT)
    assert dut.from_endpoint(TOO_LONG).outcome is Outcome.NO_PROGRAM
    after = dut.endpoint_traffic(SLOT)
    assert [now - then for then, now in zip(before, after, strict=True)] == [0, 0, 0, 1]
    assert dut.after_tail_call(TOO_LONG, "transit_errors").outcome is Outcome.NO_PROGRAM, "nothing was left over"


def test_without_transit_errors_a_packet_through_a_tunnel_is_dropped(dut: Dut) -> None:
    dut.own_network(flags=map_layout.NETWORK_BOUNCED_HERE)
    assert dut.from_substrate(UNREACHABLE).outcome is Outcome.UNREACHABLE_TOLD_REMOTE
    dut.remove(MapName.PROGRAMS, map_layout.U32.pack(TRANSIT_ERRORS))
    assert dut.from_substrate(UNREACHABLE).outcome is Outcome.NO_PROGRAM
