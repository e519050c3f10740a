"""The decision about next hops, without a kernel."""

from __future__ import annotations

import pytest

from agent.core.next_hops import (
    NO_MAC,
    NUD_FAILED,
    NUD_INCOMPLETE,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_REACHABLE,
    NUD_STALE,
    Failures,
    Neighbour,
    Reason,
    Route,
    changes,
    desired_next_hops,
    next_hops_to_resolve,
)

HERE = 7
FAR = b"\x0a\x00\x00\x02"
NEAR = b"\x0a\x00\x00\x03"
GATEWAY = b"\x0a\x00\x00\xfe"
OLD = bytes.fromhex("020000000001")
NEW = bytes.fromhex("020000000002")


def decide(neighbours, current=None, routes=None, droplets=(NEAR,)):
    routes = routes if routes is not None else {NEAR: Route(HERE, NEAR)}
    return desired_next_hops(droplets, HERE, routes, neighbours, current or {})


def test_an_on_link_droplet_gets_its_own_ethernet_address() -> None:
    assert decide({NEAR: Neighbour(NUD_REACHABLE, NEW)}) == ({NEAR: NEW}, {})


def test_a_droplet_behind_a_gateway_gets_the_gateways_ethernet_address() -> None:
    routes = {FAR: Route(HERE, GATEWAY), NEAR: Route(HERE, NEAR)}
    neighbours = {GATEWAY: Neighbour(NUD_STALE, OLD), NEAR: Neighbour(NUD_REACHABLE, NEW)}
    assert decide(neighbours, routes=routes, droplets=(FAR, NEAR)) == ({FAR: OLD, NEAR: NEW}, {})


def test_a_neighbour_that_moved_replaces_the_old_address() -> None:
    assert decide({NEAR: Neighbour(NUD_REACHABLE, NEW)}, {NEAR: OLD})[0] == {NEAR: NEW}


@pytest.mark.parametrize("neighbours", [{}, {NEAR: Neighbour(NUD_INCOMPLETE, NO_MAC)}])
def test_a_neighbour_that_is_being_asked_again_keeps_its_address(neighbours) -> None:
    assert decide(neighbours, {NEAR: OLD}) == ({NEAR: OLD}, {})


@pytest.mark.parametrize("neighbours", [{}, {NEAR: Neighbour(NUD_INCOMPLETE, NO_MAC)}])
def test_a_neighbour_that_never_answered_has_none(neighbours) -> None:
    assert decide(neighbours) == ({}, {NEAR: Reason.UNRESOLVED})


@pytest.mark.parametrize("current", [{}, {NEAR: OLD}])
def test_a_failed_neighbour_loses_its_address(current) -> None:
    assert decide({NEAR: Neighbour(NUD_FAILED, OLD)}, current) == ({}, {NEAR: Reason.UNRESOLVED})


def test_a_valid_neighbour_without_an_ethernet_address_is_not_used() -> None:
    assert decide({NEAR: Neighbour(NUD_NOARP, NO_MAC)}) == ({}, {NEAR: Reason.UNRESOLVED})


def test_a_droplet_without_a_route_is_named_with_its_reason() -> None:
    assert decide({}, {NEAR: OLD}, routes={}) == ({}, {NEAR: Reason.NO_ROUTE})


def test_a_droplet_routed_by_another_interface_is_named_with_its_reason() -> None:
    assert decide({}, routes={NEAR: Route(HERE + 1, NEAR)}) == ({}, {NEAR: Reason.OTHER_INTERFACE})


def test_changes_put_what_differs_and_delete_what_is_not_wanted() -> None:
    found = changes({NEAR: OLD, FAR: OLD, GATEWAY: OLD}, {NEAR: NEW, FAR: OLD})
    assert (dict(found.put), found.delete) == ({NEAR: NEW}, (GATEWAY,))


def test_equal_maps_need_no_change() -> None:
    found = changes({NEAR: OLD}, {NEAR: OLD})
    assert (dict(found.put), found.delete) == ({}, ())


def test_each_next_hop_is_resolved_once_and_an_operators_is_left_alone() -> None:
    routes = {FAR: Route(HERE, GATEWAY), NEAR: Route(HERE, GATEWAY), b"\x0a\x01\x00\x01": Route(HERE + 1, NEAR)}
    assert next_hops_to_resolve(tuple(routes), HERE, routes, {}) == {GATEWAY}
    permanent = {GATEWAY: Neighbour(NUD_PERMANENT, OLD)}
    assert next_hops_to_resolve(tuple(routes), HERE, routes, permanent) == set()


def test_a_route_of_a_droplet_that_is_gone_is_not_resolved() -> None:
    assert next_hops_to_resolve((), HERE, {NEAR: Route(HERE, NEAR)}, {}) == set()


def test_a_failure_counts_when_it_is_still_there_at_the_next_look() -> None:
    failures, neighbours = Failures(), {NEAR: Neighbour(NUD_FAILED, NO_MAC), FAR: Neighbour(NUD_STALE, OLD)}
    assert failures.look(neighbours) == ({FAR: neighbours[FAR]}, True)
    assert failures.look(neighbours) == (neighbours, False)
    assert failures.look(neighbours) == (neighbours, False)


@pytest.mark.parametrize("after", [None, Neighbour(NUD_INCOMPLETE, NO_MAC), Neighbour(NUD_REACHABLE, NEW)])
def test_flushes_in_a_row_are_no_failure_that_lasts(after: Neighbour | None) -> None:
    """The kernel tells FAILED and then the removal; each of the looks here falls between the two."""
    failures = Failures()
    for _ in range(3):
        failures.heard(NEAR, Neighbour(NUD_FAILED, NO_MAC))
        assert failures.look({NEAR: Neighbour(NUD_FAILED, NO_MAC)}) == ({}, True)
        failures.heard(NEAR, after)
