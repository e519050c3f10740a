"""What one program leaves for another that it calls: used once, by the right one, and never for another frame."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    ARRIVAL,
    D2,
    D3,
    GARBAGE,
    GATEWAY,
    GATEWAY6,
    MAC,
    MTU,
    R6,
    SLOT,
    UNKNOWN,
    UPLINK,
    A,
    B,
    Dut,
    R,
    Run,
)  # fmt: skip
from bpf_tunnels import Outer, asks, frame_to, six, tunnelled

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome

TRANSIT_XDP, TRANSIT_ERRORS, *_ = map_layout.ProgramSlot
EMPTY_SLOT, FOREIGN_SLOT = 5, 6
TO_B = p.ethernet(MAC[B], MAC[A], p.IPV4, p.ipv4(A, B, p.udp()))
TOO_LONG = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(data=bytes(MTU))))
UNREACHABLE = tunnelled(frame_to(UNKNOWN), options=p.rts(D2))
FROM_ENDPOINT = [
    ("to an endpoint of the same host", TO_B),
    ("to another droplet", p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp()))),
    ("to another droplet, IPv6", p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(A6, R6, p.udp()))),
    ("by a bouncer", p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, UNKNOWN, p.udp()))),
    ("a first fragment", p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(), fragment=0x2000, identity=5))),
    ("a later fragment", p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(), fragment=0x2001, identity=5))),
    ("too long", TOO_LONG),
    ("echo to the gateway", p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, GATEWAY, p.echo(), protocol=1))),
    ("refused by the gateway", p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(A6, GATEWAY6, p.udp()))),
    ("asks for an address that is not known", p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN))),
    ("asks for the gateway", p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, GATEWAY))),
    ("no IP", p.ethernet(MAC[R], MAC[A], 0x88CC, bytes(60))),
    ("cut short", TO_B[:30]),
]
FROM_UNDERLAY = [
    ("direct", tunnelled()),
    ("IPv6", tunnelled(frame_to(A6, R6))),
    ("after a hop", tunnelled(options=p.rts(D3))),
    ("over IPv6", tunnelled(outer=Outer(six("192.0.2.2"), six("192.0.2.1")))),
    ("with a tag", tunnelled(outer=Outer(vlan=0))),
    ("unknown options", tunnelled(options=p.option(1, 2, bytes(4)))),
    ("to nowhere", UNREACHABLE),
    ("asks", tunnelled(asks(A))),
    ("a fragment of the tunnel's", tunnelled(outer=Outer(fragment=0x2000))),
    ("cut short", tunnelled()[:40]),
]
CALLED = [("transit_xdp", ARRIVAL), ("transit_errors", ARRIVAL), ("transit_errors", UPLINK)]


def test_an_endpoint_of_the_same_host_gets_the_frame_through_the_tail_call(dut: Dut) -> None:
    dut.leave_state(TO_B, 1 + TRANSIT_XDP, receiver=IFINDEX_BASE + 2)
    run = dut.after_tail_call(TO_B)
    assert (run.outcome, run.frame) == (Outcome.DELIVERED_SAME_HOST, TO_B)


def test_after_the_tail_call_an_interface_without_an_endpoint_drops_the_packet(dut: Dut) -> None:
    """An endpoint that was removed after its packet was sent."""
    dut.leave_state(TO_B, 1 + TRANSIT_XDP, receiver=IFINDEX_BASE + 2)
    dut.remove(MapName.INTERFACES, map_layout.U32.pack(SLOT))
    assert dut.after_tail_call(TO_B).outcome is Outcome.UNKNOWN_INTERFACE


@pytest.mark.parametrize("slot", [EMPTY_SLOT, FOREIGN_SLOT, 1 << 20], ids=["of nobody", "of another VPC", "none"])
def test_after_the_tail_call_the_receiver_is_checked_again(dut: Dut, slot: int) -> None:
    dut.receiver(FOREIGN_SLOT, MAC[B], vni=8)
    dut.leave_state(TO_B, 1 + TRANSIT_XDP, receiver=IFINDEX_BASE + slot)
    assert dut.after_tail_call(TO_B).outcome is Outcome.ENDPOINT_NOT_LOCAL


@pytest.mark.parametrize(("program", "arrival"), CALLED)
def test_a_called_program_uses_no_state_of_another_program(dut: Dut, program: str, arrival: int) -> None:
    """Neither without a caller, nor if the caller named another program."""
    other = TRANSIT_XDP if program == "transit_errors" else TRANSIT_ERRORS
    for called in (0, 1 + other):
        dut.leave_state(TO_B, called, receiver=IFINDEX_BASE + 2)
        assert dut.after_tail_call(TO_B, program, arrival).outcome is Outcome.NO_PROGRAM


@pytest.mark.parametrize(("program", "arrival"), CALLED)
def test_a_called_program_uses_its_state_once(dut: Dut, program: str, arrival: int) -> None:
    assert dut.from_endpoint(TO_B).outcome is Outcome.DELIVERED_SAME_HOST
    assert dut.from_endpoint(TOO_LONG).outcome is Outcome.ICMP_TOO_BIG_SENT
    assert dut.after_tail_call(TO_B, program, arrival).outcome is Outcome.NO_PROGRAM


def test_the_state_of_a_call_is_not_used_for_the_next_frame(dut: Dut) -> None:
    """Also where its program was not called: an error would tell of the frame before."""
    dut.leave_state(TOO_LONG, 1 + TRANSIT_ERRORS)
    assert dut.from_underlay(tunnelled()).outcome is Outcome.DELIVERED
    assert dut.after_tail_call(TOO_LONG, "transit_errors", UPLINK).outcome is Outcome.NO_PROGRAM


def test_without_transit_errors_an_endpoints_packet_is_dropped_and_counted(dut: Dut) -> None:
    dut.remove(dut.jump_table, map_layout.U32.pack(TRANSIT_ERRORS))
    before = dut.endpoint_traffic(SLOT)
    assert dut.from_endpoint(TOO_LONG).outcome is Outcome.NO_PROGRAM
    after = dut.endpoint_traffic(SLOT)
    assert [now - then for then, now in zip(before, after, strict=True)] == [0, 0, 0, 1]
    assert dut.after_tail_call(TOO_LONG, "transit_errors").outcome is Outcome.NO_PROGRAM, "nothing was left over"


def test_without_transit_errors_a_packet_through_a_tunnel_is_dropped(dut: Dut) -> None:
    dut.own_network(flags=map_layout.NETWORK_LOCAL_BOUNCER)
    assert dut.from_underlay(UNREACHABLE).outcome is Outcome.ICMP_UNREACHABLE_SENT_REMOTE
    dut.remove(dut.jump_table, map_layout.U32.pack(TRANSIT_ERRORS))
    assert dut.from_underlay(UNREACHABLE).outcome is Outcome.NO_PROGRAM


def runs(dut: Dut, frames: list[tuple[str, bytes]], program: str, state: bytes) -> dict[str, Run]:
    """Return each frame's result with new maps when its state is filled with bytes of another frame's."""
    found = {}
    for sentence, frame in frames:
        dut.fill()
        dut.reset_icmp_ratelimit()
        dut.own_network(flags=map_layout.NETWORK_LOCAL_BOUNCER if program == "transit_xdp" else 0)
        dut.fill_state(state)
        found[sentence] = dut.from_endpoint(frame) if program == "transit_agent" else dut.from_underlay(frame)
    return found


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    ("program", "frames"), [("transit_agent", FROM_ENDPOINT), ("transit_xdp", FROM_UNDERLAY)], ids=["agent", "xdp"]
)
def test_the_state_of_the_previous_frame_changes_nothing(
    dut: Dut, program: str, frames: list[tuple[str, bytes]], garbage: bytes
) -> None:
    """Most of a state is not cleared: it is written before it is read."""
    clean = runs(dut, frames, program, bytes(len(garbage)))
    assert len({run.outcome for run in clean.values()}) > 5
    assert runs(dut, frames, program, garbage) == clean
