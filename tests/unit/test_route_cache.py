"""Which routes are asked for again after a change, without a kernel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytest

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Route, Way
from agent.core.nexthop.route_cache import Lookups

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


def settled(uplinks: tuple[Uplink, ...] = ONE, by: int | None = None) -> Lookups:
    """Return lookups with every answer there, by the way's own uplink or by one interface."""
    made = Lookups()
    made.tell(DROPLETS, uplinks)
    for way, _, _ in made.missing():
        made.begin(way)
        made.keep(way, Route(by or way.ifindex, way.droplet))
    assert made.missing() == []
    return made


def doubtful(lookups: Lookups) -> set[str]:
    return {str(ipaddress.ip_address(way.droplet)) for way, _, _ in lookups.missing()}


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
def test_a_route_makes_the_ways_to_droplets_in_its_destination_doubtful(prefix: str, expected: set[str]) -> None:
    lookups, network = settled(), ipaddress.ip_network(prefix)
    assert lookups.forget_within(network.network_address.packed, network.prefixlen) is bool(expected)
    assert doubtful(lookups) == expected


def test_each_uplink_is_asked_about_and_named_where_there_are_several() -> None:
    lookups = settled(TWO)
    lookups.forget_within(packed("10.0.0.0"), 24)
    assert lookups.missing() == [(Way(packed("10.0.0.2"), one.ifindex), one, False) for one in TWO]
    lookups.forget_within(packed("2001:db8::"), 64)
    assert lookups.missing()[-1] == (Way(packed("2001:db8::2"), FIRST), TWO[0], True)


def test_rules_make_everything_doubtful_and_take_no_answer_away() -> None:
    lookups = settled()
    lookups.forget()
    assert doubtful(lookups) == texts(DROPLETS)
    assert len(lookups.routes) == len(DROPLETS)


def test_an_interface_makes_the_ways_doubtful_that_leave_by_it() -> None:
    lookups = settled()
    way = Way(packed("10.0.2.0"), FIRST)
    lookups.keep(way, Route(OTHER, way.droplet))
    assert not lookups.forget_by(OTHER + 1)
    assert lookups.forget_by(OTHER)
    assert doubtful(lookups) == {"10.0.2.0"}
    lookups.begin(way)
    lookups.keep(way, Route(FIRST, way.droplet))
    assert not lookups.forget_by(OTHER)


def test_a_change_during_the_question_makes_its_answer_doubtful() -> None:
    lookups = settled()
    lookups.forget()
    (way, *_), *_ = lookups.missing()
    lookups.begin(way)
    lookups.forget_within(way.droplet, 32)
    lookups.keep(way, Route(FIRST, way.droplet))
    assert way in [missing for missing, _, _ in lookups.missing()]


def test_who_is_not_told_any_more_is_forgotten_and_who_stays_is_not_asked_about() -> None:
    lookups = settled()
    lookups.tell((*DROPLETS[1:], packed("10.0.3.3")), ONE)
    assert doubtful(lookups) == {"10.0.3.3"}
    assert lookups.routes.keys() == {Way(one, FIRST) for one in DROPLETS[1:]}


def test_no_route_is_an_answer() -> None:
    lookups = settled()
    way = Way(DROPLETS[0], FIRST)
    lookups.keep(way, None)
    assert way not in lookups.routes
    assert lookups.missing() == []
