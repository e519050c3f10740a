"""From droplets and uplinks to paths, and from paths to what the neighbour watch is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_render import DOCUMENT, HERE

from agent.core.config.desired_state import Desired
from agent.core.nexthop.next_hops import Found, Peer
from agent.core.probe.paths import Known, Life, Path, View, down_at_start, down_peers, judged, paths_of
from protocol import codec
from protocol.addresses import parse_address
from protocol.documents import Droplet

OWN, OTHER_OWN, FAR, NEAR = (bytes([10, 0, 0, n]) for n in range(1, 5))


def view(source: bytes, peer: bytes, life: Life, usable: int = 1500) -> View:
    return View(Path(source, peer), life, 0.0, None, 1500, None, usable)


def lives_of(views: list[View]) -> list[tuple[Path, Life]]:
    return [(one.path, one.life) for one in views]


def test_a_path_leads_from_each_own_droplet_to_each_peer_of_its_family() -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    desired.settle()
    peers = [FAR, parse_address("2001:db8::2")]
    assert paths_of(desired.world, peers) == {Path(OWN, FAR): 1500}
    (uplink,) = HERE.uplinks
    jumbo = replace(desired.world, here=replace(HERE, uplinks=(replace(uplink, mtu=65536),)))
    assert paths_of(jumbo, peers) == {Path(OWN, FAR): 65535}
    assert paths_of(replace(desired.world, here=replace(HERE, uplinks=())), peers) == {}


@pytest.mark.parametrize(
    ("lives", "down"),
    [
        ((Life.UP, Life.DOWN), False),
        ((Life.DOWN, Life.UNKNOWN), True),
        ((Life.DOWN, Life.DOWN), True),
        ((Life.UNKNOWN, Life.UNKNOWN), False),
    ],
)
def test_a_peer_is_down_when_no_path_to_it_is_up(lives: tuple[Life, Life], down: bool) -> None:
    peers = {FAR: Peer(zero_checksum=True), NEAR: Peer()}
    views = [view(source, FAR, life) for source, life in zip((OWN, OTHER_OWN), lives, strict=True)]
    assert down_peers(lives_of(views)) == (frozenset({FAR}) if down else frozenset())
    by = {7: Found(down=True)} if down else {}
    assert judged(peers, views, {OWN: 7, OTHER_OWN: 7}) == {FAR: Peer(True, by), NEAR: Peer()}


def test_each_uplink_is_judged_by_its_own_paths() -> None:
    views = [view(OWN, FAR, Life.DOWN, 1400), view(OTHER_OWN, FAR, Life.UP, 1300)]
    by = {7: Found(True, 1400), 9: Found(False, 1300)}
    assert judged({FAR: Peer()}, views, {OWN: 7, OTHER_OWN: 9}) == {FAR: Peer(by=by)}
    assert down_peers(lives_of(views)) == frozenset()


def test_the_least_that_a_path_of_an_uplink_carries_counts() -> None:
    views = [view(OWN, FAR, Life.UP, 1400), view(OTHER_OWN, FAR, Life.UP, 1300), view(OWN, NEAR, Life.UP)]
    told = judged({FAR: Peer(), NEAR: Peer()}, views, {OWN: 7, OTHER_OWN: 7})
    assert told == {FAR: Peer(by={7: Found(mtu=1300)}), NEAR: Peer()}


def test_who_is_no_peer_any_more_is_not_told() -> None:
    assert judged({}, [view(OWN, FAR, Life.DOWN, 1400)], {OWN: 7}) == {}


def test_a_path_whose_uplink_is_gone_tells_nothing() -> None:
    assert judged({FAR: Peer()}, [view(OWN, FAR, Life.DOWN, 1400)], {}) == {FAR: Peer()}


@pytest.mark.parametrize(
    ("known", "down"),
    [
        ({}, frozenset()),
        ({Path(OWN, FAR): Known(down=True)}, frozenset({"far"})),
        ({Path(OWN, FAR): Known(down=False, carries=1400)}, frozenset()),
        ({Path(NEAR, FAR): Known(down=True)}, frozenset()),
    ],
)
def test_who_was_down_when_the_agent_before_stopped_is_known_at_once(
    known: dict[Path, Known], down: frozenset[str]
) -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    desired.settle()
    droplets = {**desired.world.droplets, "far": Droplet("far", "h9", "10.0.0.3")}
    assert down_at_start(replace(desired.world, droplets=droplets), known) == down
