"""RFC 6040: how congestion marks go into tunnels, through bouncers and out again, in every pair of families."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import A6, D1, D2, D3, D4, ELSEWHERE, ELSEWHERE6, MAC, R6, S1, S2, UNKNOWN, UNKNOWN6, VNI, A, Dut, R
from bpf_tunnels import Outer, asks, frame_to, tunnelled

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3
DECAPSULATION = [  # RFC 6040 section 4.2, figure 4: inner, outer, result
    (NOT_ECT, NOT_ECT, NOT_ECT), (NOT_ECT, ECT0, NOT_ECT), (NOT_ECT, ECT1, NOT_ECT), (NOT_ECT, CE, None),
    (ECT0, NOT_ECT, ECT0), (ECT0, ECT0, ECT0), (ECT0, ECT1, ECT1), (ECT0, CE, CE),
    (ECT1, NOT_ECT, ECT1), (ECT1, ECT0, ECT1), (ECT1, ECT1, ECT1), (ECT1, CE, CE),
    (CE, NOT_ECT, CE), (CE, ECT0, CE), (CE, ECT1, CE), (CE, CE, CE),
]  # fmt: skip
OVER = {"4 in 4": (A, R, D2, D1), "6 in 4": (A6, R6, D2, D1), "4 in 6": (A, R, S2, S1), "6 in 6": (A6, R6, S2, S1)}
"""The inner receiver and sender, the outer source and destination."""
DSCP_INSIDE, DSCP_OUTSIDE = 0xB8, 0x28


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize(("inner", "outer", "result"), DECAPSULATION)
def test_marks_merge_at_the_tunnels_end(dut: Dut, inner: int, outer: int, result: int | None, over: str) -> None:
    receiver, sender, source, destination = OVER[over]
    dut.fill(over_ipv6=":" in source)
    frame = frame_to(receiver, sender, tos=DSCP_INSIDE | inner)
    run = dut.from_underlay(tunnelled(frame, Outer(source, destination, tos=DSCP_OUTSIDE | outer)))
    if result is None:
        assert run.outcome is Outcome.ECN_NOT_CAPABLE
    else:
        assert run.frame == frame_to(receiver, sender, tos=DSCP_INSIDE | result), "DSCP inside is the inner one's"


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize(("inner", "outer", "result"), DECAPSULATION)
def test_marks_survive_the_bounce(dut: Dut, inner: int, outer: int, result: int | None, over: str) -> None:
    """A bouncer ends one tunnel and begins another: the mark is inside and outside of what it sends on."""
    receiver, sender, source, destination = OVER[over]
    dut.fill(over_ipv6=":" in source)
    dut.endpoint(sender, D3)
    frame = frame_to(sender, receiver, tos=DSCP_INSIDE | inner)
    run = dut.from_underlay(tunnelled(frame, Outer(source, destination, tos=DSCP_OUTSIDE | outer)))
    if result is None:
        assert run.outcome is Outcome.ECN_NOT_CAPABLE
        return
    assert run.outcome is Outcome.BOUNCED
    assert run.frame.endswith(frame_to(sender, receiver, tos=DSCP_INSIDE | result))
    assert outer_tos(run.frame) == DSCP_OUTSIDE | result, "DSCP outside is the one it came with"


@pytest.mark.parametrize("role", [Outcome.HANDED_TO_BOUNCER, Outcome.HANDED_TO_DIVIDER], ids=str)
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize(("inner", "outer", "result"), DECAPSULATION)
def test_marks_survive_a_dividers_hop(
    dut: Dut, inner: int, outer: int, result: int | None, over: str, role: Outcome
) -> None:
    """To the divider from the bouncer, and on from the divider."""
    receiver, sender, source, destination = OVER[over]
    there = ELSEWHERE6 if ":" in receiver else ELSEWHERE
    dut.fill(over_ipv6=":" in source)
    if role is Outcome.HANDED_TO_BOUNCER:
        dut.vpc((D1,), map_layout.VPC_LOCAL_DIVIDER)
    else:
        dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    frame = frame_to(there, sender, tos=DSCP_INSIDE | inner)
    run = dut.from_underlay(tunnelled(frame, Outer(source, destination, tos=DSCP_OUTSIDE | outer)))
    if result is None:
        assert run.outcome is Outcome.ECN_NOT_CAPABLE
        return
    assert run.outcome is role
    assert run.frame.endswith(frame_to(there, sender, tos=DSCP_INSIDE | result))
    assert outer_tos(run.frame) == DSCP_OUTSIDE | result


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("to", ["an endpoint on a known droplet", "an unknown one"])
@pytest.mark.parametrize("ecn", [NOT_ECT, ECT1, ECT0, CE])
def test_a_tunnel_begins_in_normal_mode(dut: Dut, ecn: int, to: str, over: str) -> None:
    """RFC 6040 section 4.1: the outer field is the inner one; DSCP is the endpoint's class."""
    dut.fill(over_ipv6=over.endswith("6"))
    dut.interface(dscp=0x12)
    sender, known, _, _ = OVER[over]
    unknown = UNKNOWN6 if over.startswith("6") else UNKNOWN
    receiver = known if "known droplet" in to else unknown
    inner = p.ipv6 if over.startswith("6") else p.ipv4
    kind = p.IPV6 if over.startswith("6") else p.IPV4
    packet = inner(sender, receiver, p.udp(), tos=DSCP_INSIDE | ecn)
    run = dut.from_endpoint(p.ethernet(MAC[R], MAC[A], kind, packet))
    assert outer_tos(run.frame) == 0x12 << 2 | ecn
    assert run.frame.endswith(packet), "nothing inside has changed"


def outer_tos(frame: bytes) -> int:
    """Return the TOS field or traffic class of the outer header."""
    if frame[12:14] == b"\x08\x00":
        return frame[15]
    return int.from_bytes(frame[14:16], "big") >> 4 & 0xFF


@pytest.mark.parametrize("ecn", [NOT_ECT, ECT1, ECT0, CE])
def test_a_bouncers_answer_to_arp_starts_without_marks(dut: Dut, ecn: int) -> None:
    dut.own_network((D1,), map_layout.NETWORK_LOCAL_BOUNCER)
    run = dut.from_underlay(tunnelled(asks(R), Outer(tos=DSCP_OUTSIDE | ecn), options=p.rts(D4)))
    assert run.outcome is Outcome.ARP_ANSWERED_REMOTE
    assert outer_tos(run.frame) == DSCP_OUTSIDE


def test_marks_merge_out_of_vxlan_too(dut: Dut) -> None:
    frame = frame_to(tos=ECT0)
    assert dut.from_underlay(Outer(port=4789, tos=CE).wrap(p.vxlan(VNI, frame))).frame == frame_to(tos=CE)


def test_a_mark_that_is_merged_leaves_a_right_checksum(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(frame_to(tos=ECT0), Outer(tos=CE)))
    assert p.checksum(run.frame[14:34]) == 0
