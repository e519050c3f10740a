"""What a reset's deliveries prove: completeness, gaps, and how long to leave a consumer to its other reader."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.bus.connection.jetstream import AckSubject, ConsumerInfo, Delivered
from agent.bus.consumer.snapshot import ConsumerConflicts, Replay


def delivery(number: int, pending: int, delivered: int = 1) -> AckSubject:
    return AckSubject("DROPLET_CONFIG", "h1", delivered, number, number, 1, pending)


def consumer_info(consumer_sequence: int, pending: int) -> ConsumerInfo:
    return ConsumerInfo(created="made", delivered=Delivered(consumer_sequence, 9), num_pending=pending)


def test_a_replay_is_complete_when_all_counted_messages_came_though_newer_ones_wait() -> None:
    replay = Replay(2)
    assert replay.arrived(delivery(1, pending=5))
    assert (replay.complete, replay.waiting) == (False, 1)
    assert replay.arrived(delivery(2, pending=4))
    assert (replay.complete, replay.waiting) == (True, 0)


def test_a_replay_is_complete_when_nothing_waits_though_counted_messages_were_deleted() -> None:
    replay = Replay(9)
    assert replay.arrived(delivery(1, pending=8))
    assert not replay.complete
    assert replay.arrived(delivery(2, pending=0))
    assert (replay.complete, replay.is_short) == (True, False)


def test_a_replay_that_begins_with_fewer_messages_than_were_counted_is_short_and_not_complete() -> None:
    """Another agent reset the consumer to message 5 of 6 before the first delivery, or four messages were deleted."""
    replay = Replay(6)
    assert replay.arrived(delivery(1, pending=1))
    assert (replay.complete, replay.is_short) == (False, False)
    assert replay.arrived(delivery(2, pending=0))
    assert (replay.complete, replay.is_short, replay.waiting) == (False, True, 4)


def test_a_replay_without_deliveries_is_short_when_nothing_is_pending() -> None:
    replay = Replay(3)
    replay.take_info(consumer_info(0, pending=0))
    assert (replay.complete, replay.is_short) == (False, True)


def test_a_message_that_comes_again_is_counted_once() -> None:
    replay = Replay(2)
    assert replay.arrived(delivery(1, pending=1))
    assert replay.arrived(delivery(2, pending=1, delivered=2))
    assert not replay.complete


def test_the_server_completes_a_replay_only_for_deliveries_that_have_arrived() -> None:
    """Its count of deliveries in flight is no proof: they may go to another reader."""
    replay = Replay(3)
    replay.arrived(delivery(1, pending=2))
    replay.take_info(consumer_info(3, pending=0))
    assert not replay.complete
    replay.take_info(consumer_info(1, pending=2))
    assert not replay.complete
    replay.take_info(consumer_info(1, pending=0))
    assert replay.complete


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_no_replay_is_complete_if_another_reader_got_a_delivery(taken: list[bool], data: st.DataObject) -> None:
    """`taken`: which of the consumer's deliveries another reader gets, of which this one never hears."""
    replay = Replay(len(taken))
    in_order = True
    for number, lost in enumerate(taken, start=1):
        if not lost:
            assert replay.arrived(delivery(number, pending=len(taken) - number)) is in_order
        in_order = in_order and not lost
        assert not (replay.complete and True in taken[:number])
        if data.draw(st.booleans()):
            replay.take_info(consumer_info(number, pending=len(taken) - number))
    assert replay.complete is not (True in taken)


@given(st.lists(st.sampled_from(["deliver", "delete", "publish", "ask"]), max_size=40), st.integers(0, 8))
def test_a_replay_is_complete_exactly_when_no_counted_message_is_left(steps: list[str], counted: int) -> None:
    """A stream as the server has it: counted messages first, newer ones behind them; any may be deleted meanwhile."""
    stream = [True] * counted
    replay = Replay(counted, drained=counted == 0)
    number = 0
    for step in steps:
        if step == "deliver" and stream:
            number += 1
            stream.pop(0)
            assert replay.arrived(delivery(number, pending=len(stream)))
        elif step == "delete" and stream:
            stream.pop()
        elif step == "publish":
            stream.append(False)
        elif step == "ask":
            replay.take_info(consumer_info(number, pending=len(stream)))
        if replay.complete:
            assert True not in stream
    replay.take_info(consumer_info(number, pending=0))
    assert replay.complete or replay.is_short


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_pauses_grow_to_a_limit_below_the_calm_that_ends_the_fault(chances: list[float]) -> None:
    conflicts, now = ConsumerConflicts(), 100.0
    assert not conflicts.active(now)
    before = 0.0
    for chance in chances:
        pause = conflicts.record(now, chance)
        assert ConsumerConflicts.FIRST_PAUSE <= pause < ConsumerConflicts.CALM
        assert pause >= min(before, ConsumerConflicts.LONGEST_PAUSE)
        before = pause / (1 + chance / 2)
        now += pause
        assert conflicts.active(now)
    assert not conflicts.active(now + ConsumerConflicts.CALM)
    assert conflicts.record(now + ConsumerConflicts.CALM, 0.0) == ConsumerConflicts.FIRST_PAUSE


def test_another_agents_status_is_a_conflict_while_it_is_received() -> None:
    conflicts = ConsumerConflicts()
    conflicts.saw_duplicate(10.0)
    assert conflicts.active(11.0)
    assert "another agent" in conflicts.detail(11.0)
    assert not conflicts.active(10.0 + ConsumerConflicts.CALM)


def test_another_agent_that_was_heard_leaves_once_when_the_consumer_is_calm() -> None:
    conflicts = ConsumerConflicts()
    conflicts.record(0.0, 0.0)
    assert not conflicts.duplicate_left(ConsumerConflicts.CALM), "somebody pulled, and no other agent was heard"
    conflicts.saw_duplicate(10.0)
    conflicts.record(12.0, 0.0)
    assert not conflicts.duplicate_left(10.0 + ConsumerConflicts.CALM)
    assert conflicts.duplicate_left(12.0 + ConsumerConflicts.CALM)
    assert not conflicts.duplicate_left(13.0 + ConsumerConflicts.CALM)
