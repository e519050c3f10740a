"""The tracker: published revisions and acknowledgements, in whatever order they come."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import cast

import pytest
from lab.waiting import PATIENCE
from msgspec.structs import replace
from nats.aio.client import Client

from controller_sim.control import convergence
from controller_sim.control.convergence import Tracker, Watcher, describe, percentile
from controller_sim.control.publisher import Published
from protocol import codec, subjects
from protocol.acknowledgements import Acknowledgement, KernelFailure, Reference, State
from protocol.documents import Document, Network


def published(revision: int, at: float | None = 0.0, document: str = "a", *, removed: bool = False) -> Published:
    return Published("h1", document, revision, removed=removed, at=at)


def ack(revision: int, state: State = State.REALIZED, document: str = "a") -> Acknowledgement:
    return Acknowledgement(document, revision, state, 0.0)


def test_a_realized_acknowledgement_converges_and_its_time_is_counted_from_publishing():
    tracker = Tracker()
    tracker.expect(published(5, at=10.0))
    assert not tracker.converged
    tracker.acknowledged("h1", ack(5), 10.25)
    assert tracker.converged
    assert tracker.report().hosts["h1"].p50 == 0.25


def test_an_acknowledgement_may_arrive_before_its_revision_is_known():
    tracker = Tracker()
    tracker.acknowledged("h1", ack(5), 10.0)
    tracker.expect(published(5, at=9.0))
    assert tracker.converged


def test_an_acknowledgement_of_an_older_revision_does_not_count():
    tracker = Tracker()
    tracker.expect(published(6))
    tracker.acknowledged("h1", ack(5), 1.0)
    assert not tracker.converged
    assert tracker.report().hosts["h1"].unacknowledged == 1


def test_a_late_acknowledgement_of_an_older_revision_changes_nothing():
    tracker = Tracker()
    tracker.expect(published(6))
    tracker.acknowledged("h1", ack(6), 1.0)
    tracker.acknowledged("h1", ack(5, State.REJECTED), 2.0)
    assert tracker.converged


def test_a_newer_publication_is_waited_for_again():
    tracker = Tracker()
    tracker.expect(published(5))
    tracker.acknowledged("h1", ack(5), 1.0)
    tracker.expect(published(7))
    assert not tracker.converged
    tracker.acknowledged("h1", ack(7), 2.0)
    assert tracker.converged


def test_what_was_realized_can_fail_later():
    tracker = Tracker()
    tracker.expect(published(5))
    tracker.acknowledged("h1", ack(5), 1.0)
    tracker.acknowledged("h1", ack(5, State.FAILED), 2.0)
    assert not tracker.converged
    assert tracker.report().hosts["h1"].failed == 1


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_every_order_of_publications_and_acknowledgements_ends_the_same(order):
    tracker = Tracker()
    steps = [
        lambda: tracker.expect(published(5)),
        lambda: tracker.expect(published(7)),
        lambda: tracker.acknowledged("h1", ack(5), 1.0),
        lambda: tracker.acknowledged("h1", ack(7), 2.0),
    ]
    for index in order:
        steps[index]()
    assert tracker.converged
    assert tracker.realized == 1


def test_a_report_counts_each_state_and_names_each_problem():
    tracker = Tracker()
    for number, state in enumerate(State):
        tracker.expect(published(number + 1, document=f"d{number}"))
        tracker.acknowledged("h1", ack(number + 1, state, f"d{number}"), 1.0)
    tracker.expect(published(9, document="silent"))
    report = tracker.report()
    host = report.hosts["h1"]
    assert (host.documents, host.realized, host.pending, host.rejected, host.failed, host.unacknowledged) == (
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


def test_an_acknowledgement_is_described_with_its_reasons():
    pending = Acknowledgement("a", 1, State.PENDING, 0.0, missing=(Reference("networks", "web"),))
    assert describe(pending) == "pending: network web is missing"
    failures = tuple(KernelFailure(28, "ENOSPC", f"endpoints[{n}]", "map is full") for n in range(5))
    assert describe(Acknowledgement("a", 1, State.FAILED, 0.0, failures=failures)).endswith("(and 2 more)")


def test_a_removed_document_is_none_and_its_removal_is_waited_for():
    tracker = Tracker()
    tracker.expect(published(5))
    tracker.expect(published(6, document="b"))
    tracker.acknowledged("h1", ack(5), 1.0)
    tracker.acknowledged("h1", ack(6, document="b"), 1.0)
    tracker.expect(published(7, document="b", removed=True))
    assert (tracker.documents, tracker.realized, tracker.converged) == (1, 1, False)
    waiting = tracker.report()
    assert (waiting.hosts["h1"].documents, waiting.hosts["h1"].realized, waiting.hosts["h1"].removing) == (1, 1, 1)
    assert not waiting.converged
    assert waiting.problems == ("h1 b: its removal, revision 7 is not acknowledged",)
    tracker.acknowledged("h1", ack(7, document="b"), 2.0)
    assert tracker.converged
    assert tracker.report().converged
    assert tracker.report().hosts["h1"].documents == 1


def test_documents_published_earlier_have_no_time():
    tracker = Tracker()
    tracker.expect(published(5, at=None))
    tracker.acknowledged("h1", ack(5), 1.0)
    assert tracker.report().hosts["h1"].p50 is None
    tracker.expect(published(6, at=1.0, document="b"))
    tracker.acknowledged("h1", ack(6, document="b"), 1.5)
    assert tracker.report().hosts["h1"].p99 == 0.5


@pytest.mark.parametrize(
    ("state", "final"), [(State.REJECTED, True), (State.FAILED, False), (State.PENDING, False), (None, False)]
)
def test_only_rejections_leave_nothing_to_wait_for(state, final):
    tracker = Tracker()
    tracker.expect(published(5))
    tracker.acknowledged("h1", ack(5), 1.0)
    tracker.expect(published(6, document="b"))
    if state is not None:
        tracker.acknowledged("h1", ack(6, state, document="b"), 1.0)
    assert tracker.final is final
    assert not tracker.converged
    late = "" if final else " in time (--timeout SECONDS waits longer)"
    assert tracker.report().headline == f"not everything was realized{late}:"


def test_documents_pending_on_rejected_ones_are_not_waited_for_either():
    tracker = Tracker()
    network = Network("web", "red", ("10.0.1.0/24",), ("d1",))
    tracker.holds({"h1": {"vpc.red": Document(networks=(network,))}})
    for revision, document in enumerate(("vpc.red", "endpoint.a"), 1):
        tracker.expect(published(revision, document=document))
    waits = Acknowledgement("endpoint.a", 2, State.PENDING, 0.0, missing=(Reference("networks", "web"),))
    tracker.acknowledged("h1", waits, 1.0)
    assert not tracker.final, "the network may come"
    tracker.acknowledged("h1", ack(1, State.REJECTED, "vpc.red"), 1.0)
    assert tracker.final
    tracker.acknowledged("h1", replace(waits, missing=(Reference("networks", "data"),)), 2.0)
    assert not tracker.final, "somebody else may publish it"


async def test_waiting_ends_when_only_rejected_documents_are_left_and_no_acknowledgement_arrives(monkeypatch):
    monkeypatch.setattr(convergence, "QUIET", 3600.0)
    watcher = Watcher(cast(Client, None))
    watcher.tracker.expect(published(5))
    assert not await watcher.wait(0.0)
    watcher.take(subjects.ack("h1", "a"), codec.encode(ack(5, State.REJECTED)))
    assert not watcher.over, "what it claims may be let go in the next answer"
    monkeypatch.setattr(convergence, "QUIET", 0.05)
    assert await watcher.wait(PATIENCE)
    watcher.take(subjects.ack("h1", "a"), codec.encode(ack(5)))
    assert watcher.tracker.converged


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_comes_with_an_answer_ends_the_wait(turns: int) -> None:
    watcher = Watcher(cast(Client, None))
    watcher.tracker.expect(published(5))
    waiting = asyncio.create_task(watcher.wait(1000))
    await asyncio.sleep(0)
    watcher.take(subjects.ack("h1", "other"), codec.encode(ack(1, document="other")))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=20)
    assert done, "the cancellation was lost"
    assert waiting.cancelled()
