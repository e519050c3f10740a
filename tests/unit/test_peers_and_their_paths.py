"""From droplets and uplinks to paths, and from paths to what the neighbour watch gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_render import DOCUMENT, HERE

from agent.core.config.desired_state import Desired
from agent.core.nexthop.next_hops import PathFindings, Peer
from agent.core.probe.paths import (
    Liveness,
    Path,
    PathRecord,
    View,
    down_at_start,
    down_peers,
    paths_of,
    with_path_state,
)
from protocol import codec
from protocol.addresses import parse_address
from protocol.documents import Droplet

OWN, OTHER_OWN, FAR, NEAR = (bytes([10, 0, 0, n]) for n in range(1, 5))


def view(source: bytes, peer: bytes, liveness: Liveness, usable: int = 1500) -> View:
    return View(Path(source, peer), liveness, 0.0, None, 1500, None, usable)


def lives_of(views: list[View]) -> list[tuple[Path, Liveness]]:
    return [(one.path, one.liveness) for one in views]


def test_a_path_leads_from_each_own_droplet_to_each_peer_of_its_family() -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    desired.resolve()
    peers = [FAR, parse_address("2001:db8::2")]
    assert paths_of(desired.resolved, peers) == {Path(OWN, FAR): 1500}
    (uplink,) = HERE.uplinks
    jumbo = replace(desired.resolved, host_state=replace(HERE, uplinks=(replace(uplink, mtu=65536),)))
    assert paths_of(jumbo, peers) == {Path(OWN, FAR): 65535}
    assert paths_of(replace(desired.resolved, host_state=replace(HERE, uplinks=())), peers) == {}


@pytest.mark.parametrize(
    ("lives", "down"),
    [
        ((Liveness.UP, Liveness.DOWN), False),
        ((Liveness.DOWN, Liveness.UNKNOWN), True),
        ((Liveness.DOWN, Liveness.DOWN), True),
        ((Liveness.UNKNOWN, Liveness.UNKNOWN), False),
    ],
)
def test_a_peer_is_down_when_no_path_to_it_is_up(lives: tuple[Liveness, Liveness], down: bool) -> None:
    peers = {FAR: Peer(zero_checksum=True), NEAR: Peer()}
    views = [view(source, FAR, liveness) for source, liveness in zip((OWN, OTHER_OWN), lives, strict=True)]
    assert down_peers(lives_of(views)) == (frozenset({FAR}) if down else frozenset())
    by = {7: PathFindings(down=True)} if down else {}
    assert with_path_state(peers, views, {OWN: 7, OTHER_OWN: 7}) == {FAR: Peer(True, by), NEAR: Peer()}


def test_each_uplink_is_checked_by_its_own_paths() -> None:
    views = [view(OWN, FAR, Liveness.DOWN, 1400), view(OTHER_OWN, FAR, Liveness.UP, 1300)]
    by = {7: PathFindings(True, 1400), 9: PathFindings(False, 1300)}
    assert with_path_state({FAR: Peer()}, views, {OWN: 7, OTHER_OWN: 9}) == {FAR: Peer(by=by)}
    assert down_peers(lives_of(views)) == frozenset()


def test_the_least_that_a_path_of_an_uplink_carries_counts() -> None:
    views = [view(OWN, FAR, Liveness.UP, 1400), view(OTHER_OWN, FAR, Liveness.UP, 1300), view(OWN, NEAR, Liveness.UP)]
    found = with_path_state({FAR: Peer(), NEAR: Peer()}, views, {OWN: 7, OTHER_OWN: 7})
    assert found == {FAR: Peer(by={7: PathFindings(mtu=1300)}), NEAR: Peer()}


def test_path_state_of_a_former_peer_is_ignored() -> None:
    assert with_path_state({}, [view(OWN, FAR, Liveness.DOWN, 1400)], {OWN: 7}) == {}


def test_path_state_of_a_removed_uplink_is_ignored() -> None:
    assert with_path_state({FAR: Peer()}, [view(OWN, FAR, Liveness.DOWN, 1400)], {}) == {FAR: Peer()}


@pytest.mark.parametrize(
    ("known", "down"),
    [
        ({}, frozenset()),
        ({Path(OWN, FAR): PathRecord(down=True)}, frozenset({"far"})),
        ({Path(OWN, FAR): PathRecord(down=False, carries=1400)}, frozenset()),
        ({Path(NEAR, FAR): PathRecord(down=True)}, frozenset()),
    ],
)
def test_who_was_down_when_the_agent_before_stopped_is_known_at_once(
    known: dict[Path, PathRecord], down: frozenset[str]
) -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    desired.resolve()
    droplets = {**desired.resolved.droplets, "far": Droplet("far", "h9", "10.0.0.3")}
    assert down_at_start(replace(desired.resolved, objects={"droplets": droplets}), known) == down
