"""A next hop is asked for anew when an answer is overdue: each once, not too often, and never an operator's."""

from __future__ import annotations

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import NUD_PERMANENT, NUD_REACHABLE, Hop, Neighbour, NextHopKey, Route
from agent.core.probe.next_hop_checks import (
    HOP_PAUSE,
    LATER,
    MISSES,
    PER_SECOND,
    OverdueProbes,
    Solicitation,
    SolicitationLimit,
    solicitations,
)
from agent.core.probe.paths import Path, Rules
from agent.core.probe.probing import Probing

HERE, ROUTER, ONE, OTHER = (bytes((10, 0, place, 1)) for place in range(4))
UPLINK = Uplink("eth0", 2, bytes.fromhex("020000000001"), 1500, (HERE,), (2,), 2, 2)
PATHS = [Path(HERE, ONE), Path(HERE, OTHER)]
HOP = Hop(ROUTER, 2)
BY_ROUTER = {NextHopKey(peer, 2): Route(2, ROUTER) for peer in (ONE, OTHER)}


def test_two_paths_by_one_router_are_one_question() -> None:
    assert list(solicitations(PATHS, [UPLINK], BY_ROUTER, {})) == [Solicitation(HOP, UPLINK, HERE)]


def test_a_next_hop_that_an_operator_configured_is_not_asked_for() -> None:
    assert not list(solicitations(PATHS, [UPLINK], BY_ROUTER, {HOP: Neighbour(NUD_PERMANENT, bytes(6))}))
    assert list(solicitations(PATHS, [UPLINK], BY_ROUTER, {HOP: Neighbour(NUD_REACHABLE, bytes(6))}))


def test_a_path_without_a_route_of_its_uplink_is_no_question() -> None:
    assert not list(solicitations(PATHS, [UPLINK], {NextHopKey(ONE, 2): Route(3, ROUTER)}, {}))
    assert not list(solicitations([Path(ROUTER, ONE)], [UPLINK], BY_ROUTER, {}))


def test_a_router_of_the_other_family_is_asked_for_without_a_known_source() -> None:
    router = bytes.fromhex("fe80") + bytes(13) + b"\1"
    (found,) = solicitations(PATHS, [UPLINK], {NextHopKey(ONE, 2): Route(2, router)}, {})
    assert (found.hop.address, found.source) == (router, None)


def test_one_next_hop_is_not_asked_for_twice_at_once_and_many_are_paced() -> None:
    pace = SolicitationLimit()
    assert pace.allows(HOP, 100.0)
    assert not pace.allows(HOP, 100.0 + HOP_PAUSE / 2)
    assert pace.allows(HOP, 100.0 + HOP_PAUSE)
    many = [pace.allows(Hop(number.to_bytes(4), 2), 200.0) for number in range(PER_SECOND * 2)]
    assert sum(many) == PER_SECOND


def test_an_answer_that_is_overdue_and_one_that_is_not() -> None:
    overdue = OverdueProbes()
    overdue.sent(PATHS[0], b"1", 100.2)
    overdue.sent(PATHS[1], b"2", 100.2)
    assert overdue.wake_at() == 100.2
    overdue.expire(100.2, {b"2"})
    assert overdue.take() == {PATHS[1]}
    assert overdue.take() == frozenset()


def test_a_peer_that_stays_silent_is_asked_for_ever_more_rarely() -> None:
    overdue = OverdueProbes()
    found = []
    for misses in range(1, 100):
        overdue.missed(PATHS[0], misses)
        if overdue.take():
            found.append(misses)
    assert found == [*range(1, MISSES + 1), *range(LATER, 100, LATER)]


def test_a_probe_is_overdue_long_before_its_deadline_and_only_of_a_peer_that_answered() -> None:
    numbers = iter(range(1000))
    probing = Probing(Rules(), lambda: next(numbers).to_bytes(8))
    probing.set_paths(dict.fromkeys(PATHS, 1500), 100.0)
    for probe in probing.due(100.1):
        if probe.path == PATHS[0]:
            probing.answered(probe.path, probe.nonce, 100.101)
    now, doubtful = 100.1, set()
    while now < 101.5:
        now += 0.01
        probing.expire(now)
        probing.due(now)
        doubtful |= {(path, round(now, 1)) for path in probing.take_overdue()}
    assert {path for path, _ in doubtful} == {PATHS[0]}
    assert min(at for _, at in doubtful) <= 101.4
