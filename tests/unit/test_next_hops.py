"""The decision about next hops, without a kernel."""

from __future__ import annotations

import errno

import pytest

from agent.core.model.map_layout import NEXT_HOP, NEXT_HOP_BY_OTHER, NEXT_HOP_DOWN, NEXT_HOP_ZERO_CHECKSUM
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import (
    NO_MAC,
    NUD_FAILED,
    NUD_INCOMPLETE,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_REACHABLE,
    NUD_STALE,
    Changes,
    FailedNeighbours,
    Hop,
    Neighbour,
    NextHopKey,
    PathFindings,
    Peer,
    Reason,
    Route,
    after,
    changes,
    desired_next_hops,
    next_hops_to_resolve,
    pack_key,
    still_silent,
    still_unreachable,
    unpack_key,
)

HERE, SECOND = 7, 9
PLACES = {HERE: 3, SECOND: 5}
"""Indexes in `local_droplets` of the droplets on the uplinks."""
FAR = b"\x0a\x00\x00\x02"
NEAR = b"\x0a\x00\x00\x03"
GATEWAY = b"\x0a\x00\x00\xfe"
NEAR6 = bytes.fromhex("20010db8000000000000000000000003")
ROUTER6 = bytes.fromhex("fe800000000000000000000000000001")
OLD = bytes.fromhex("020000000001")
NEW = bytes.fromhex("020000000002")
MTU = 1500


def uplink(ifindex: int = HERE, *addresses: bytes, mtu: int = MTU) -> Uplink:
    own = addresses or (b"\x0a\x00\x00\x01",)
    return Uplink(f"eth{ifindex}", ifindex, bytes(6), mtu, own, (ifindex,), ifindex, ifindex)


def hop(address: bytes, ifindex: int = HERE) -> Hop:
    return Hop(address, ifindex)


def hop_key(droplet: bytes, ifindex: int = HERE) -> NextHopKey:
    return NextHopKey(droplet, ifindex)


def table(*entries: tuple[NextHopKey, bytes], mtu: int = MTU, flags: int = 0) -> dict[bytes, bytes]:
    """Return entries by which each uplink leads by itself."""
    return {pack_key(one): NEXT_HOP.pack(mac, mtu, flags, PLACES[one.ifindex]) for one, mac in entries}


def by_other(one: NextHopKey, mac: bytes, ifindex: int, flags: int = 0, mtu: int = MTU) -> dict[bytes, bytes]:
    """Return an entry by which another uplink leads."""
    return {pack_key(one): NEXT_HOP.pack(mac, mtu, NEXT_HOP_BY_OTHER | flags, PLACES[ifindex])}


def senders(uplinks) -> dict[tuple[int, int], int]:
    return {(one.ifindex, len(address)): PLACES[one.ifindex] for one in uplinks for address in one.addresses}


ONLY = (uplink(),)


def decide(neighbours, current=None, routes=None, peers=(NEAR,), uplinks=ONLY, refused=None):
    routes = routes if routes is not None else {hop_key(NEAR): Route(HERE, NEAR)}
    wanted = peers if isinstance(peers, dict) else dict.fromkeys(peers, Peer())
    return desired_next_hops(wanted, uplinks, senders(uplinks), routes, neighbours, current or {}, refused or {})


def test_an_on_link_droplet_gets_its_own_ethernet_address() -> None:
    assert decide({hop(NEAR): Neighbour(NUD_REACHABLE, NEW)}) == (table((hop_key(NEAR), NEW)), {})


def test_a_droplet_behind_a_gateway_gets_the_gateways_ethernet_address() -> None:
    routes = {hop_key(FAR): Route(HERE, GATEWAY), hop_key(NEAR): Route(HERE, NEAR)}
    neighbours = {hop(GATEWAY): Neighbour(NUD_STALE, OLD), hop(NEAR): Neighbour(NUD_REACHABLE, NEW)}
    expected = table((hop_key(FAR), OLD), (hop_key(NEAR), NEW))
    assert decide(neighbours, routes=routes, peers=(FAR, NEAR)) == (expected, {})


def test_a_neighbour_that_moved_replaces_the_old_address() -> None:
    found, _ = decide({hop(NEAR): Neighbour(NUD_REACHABLE, NEW)}, table((hop_key(NEAR), OLD)))
    assert found == table((hop_key(NEAR), NEW))


@pytest.mark.parametrize("neighbours", [{}, {hop(NEAR): Neighbour(NUD_INCOMPLETE, NO_MAC)}])
def test_a_neighbour_in_resolution_keeps_its_address(neighbours) -> None:
    assert decide(neighbours, table((hop_key(NEAR), OLD))) == (table((hop_key(NEAR), OLD)), {})


@pytest.mark.parametrize("neighbours", [{}, {hop(NEAR): Neighbour(NUD_INCOMPLETE, NO_MAC)}])
def test_a_neighbour_that_never_answered_has_none(neighbours) -> None:
    assert decide(neighbours) == ({}, {NEAR: Reason.RESOLVING})


@pytest.mark.parametrize("current", [{}, table((hop_key(NEAR), OLD))])
def test_a_failed_neighbour_loses_its_address(current) -> None:
    assert decide({hop(NEAR): Neighbour(NUD_FAILED, OLD)}, current) == ({}, {NEAR: Reason.UNRESOLVED})


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOBUFS, Reason.TABLE_FULL), (errno.EINVAL, Reason.REFUSED)])
def test_a_next_hop_that_the_kernel_does_not_keep_is_named_with_the_reason(number: int, reason: Reason) -> None:
    routes = {hop_key(FAR): Route(HERE, GATEWAY), hop_key(NEAR): Route(HERE, NEAR)}
    neighbours = {hop(GATEWAY): Neighbour(NUD_REACHABLE, NEW)}
    found = decide(neighbours, routes=routes, peers=(FAR, NEAR), refused={hop(NEAR): number})
    assert found == (table((hop_key(FAR), NEW)), {NEAR: reason})


def test_a_next_hop_that_the_kernel_does_not_keep_is_used_as_long_as_its_address_is_known() -> None:
    refused = {hop(NEAR): errno.ENOBUFS}
    assert decide({hop(NEAR): Neighbour(NUD_STALE, NEW)}, refused=refused) == (table((hop_key(NEAR), NEW)), {})
    assert decide({}, table((hop_key(NEAR), OLD)), refused=refused) == (table((hop_key(NEAR), OLD)), {})


def test_a_valid_neighbour_without_an_ethernet_address_is_not_used() -> None:
    assert decide({hop(NEAR): Neighbour(NUD_NOARP, NO_MAC)}) == ({}, {NEAR: Reason.RESOLVING})


def test_a_droplet_without_a_route_is_named_with_its_reason() -> None:
    assert decide({}, table((hop_key(NEAR), OLD)), routes={}) == ({}, {NEAR: Reason.NO_ROUTE})


def test_a_droplet_routed_by_another_interface_is_named_with_its_reason() -> None:
    found = decide({}, routes={hop_key(NEAR): Route(HERE + 1, NEAR)})
    assert found == ({}, {NEAR: Reason.OTHER_INTERFACE})


def test_a_droplet_of_a_family_that_no_interface_has_is_named_with_its_reason() -> None:
    assert decide({}, peers=(NEAR6,)) == ({}, {NEAR6: Reason.NO_FAMILY})


def test_each_uplink_has_an_entry_of_its_own() -> None:
    routes = {hop_key(NEAR): Route(HERE, NEAR), hop_key(NEAR, SECOND): Route(SECOND, GATEWAY)}
    neighbours = {
        hop(NEAR): Neighbour(NUD_REACHABLE, OLD),
        hop(NEAR, SECOND): Neighbour(NUD_FAILED, OLD),
        hop(GATEWAY, SECOND): Neighbour(NUD_REACHABLE, NEW),
    }
    found = decide(neighbours, routes=routes, uplinks=(uplink(), uplink(SECOND, mtu=9000)))
    assert found == (table((hop_key(NEAR), OLD)) | table((hop_key(NEAR, SECOND), NEW), mtu=9000), {})


@pytest.mark.parametrize(("ifindex", "other"), [(HERE, SECOND), (SECOND, HERE)])
def test_a_droplet_that_one_of_two_uplinks_reaches_is_reached_by_it_from_both(ifindex: int, other: int) -> None:
    routes = {hop_key(NEAR): Route(ifindex, NEAR), hop_key(NEAR, SECOND): Route(ifindex, NEAR)}
    neighbours = {hop(NEAR, ifindex): Neighbour(NUD_REACHABLE, NEW)}
    found = decide(neighbours, routes=routes, uplinks=(uplink(), uplink(SECOND)))
    assert found == (table((hop_key(NEAR, ifindex), NEW)) | by_other(hop_key(NEAR, other), NEW, ifindex), {})


TWO = (uplink(), uplink(SECOND, mtu=9000))
BOTH_LEAD = {
    "routes": {hop_key(NEAR): Route(HERE, NEAR), hop_key(NEAR, SECOND): Route(SECOND, NEAR)},
    "neighbours": {hop(NEAR): Neighbour(NUD_REACHABLE, OLD), hop(NEAR, SECOND): Neighbour(NUD_REACHABLE, NEW)},
    "uplinks": TWO,
}
SILENT = PathFindings(down=True, mtu=1400)


def test_a_droplet_that_is_silent_on_one_uplink_is_reached_by_the_other() -> None:
    found, _ = decide(**BOTH_LEAD, peers={NEAR: Peer(by={HERE: SILENT})})
    assert found == by_other(hop_key(NEAR), NEW, SECOND, mtu=9000) | table((hop_key(NEAR, SECOND), NEW), mtu=9000)
    found, _ = decide(**BOTH_LEAD, peers={NEAR: Peer(by={SECOND: SILENT})})
    assert found == table((hop_key(NEAR), OLD)) | by_other(hop_key(NEAR, SECOND), OLD, HERE)


def test_a_droplet_that_is_silent_on_all_uplinks_is_down_and_keeps_its_next_hops() -> None:
    found, _ = decide(**BOTH_LEAD, peers={NEAR: Peer(by={HERE: SILENT, SECOND: SILENT})})
    flags = NEXT_HOP_DOWN
    assert found == table((hop_key(NEAR), OLD), mtu=1400, flags=flags) | table(
        (hop_key(NEAR, SECOND), NEW), mtu=1400, flags=flags
    )


def test_a_next_hop_by_another_uplink_is_not_an_own_address() -> None:
    """While a next hop is asked again, it keeps its own Ethernet address only."""
    lent = by_other(hop_key(NEAR), NEW, SECOND)
    assert decide({hop(NEAR): Neighbour(NUD_INCOMPLETE, NO_MAC)}, lent) == ({}, {NEAR: Reason.RESOLVING})


def test_an_uplink_without_a_local_droplet_has_no_next_hops() -> None:
    own = (uplink(SECOND),)
    wanted = {NEAR: Peer()}
    routes, neighbours = BOTH_LEAD["routes"], BOTH_LEAD["neighbours"]
    found = desired_next_hops(wanted, TWO, senders(own), routes, neighbours, {})
    assert found == (table((hop_key(NEAR, SECOND), NEW), mtu=9000), {})
    assert desired_next_hops(wanted, TWO, {}, routes, neighbours, {}) == ({}, {NEAR: Reason.NO_SENDER})


def test_of_two_uplinks_reasons_the_one_closest_to_success_is_reported() -> None:
    routes = {hop_key(NEAR, SECOND): Route(SECOND, NEAR)}
    neighbours = {hop(NEAR, SECOND): Neighbour(NUD_FAILED, NO_MAC)}
    for uplinks in ((uplink(), uplink(SECOND)), (uplink(SECOND), uplink())):
        assert decide(neighbours, routes=routes, uplinks=uplinks) == ({}, {NEAR: Reason.UNRESOLVED})


def test_an_uplink_serves_the_families_of_its_addresses() -> None:
    both = (uplink(), uplink(SECOND, NEAR6[:-1] + b"\x01"))
    routes = {hop_key(NEAR): Route(HERE, NEAR), hop_key(NEAR6, SECOND): Route(SECOND, ROUTER6)}
    neighbours = {hop(NEAR): Neighbour(NUD_REACHABLE, OLD), hop(ROUTER6, SECOND): Neighbour(NUD_REACHABLE, NEW)}
    found = decide(neighbours, routes=routes, peers=(NEAR, NEAR6), uplinks=both)
    own = table((hop_key(NEAR), OLD), (hop_key(NEAR6, SECOND), NEW))
    assert found == (own | by_other(hop_key(NEAR, SECOND), OLD, HERE) | by_other(hop_key(NEAR6), NEW, SECOND), {})


def test_a_link_local_router_counts_only_on_its_own_interface() -> None:
    both = (uplink(HERE, NEAR6[:-1] + b"\x01"), uplink(SECOND, NEAR6[:-1] + b"\x02"))
    routes = {hop_key(NEAR6, ifindex): Route(ifindex, ROUTER6) for ifindex in (HERE, SECOND)}
    neighbours = {hop(ROUTER6): Neighbour(NUD_REACHABLE, OLD), hop(ROUTER6, SECOND): Neighbour(NUD_REACHABLE, NEW)}
    found = decide(neighbours, routes=routes, peers=(NEAR6,), uplinks=both)
    assert found == (table((hop_key(NEAR6), OLD), (hop_key(NEAR6, SECOND), NEW)), {})


@pytest.mark.parametrize(
    ("peer", "mtu", "flags"),
    [
        (Peer(), MTU, 0),
        (Peer(by={HERE: PathFindings(mtu=1400)}), 1400, 0),
        (Peer(by={HERE: PathFindings(mtu=9000)}), MTU, 0),
        (Peer(by={HERE: PathFindings(down=True)}), MTU, NEXT_HOP_DOWN),
        (Peer(True, {HERE: PathFindings(True, 1280)}), 1280, NEXT_HOP_DOWN | NEXT_HOP_ZERO_CHECKSUM),
        (Peer(by={SECOND: PathFindings(True, 1280)}), MTU, 0),
    ],
)
def test_a_peers_mtu_and_flags_are_in_its_entries(peer: Peer, mtu: int, flags: int) -> None:
    found, _ = decide({hop(NEAR): Neighbour(NUD_REACHABLE, NEW)}, peers={NEAR: peer})
    assert found == table((hop_key(NEAR), NEW), mtu=mtu, flags=flags)


def test_a_larger_mtu_than_an_entry_can_hold_is_clamped() -> None:
    found, _ = decide({hop(NEAR): Neighbour(NUD_REACHABLE, NEW)}, uplinks=(uplink(mtu=65536),))
    assert found == table((hop_key(NEAR), NEW), mtu=65535)


def test_a_key_contains_address_and_interface() -> None:
    assert [unpack_key(pack_key(one)) for one in (hop_key(NEAR), hop_key(NEAR6, SECOND))] == [
        hop_key(NEAR),
        hop_key(NEAR6, SECOND),
    ]


def test_changes_write_differences_and_delete_unwanted_entries() -> None:
    found = changes({NEAR: OLD, FAR: OLD, GATEWAY: OLD}, {NEAR: NEW, FAR: OLD})
    assert (dict(found.put), found.delete) == ({NEAR: NEW}, (GATEWAY,))


def test_equal_maps_need_no_change() -> None:
    found = changes({NEAR: OLD}, {NEAR: OLD})
    assert (dict(found.put), found.delete) == ({}, ())


def test_a_map_holds_the_changes_except_refused_ones() -> None:
    current = {NEAR: OLD, FAR: OLD, GATEWAY: OLD}
    change = changes(current, {NEAR: NEW, NEAR6: NEW})
    assert after(current, change) == {NEAR: NEW, NEAR6: NEW}
    assert change.without([NEAR6, FAR]) == Changes({NEAR: NEW}, (GATEWAY,))
    assert after(current, change.without([NEAR6, FAR])) == {NEAR: NEW, FAR: OLD}
    assert after(current, change.without([NEAR])) == {NEAR: OLD, NEAR6: NEW}


def test_each_next_hop_is_resolved_once_and_an_operators_is_left_alone() -> None:
    elsewhere = b"\x0a\x01\x00\x01"
    routes = {
        hop_key(FAR): Route(HERE, GATEWAY),
        hop_key(NEAR): Route(HERE, GATEWAY),
        hop_key(NEAR, SECOND): Route(SECOND, GATEWAY),
        hop_key(elsewhere): Route(HERE + 1, NEAR),
    }
    assert next_hops_to_resolve(routes, {}) == {hop(GATEWAY), hop(GATEWAY, SECOND)}
    permanent = {hop(GATEWAY): Neighbour(NUD_PERMANENT, OLD)}
    assert next_hops_to_resolve(routes, permanent) == {hop(GATEWAY, SECOND)}


def test_a_failure_counts_if_it_persists_at_the_next_scan() -> None:
    failures, neighbours = (
        FailedNeighbours(),
        {hop(NEAR): Neighbour(NUD_FAILED, NO_MAC), hop(FAR): Neighbour(NUD_STALE, OLD)},
    )
    assert failures.confirmed(neighbours) == ({hop(FAR): neighbours[hop(FAR)]}, True)
    assert failures.confirmed(neighbours) == (neighbours, False)
    assert failures.confirmed(neighbours) == (neighbours, False)


@pytest.mark.parametrize("after", [None, Neighbour(NUD_INCOMPLETE, NO_MAC), Neighbour(NUD_REACHABLE, NEW)])
def test_repeated_flushes_are_no_lasting_failure(after: Neighbour | None) -> None:
    """The kernel tells FAILED and then the removal; each of the looks here falls between the two."""
    failures = FailedNeighbours()
    for _ in range(3):
        failures.update(hop(NEAR), Neighbour(NUD_FAILED, NO_MAC))
        assert failures.confirmed({hop(NEAR): Neighbour(NUD_FAILED, NO_MAC)}) == ({}, True)
        failures.update(hop(NEAR), after)


def test_a_neighbour_that_failed_is_silent_during_the_next_resolution_and_until_it_is_reachable() -> None:
    asked, failed, routeless = ({NEAR: reason} for reason in (Reason.RESOLVING, Reason.UNRESOLVED, Reason.NO_ROUTE))
    assert still_silent({}, asked) == asked
    assert still_silent(failed, asked) == failed
    assert still_silent(failed, {}) == {}
    assert still_silent(failed, routeless) == routeless
    assert still_silent(routeless, asked) == asked


def test_a_neighbour_in_resolution_is_unreachable_until_it_answers() -> None:
    """A dead neighbour is asked for every few seconds: FAILED, INCOMPLETE, FAILED, and so on."""
    asked, failed = {NEAR: Reason.RESOLVING}, {NEAR: Reason.UNRESOLVED}
    assert still_unreachable(frozenset(), asked) == frozenset()
    unreachable = still_unreachable(frozenset(), failed)
    assert unreachable == {NEAR}
    for unresolved in (asked, failed, asked):
        assert still_unreachable(unreachable, unresolved) is unreachable
    assert still_unreachable(unreachable, {}) == frozenset()
