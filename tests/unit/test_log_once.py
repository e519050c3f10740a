"""What a loop finds again and again is said once: for each thing, until it changes or ends."""

from __future__ import annotations

import errno

from agent.core.faults.log_once import LogOnce
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import DeleteVeth, Failure, PutEntries
from agent.core.plan.recurring_failures import RecurringFailures

PUT = PutEntries(MapName.ENDPOINTS, ((b"1", b"a"), (b"2", b"b")))
FULL = Failure(PUT, errno.E2BIG, "map endpoints", "the map is full", (b"2",))
VETH = DeleteVeth("web-1", 7)
BUSY = Failure(VETH, errno.EBUSY, "interface web-1", "in use")


def test_a_lasting_condition_is_logged_once_and_again_when_it_changes() -> None:
    once = LogOnce()
    assert [once.is_new("web-1", text) for text in ("a", "a", "b", "b")] == [True, False, True, False]
    assert once.is_new("web-2", "b")
    assert [once.clear("web-1"), once.clear("web-1")] == [True, False]
    assert once.is_new("web-1", "b")


def test_a_refusal_of_each_retry_is_new_once() -> None:
    recurring = RecurringFailures()
    found = []
    for _ in range(3):
        recurring.done(PUT, "map endpoints", [FULL])
        found.append(recurring.new([FULL, BUSY]))
    assert found == [[FULL, BUSY], [], []]


def test_a_refusal_ends_when_the_same_key_or_object_succeeds() -> None:
    recurring = RecurringFailures()
    recurring.new([FULL, BUSY])
    others = PutEntries(MapName.ENDPOINTS, ((b"1", b"a"),))
    recurring.done(others, "map endpoints", [])
    assert recurring.new([FULL]) == [], "other entries of the map say nothing of these"
    recurring.done(PUT, "map endpoints", [])
    recurring.done(VETH, "interface web-1", [])
    assert recurring.new([FULL, BUSY]) == [FULL, BUSY]


def test_more_entries_that_are_refused_are_new() -> None:
    recurring = RecurringFailures()
    recurring.new([FULL])
    more = Failure(PUT, errno.E2BIG, "map endpoints", "the map is full", (b"1", b"2"))
    assert recurring.new([more]) == [more]
    assert recurring.new([FULL]) == []
