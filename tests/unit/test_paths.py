"""From droplets and uplinks to paths, and from paths to what the neighbour watch is told."""

from __future__ import annotations

from dataclasses import replace

from test_realize import DOCUMENT, HERE

from agent.core.desired import Desired
from agent.core.next_hops import Peer
from agent.core.paths import Life, Path, View, judged, paths_of
from protocol import codec
from protocol.addresses import parse_address

OWN, OTHER_OWN, FAR, NEAR = (bytes([10, 0, 0, n]) for n in range(1, 5))


def view(source: bytes, peer: bytes, life: Life, usable: int = 1500) -> View:
    return View(Path(source, peer), life, 0.0, None, 1500, None, usable)


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


def test_a_peer_is_down_when_no_path_to_it_is_up() -> None:
    peers = {FAR: Peer(zero_checksum=True), NEAR: Peer()}
    up, down, unknown = Life.UP, Life.DOWN, Life.UNKNOWN
    for lives, wanted in (((up, down), False), ((down, unknown), True), ((down, down), True), ((unknown,) * 2, False)):
        views = [view(source, FAR, life) for source, life in zip((OWN, OTHER_OWN), lives, strict=True)]
        assert judged(peers, views) == {FAR: Peer(zero_checksum=True, down=wanted), NEAR: Peer()}


def test_the_least_that_a_path_carries_counts() -> None:
    views = [view(OWN, FAR, Life.UP, 1400), view(OTHER_OWN, FAR, Life.UP, 1300), view(OWN, NEAR, Life.UP)]
    assert judged({FAR: Peer(), NEAR: Peer()}, views) == {FAR: Peer(mtu=1300), NEAR: Peer()}


def test_who_is_no_peer_any_more_is_not_told() -> None:
    assert judged({}, [view(OWN, FAR, Life.DOWN, 1400)]) == {}
