"""The tracker: published revisions against answers, in whatever order they come."""

from __future__ import annotations

from itertools import permutations

import pytest

from controller_sim.convergence import Tracker, describe, percentile
from controller_sim.publisher import Published
from protocol.acknowledgements import Acknowledgement, KernelFailure, Reference, State


def published(revision: int, at: float = 0.0, document: str = "a") -> Published:
    return Published("h1", document, revision, removed=False, at=at)


def answer(revision: int, state: State = State.REALIZED, document: str = "a") -> Acknowledgement:
    return Acknowledgement(document, revision, state, 0.0)


def test_a_realized_answer_converges_and_its_time_is_counted_from_publishing():
    tracker = Tracker()
    tracker.expect(published(5, at=10.0))
    assert not tracker.converged
    tracker.answered("h1", answer(5), 10.25)
    assert tracker.converged
    assert tracker.report().hosts["h1"].p50 == 0.25


def test_an_answer_may_come_before_its_revision_is_known():
    tracker = Tracker()
    tracker.answered("h1", answer(5), 10.0)
    tracker.expect(published(5, at=9.0))
    assert tracker.converged


def test_an_answer_to_an_older_revision_is_no_answer():
    tracker = Tracker()
    tracker.expect(published(6))
    tracker.answered("h1", answer(5), 1.0)
    assert not tracker.converged
    assert tracker.report().hosts["h1"].unanswered == 1


def test_an_old_answer_that_comes_late_takes_nothing_back():
    tracker = Tracker()
    tracker.expect(published(6))
    tracker.answered("h1", answer(6), 1.0)
    tracker.answered("h1", answer(5, State.REJECTED), 2.0)
    assert tracker.converged


def test_a_newer_publication_is_waited_for_again():
    tracker = Tracker()
    tracker.expect(published(5))
    tracker.answered("h1", answer(5), 1.0)
    tracker.expect(published(7))
    assert not tracker.converged
    tracker.answered("h1", answer(7), 2.0)
    assert tracker.converged


def test_what_was_realized_can_fail_later():
    tracker = Tracker()
    tracker.expect(published(5))
    tracker.answered("h1", answer(5), 1.0)
    tracker.answered("h1", answer(5, State.FAILED), 2.0)
    assert not tracker.converged
    assert tracker.report().hosts["h1"].failed == 1


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_every_order_of_publications_and_answers_ends_the_same(order):
    tracker = Tracker()
    steps = [
        lambda: tracker.expect(published(5)),
        lambda: tracker.expect(published(7)),
        lambda: tracker.answered("h1", answer(5), 1.0),
        lambda: tracker.answered("h1", answer(7), 2.0),
    ]
    for index in order:
        steps[index]()
    assert tracker.converged
    assert tracker.realized == 1


def test_a_report_counts_each_state_and_names_each_problem():
    tracker = Tracker()
    for number, state in enumerate(State):
        tracker.expect(published(number + 1, document=f"d{number}"))
        tracker.answered("h1", answer(number + 1, state, f"d{number}"), 1.0)
    tracker.expect(published(9, document="silent"))
    report = tracker.report()
    host = report.hosts["h1"]
    assert (host.documents, host.realized, host.pending, host.rejected, host.failed, host.unanswered) == (
        5,
        1,
        1,
        1,
        1,
        1,
    )
    assert len(report.problems) == 4
    assert not report.converged


def test_percentiles_are_values_that_were_seen():
    times = [float(n) for n in range(1, 101)]
    assert percentile(times, 0.5) == 50.0
    assert percentile(times, 0.99) == 99.0
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) is None


def test_an_answer_is_described_with_its_reasons():
    pending = Acknowledgement("a", 1, State.PENDING, 0.0, missing=(Reference("networks", "web"),))
    assert describe(pending) == "pending: networks web is missing"
    failures = tuple(KernelFailure(28, "ENOSPC", f"endpoints[{n}]", "map is full") for n in range(5))
    assert describe(Acknowledgement("a", 1, State.FAILED, 0.0, failures=failures)).endswith("(and 2 more)")
