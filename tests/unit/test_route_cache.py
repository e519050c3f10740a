"""Which routes are asked for again after a change, without a kernel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytest

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import NextHopKey, Route
from agent.core.nexthop.route_cache import RouteCache

FIRST, SECOND, OTHER = 7, 9, 11


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def uplink(ifindex: int, *addresses: str) -> Uplink:
    return Uplink(f"eth{ifindex}", ifindex, bytes(6), 1500, tuple(map(packed, addresses)), (ifindex,), ifindex, ifindex)


ONE = (uplink(FIRST, "10.0.0.1", "2001:db8::1"),)
TWO = (*ONE, uplink(SECOND, "10.1.0.1"))
DROPLETS = tuple(
    map(packed, ("10.0.0.2", "10.0.1.2", "10.0.1.255", "10.0.2.0", "192.0.2.1", "2001:db8::2", "a00:12::"))
)


def settled(uplinks: tuple[Uplink, ...] = ONE, by: int | None = None) -> RouteCache:
    """Return cached routes for every lookup, through the uplink itself or through one interface."""
    made = RouteCache()
    made.set_wanted(DROPLETS, uplinks)
    for hop_key, _, _ in made.missing():
        made.mark_requested(hop_key)
        made.store(hop_key, Route(by or hop_key.ifindex, hop_key.droplet))
    assert made.missing() == []
    return made


def stale(cache: RouteCache) -> set[str]:
    return {str(ipaddress.ip_address(hop_key.droplet)) for hop_key, _, _ in cache.missing()}


def texts(droplets: Iterable[bytes]) -> set[str]:
    return {str(ipaddress.ip_address(one)) for one in droplets}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("10.0.1.0/24", {"10.0.1.2", "10.0.1.255"}),
        ("10.0.1.2/32", {"10.0.1.2"}),
        ("10.0.0.0/15", {"10.0.0.2", "10.0.1.2", "10.0.1.255", "10.0.2.0"}),
        ("10.9.0.0/16", set()),
        ("0.0.0.0/0", texts(one for one in DROPLETS if len(one) == 4)),
        ("2001:db8::/32", {"2001:db8::2"}),
        ("2001:db8::3/128", set()),
        ("::/0", texts(one for one in DROPLETS if len(one) == 16)),
    ],
)
def test_a_changed_route_invalidates_the_cached_routes_to_its_destination(prefix: str, expected: set[str]) -> None:
    cache, network = settled(), ipaddress.ip_network(prefix)
    assert cache.invalidate_prefix(network.network_address.packed, network.prefixlen) is bool(expected)
    assert stale(cache) == expected


def test_each_uplink_is_asked_about_and_named_where_there_are_several() -> None:
    cache = settled(TWO)
    cache.invalidate_prefix(packed("10.0.0.0"), 24)
    assert cache.missing() == [(NextHopKey(packed("10.0.0.2"), one.ifindex), one, False) for one in TWO]
    cache.invalidate_prefix(packed("2001:db8::"), 64)
    assert cache.missing()[-1] == (NextHopKey(packed("2001:db8::2"), FIRST), TWO[0], True)


def test_a_changed_rule_invalidates_all_cached_routes_and_removes_none() -> None:
    cache = settled()
    cache.invalidate_all()
    assert stale(cache) == texts(DROPLETS)
    assert len(cache.routes) == len(DROPLETS)


def test_a_changed_interface_invalidates_the_cached_routes_through_it() -> None:
    cache = settled()
    hop_key = NextHopKey(packed("10.0.2.0"), FIRST)
    cache.store(hop_key, Route(OTHER, hop_key.droplet))
    assert not cache.invalidate_interface(OTHER + 1)
    assert cache.invalidate_interface(OTHER)
    assert stale(cache) == {"10.0.2.0"}
    cache.mark_requested(hop_key)
    cache.store(hop_key, Route(FIRST, hop_key.droplet))
    assert not cache.invalidate_interface(OTHER)


def test_a_change_during_a_lookup_invalidates_its_result() -> None:
    cache = settled()
    cache.invalidate_all()
    (hop_key, *_), *_ = cache.missing()
    cache.mark_requested(hop_key)
    cache.invalidate_prefix(hop_key.droplet, 32)
    cache.store(hop_key, Route(FIRST, hop_key.droplet))
    assert hop_key in [missing for missing, _, _ in cache.missing()]


def test_a_removed_address_leaves_the_cache_and_others_are_not_looked_up_again() -> None:
    cache = settled()
    cache.set_wanted((*DROPLETS[1:], packed("10.0.3.3")), ONE)
    assert stale(cache) == {"10.0.3.3"}
    assert cache.routes.keys() == {NextHopKey(one, FIRST) for one in DROPLETS[1:]}


def test_a_missing_route_is_cached() -> None:
    cache = settled()
    hop_key = NextHopKey(DROPLETS[0], FIRST)
    cache.store(hop_key, None)
    assert hop_key not in cache.routes
    assert cache.missing() == []
