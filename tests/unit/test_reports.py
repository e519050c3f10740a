"""What a host tells of the droplets that it has no way to."""

from __future__ import annotations

from agent.core.next_hops import Reason
from agent.datapath.neighbours import Unresolved
from agent.reports import MOST_ADDRESSES, unresolved_next_hops
from protocol.status import UnresolvedNextHops


def test_each_reason_is_told_with_its_droplets_and_the_commonest_comes_first() -> None:
    found = [Unresolved("10.0.0.1", Reason.NO_ROUTE.value)]
    found += [Unresolved(f"10.0.1.{number}", Reason.TABLE_FULL.value) for number in (1, 2)]
    assert unresolved_next_hops(found) == (
        UnresolvedNextHops(Reason.TABLE_FULL.value, 2, ("10.0.1.1", "10.0.1.2")),
        UnresolvedNextHops(Reason.NO_ROUTE.value, 1, ("10.0.0.1",)),
    )


def test_nothing_unresolved_is_nothing_told() -> None:
    assert unresolved_next_hops([]) == ()


def test_of_very_many_the_first_are_named_and_all_are_counted() -> None:
    """A heartbeat of 65,536 addresses would be longer than the bus takes."""
    (found,) = unresolved_next_hops(Unresolved(f"2001:db8::{n:x}", "why") for n in range(65536))
    assert (found.droplets, len(found.addresses)) == (65536, MOST_ADDRESSES)
