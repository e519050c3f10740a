"""What a loop finds again and again is said once: for each thing, until it changes or ends."""

from __future__ import annotations

import errno

from agent.core.faults.log_once import Once
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import DeleteVeth, Failure, PutEntries
from agent.core.plan.recurring_failures import Refusals

PUT = PutEntries(MapName.ENDPOINTS, ((b"1", b"a"), (b"2", b"b")))
FULL = Failure(PUT, errno.E2BIG, "map endpoints", "the map is full", (b"2",))
VETH = DeleteVeth("web-1", 7)
BUSY = Failure(VETH, errno.EBUSY, "interface web-1", "in use")


def test_what_stands_is_said_once_and_a_change_of_it_again() -> None:
    once = Once()
    assert [once.begins("web-1", text) for text in ("a", "a", "b", "b")] == [True, False, True, False]
    assert once.begins("web-2", "b")
    assert [once.ends("web-1"), once.ends("web-1")] == [True, False]
    assert once.begins("web-1", "b")


def test_a_refusal_of_each_retry_is_new_once() -> None:
    refusals = Refusals()
    found = []
    for _ in range(3):
        refusals.done(PUT, "map endpoints", [FULL])
        found.append(refusals.new([FULL, BUSY]))
    assert found == [[FULL, BUSY], [], []]


def test_a_refusal_ends_when_the_same_key_or_object_succeeds() -> None:
    refusals = Refusals()
    refusals.new([FULL, BUSY])
    others = PutEntries(MapName.ENDPOINTS, ((b"1", b"a"),))
    refusals.done(others, "map endpoints", [])
    assert refusals.new([FULL]) == [], "other entries of the map say nothing of these"
    refusals.done(PUT, "map endpoints", [])
    refusals.done(VETH, "interface web-1", [])
    assert refusals.new([FULL, BUSY]) == [FULL, BUSY]


def test_more_entries_that_are_refused_are_new() -> None:
    refusals = Refusals()
    refusals.new([FULL])
    more = Failure(PUT, errno.E2BIG, "map endpoints", "the map is full", (b"1", b"2"))
    assert refusals.new([more]) == [more]
    assert refusals.new([FULL]) == []
