"""Questions for Ethernet addresses go straight to a host that was heard from lately, and need no bouncer."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import A6, D1, D2, D3, D4, ELSEWHERE, MAC, R6, S1, S2, UNKNOWN, UNKNOWN6, VNI, A, Dut, R, key
from bpf_tunnels import Outer, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

HELD = bytes([2, 9, 9, 9, 9, 9])
"""The Ethernet address that A holds for who it asks."""
ALL, GROUP6 = b"\xff" * 6, bytes.fromhex("3333ff000077")
PINNED, BOUNCES = map_layout.INTERFACE_PINNED, map_layout.NETWORK_LOCAL_BOUNCER
QUESTIONS = {
    "ARP to the one": p.ethernet(HELD, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN)),
    "ARP to all": p.ethernet(ALL, MAC[A], p.ARP, p.arp(MAC[A], A, UNKNOWN)),
    "a solicitation of the one": p.ethernet(HELD, MAC[A], p.IPV6, p.nd(A6, UNKNOWN6, UNKNOWN6, MAC[A])),
    "a solicitation of the group": p.ethernet(GROUP6, MAC[A], p.IPV6, p.nd(A6, "ff02::1:ff00:77", UNKNOWN6, MAC[A])),
}
each_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
over_either = pytest.mark.parametrize("over", [(D1, D2), (S1, S2)], ids=["over IPv4", "over IPv6"])
ARP = [("ARP", QUESTIONS["ARP to the one"], UNKNOWN, A), ("ND", QUESTIONS["a solicitation of the one"], UNKNOWN6, A6)]
each_kind = pytest.mark.parametrize(("kind", "question", "target", "asker"), ARP, ids=[row[0] for row in ARP])


def now(dut: Dut) -> int:
    """Return the kernel's tick."""
    dut.from_underlay(tunnelled())
    learnt = dut.direct(R)
    assert learnt is not None
    return learnt[2]


def heard(dut: Dut, host: str = D2, seconds: float = 5, flags: int = 0) -> None:
    """Have both of A's unknown addresses heard from on a host."""
    dut.remove(MapName.DIRECT, key(R)) if dut.direct(R) else None
    tick = now_over(dut) - int(seconds * ticks_per_second())
    for address in (UNKNOWN, UNKNOWN6):
        dut.path(address, host, tick, flags)


def now_over(dut: Dut) -> int:
    if not dut.over_ipv6:
        return now(dut)
    dut.from_underlay(tunnelled(outer=Outer(S2, S1)))
    learnt = dut.direct(R)
    assert learnt is not None
    return learnt[2]


@over_either
@each_question
def test_a_request_for_an_endpoint_on_a_fresh_path_goes_direct(
    dut: Dut, question: bytes, over: tuple[str, str]
) -> None:
    """Whole, with no option: that host answers it as it is, as any that was asked through a tunnel."""
    dut.fill(over_ipv6=":" in over[0])
    heard(dut)
    run = dut.from_endpoint(question)
    assert run.outcome is Outcome.SENT_DIRECT
    outer = 14 + (40 if dut.over_ipv6 else 20) + 8
    assert run.frame[outer:] == p.geneve(VNI, question)
    assert p.ip(over[1]) in run.frame[:outer]


@each_question
def test_a_request_goes_to_a_bouncer_if_no_path_may_be_used(dut: Dut, question: bytes) -> None:
    heard(dut, seconds=10)
    assert dut.from_endpoint(question).outcome is Outcome.SENT_TO_BOUNCER, "too old"
    heard(dut)
    dut.next_hop(D2, flags=map_layout.NEXT_HOP_DOWN)
    run = dut.from_endpoint(question)
    assert (run.outcome, run.frame[30:34]) == (Outcome.SENT_TO_BOUNCER, p.ip(D3)), "down"
    dut.no_next_hop(D2)
    assert dut.from_endpoint(question).outcome is Outcome.SENT_TO_BOUNCER, "nothing leads there"


def test_no_request_between_pinned_networks_goes_direct(dut: Dut) -> None:
    dut.interface(flags=PINNED)
    dut.path(ELSEWHERE, D2, now(dut))
    asks = p.ethernet(ALL, MAC[A], p.ARP, p.arp(MAC[A], A, ELSEWHERE))
    assert dut.from_endpoint(asks).outcome is Outcome.SENT_TO_BOUNCER


@each_question
def test_documents_take_precedence_over_paths_for_requests(dut: Dut, question: bytes) -> None:
    heard(dut)
    for address, mac in ((UNKNOWN, MAC[R]), (UNKNOWN6, MAC[R])):
        value = map_layout.ENDPOINT.pack(map_layout.mapped(p.ip(D4)), 0, 0, 1400, mac)
        dut.put(MapName.ENDPOINTS, key(address), value)
    assert dut.from_endpoint(question).outcome in {Outcome.ARP_ANSWERED, Outcome.ND_ANSWERED}


@over_either
@each_kind
def test_the_old_host_of_an_endpoint_returns_the_request(
    dut: Dut, kind: str, question: bytes, target: str, asker: str, over: tuple[str, str]
) -> None:
    """As it does with packets. What came by a bouncer, or back, goes no further."""
    dut.fill(over_ipv6=":" in over[0])
    own, peer = over
    run = dut.from_underlay(tunnelled(question, Outer(peer, own)))
    assert run.outcome is Outcome.RETURNED
    assert run.frame.endswith(p.geneve(VNI, question, options=p.INVALIDATE, flags=0x40))
    assert (
        dut.from_underlay(tunnelled(question, Outer(peer, own), options=p.rts(peer))).outcome
        is Outcome.ENDPOINT_NOT_LOCAL
    )


@each_kind
def test_the_requesting_host_deletes_the_path_and_asks_a_bouncer_next(
    dut: Dut, kind: str, question: bytes, target: str, asker: str
) -> None:
    heard(dut)
    assert dut.from_underlay(tunnelled(question, options=p.INVALIDATE)).outcome is Outcome.ENDPOINT_NOT_LOCAL
    assert dut.direct(target) is None
    assert dut.from_endpoint(question).outcome is Outcome.SENT_TO_BOUNCER


@each_kind
def test_only_the_droplet_of_a_path_can_delete_it_by_a_request(
    dut: Dut, kind: str, question: bytes, target: str, asker: str
) -> None:
    heard(dut)
    dut.from_underlay(tunnelled(question, Outer(D4), options=p.INVALIDATE))
    assert dut.direct(target) is not None, "another droplet than the path's"
    foreign = {"ARP": p.ethernet(HELD, MAC[R], p.ARP, p.arp(MAC[R], R, UNKNOWN)),
               "ND": p.ethernet(HELD, MAC[R], p.IPV6, p.nd(R6, UNKNOWN6, UNKNOWN6, MAC[R]))}[kind]  # fmt: skip
    dut.from_underlay(tunnelled(foreign, options=p.INVALIDATE))
    assert dut.direct(target) is not None, "a question that is of no endpoint here"
