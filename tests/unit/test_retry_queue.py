"""Each document that the kernel refuses has a backoff of its own."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agent.reconcile.retry import LONGEST, Retries, RetryQueue, Tried

FIRST = 5.0


def turns(queue: RetryQueue, name: str, until: float) -> list[float]:
    """Return when it is a document's turn, where every try of it and of the others fails."""
    found = []
    while (at := queue.next_at()) is not None and at <= until:
        if name in queue.take_due(at):
            found.append(at)
    return found


def test_the_pauses_of_a_document_that_fails_for_good_double_up_to_the_longest_one() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 100.0)
    assert turns(queue, "a", 240.0) == [105.0, 115.0, 135.0, 165.0, 195.0, 225.0]


def test_a_document_that_fails_for_good_slows_no_other_one() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("for good", 1, 0.0)
    turns(queue, "for good", 1000.0)
    queue.failed("once", 2, 1000.0)
    assert queue.at("once") == 1005.0
    assert queue.next_at() == 1005.0
    assert "once" in queue.take_due(1005.0)


def test_a_failure_while_it_waits_neither_hurries_nor_delays_a_document() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 0.0)
    queue.failed("a", 1, 4.0)
    assert queue.at("a") == 5.0
    assert queue.take_due(5.0) == ["a"]
    queue.failed("a", 1, 5.1)
    assert queue.at("a") == 15.0


def test_a_newer_revision_begins_with_the_first_pause() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 0.0)
    turns(queue, "a", 100.0)
    queue.failed("a", 2, 100.0)
    assert queue.at("a") == 105.0


def test_a_document_that_succeeded_is_not_retried_and_its_backoff_starts_again_at_the_next_failure() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 0.0)
    turns(queue, "a", 100.0)
    queue.succeeded({"a", "never failed"})
    assert (len(queue), queue.next_at(), queue.at("a")) == (0, None, None)
    queue.failed("a", 1, 200.0)
    assert queue.at("a") == 205.0


def test_a_success_says_which_revision_was_tried_and_how_often() -> None:
    queue = RetryQueue(FIRST)
    for name in ("by a retry", "between two", "hurried"):
        queue.failed(name, 7, 0.0)
    queue.take_due(5.0)
    queue.failed("between two", 7, 5.1)
    queue.hurry(["hurried"], 5.2)
    queue.failed("hurried", 7, 5.2)
    queue.take_due(5.2)
    found = queue.succeeded({"by a retry", "between two", "hurried", "never failed"})
    assert found == {"by a retry": Tried(7, 2), "between two": Tried(7, 3), "hurried": Tried(7, 3)}
    assert queue.succeeded({"by a retry"}) == {}


def test_the_attempts_at_an_older_revision_do_not_count() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 0.0)
    turns(queue, "a", 100.0)
    queue.failed("a", 2, 100.0)
    queue.take_due(105.0)
    assert queue.succeeded({"a"}) == {"a": Tried(2, 2)}


def test_a_hurried_document_is_tried_at_once_and_its_backoff_starts_again() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 0.0)
    queue.failed("b", 1, 0.0)
    turns(queue, "a", 100.0)
    before = queue.at("b")
    queue.hurry(["a", "unknown"], 100.0)
    assert queue.take_due(100.0) == ["a"]
    assert (queue.at("a"), queue.at("b"), len(queue)) == (105.0, before, 2)


def test_turns_that_are_close_to_one_another_are_taken_together() -> None:
    queue = RetryQueue(FIRST)
    queue.failed("a", 1, 0.0)
    queue.failed("b", 1, 0.3)
    queue.failed("c", 1, 2.0)
    assert queue.take_due(5.0) == ["a", "b"]


names = st.sampled_from("abc")


@given(st.lists(st.tuples(st.sampled_from(["failed", "succeeded", "due", "hurry"]), names, st.floats(0.0, 40.0))))
def test_a_document_never_waits_longer_than_the_longest_pause_and_always_waits_while_it_fails(steps) -> None:
    queue, now, failing = RetryQueue(FIRST), 0.0, set()
    for step, name, passed in steps:
        now += passed
        if step == "failed":
            queue.failed(name, 1, now)
            failing.add(name)
        elif step == "succeeded":
            queue.succeeded({name})
            failing.discard(name)
        elif step == "hurry":
            queue.hurry([name], now)
        else:
            assert set(queue.take_due(now)) <= failing
        assert len(queue) == len(failing)
        assert all(queue.at(one) <= now + FIRST * LONGEST for one in failing)


async def test_waiting_ends_with_the_turn_of_a_document_that_fails_meanwhile() -> None:
    clock, tried = 0.0, list[list[str]]()

    async def retry(names: list[str]) -> None:
        tried.append(names)

    retries = Retries(FIRST, lambda: clock)
    retries.failed("for good", 1)
    waiting = asyncio.create_task(retries.wait())
    await asyncio.sleep(0)
    retries.hurry(["for good"])
    async with asyncio.timeout(20):
        await waiting
    await retries.try_due(retry)
    assert tried == [["for good"]]
    assert retries.remaining("for good") == FIRST
    clock = 3.0
    assert retries.remaining("for good") == 2.0
    await retries.try_due(retry)
    assert tried == [["for good"]], "it is not its turn"
