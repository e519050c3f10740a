"""The outbox forgets nothing before the server has stored it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.bus.outbox import CONFIRM_WITHIN, LONGEST_CONFIRM_WITHIN, RETRY_AFTER, WINDOW, Outbox, PendingAck


def test_only_the_newest_of_a_document_is_sent() -> None:
    outbox = Outbox()
    outbox.put("a", b"1")
    outbox.put("a", b"2")
    assert [(p.document, p.body) for p in outbox.take(0.0)] == [("a", b"2")]
    assert outbox.take(0.0) == []


def test_a_late_confirmation_of_an_older_one_does_not_drop_the_newer() -> None:
    outbox = Outbox()
    outbox.put("a", b"1")
    (old,) = outbox.take(0.0)
    outbox.put("a", b"2")
    (new,) = outbox.take(0.0)
    outbox.confirm(old.token)
    assert len(outbox) == 1
    outbox.disconnect()
    assert [p.body for p in outbox.take(0.0)] == [b"2"]
    outbox.confirm(new.token)
    assert len(outbox) == 1, "a confirmation from a lost connection counts for nothing"


def test_unconfirmed_acknowledgements_are_sent_again_after_a_reconnection() -> None:
    outbox = Outbox()
    outbox.put("a", b"1")
    outbox.put("b", b"1")
    outbox.take(0.0)
    outbox.put("b", b"2")
    outbox.disconnect()
    assert {(p.document, p.body) for p in outbox.take(0.0)} == {("a", b"1"), ("b", b"2")}


def test_silence_and_refusal_both_lead_to_another_attempt_later() -> None:
    outbox = Outbox()
    outbox.put("a", b"1")
    outbox.take(0.0)
    assert outbox.take(CONFIRM_WITHIN - 0.1) == []
    assert outbox.wake_in(CONFIRM_WITHIN - 1.0) == 1.0
    (again,) = outbox.take(CONFIRM_WITHIN)
    outbox.refuse(again.token, 10.0)
    assert outbox.take(10.0) == []
    assert outbox.wake_in(10.0) == RETRY_AFTER
    assert len(outbox.take(10.0 + RETRY_AFTER)) == 1


def test_a_server_that_is_slow_confirms_what_was_sent_again_meanwhile() -> None:
    """It stores all that came before it confirms any of it: sent again and again, nothing would ever be confirmed."""
    outbox, now, queue = Outbox(), 0.0, list[PendingAck]()
    for number in range(3):
        outbox.put(f"d{number}", b"")
    for _ in range(20):
        queue += outbox.take(now)
        now += 7 * CONFIRM_WITHIN
        stored, queue = queue, outbox.take(now)
        for ack in stored:
            outbox.confirm(ack.token)
    assert len(outbox) == 0
    assert queue == []


def test_a_confirmation_of_what_was_sent_again_does_not_drop_a_newer_one() -> None:
    outbox = Outbox()
    outbox.put("a", b"1")
    (old,) = outbox.take(0.0)
    (again,) = outbox.take(CONFIRM_WITHIN)
    outbox.put("a", b"2")
    outbox.confirm(old.token)
    outbox.confirm(again.token)
    assert [p.body for p in outbox.take(CONFIRM_WITHIN)] == [b"2"]
    assert len(outbox) == 1


def test_unconfirmed_acknowledgements_are_sent_again_with_a_growing_delay() -> None:
    outbox, times = Outbox(), []
    outbox.put("a", b"1")
    for second in range(400):
        times += [second for _ in outbox.take(float(second))]
    assert times == [0, 5, 15, 35, 75, 155, 235, 315, 395]


def test_at_most_a_window_of_acknowledgements_is_unconfirmed() -> None:
    outbox = Outbox()
    for number in range(WINDOW + 5):
        outbox.put(f"d{number}", b"")
    first = outbox.take(0.0)
    assert len(first) == WINDOW
    outbox.confirm(first[0].token)
    assert len(outbox.take(0.0)) == 1
    assert len(outbox) == WINDOW + 4


@given(st.lists(st.tuples(st.sampled_from(["put", "take", "confirm", "refuse", "lose", "wait"]), st.integers(0, 3))))
def test_in_any_order_of_events_the_last_acknowledgement_of_every_document_is_stored(
    steps: list[tuple[str, int]],
) -> None:
    outbox, now, under_way = Outbox(), 0.0, {}
    said: dict[str, bytes] = {}
    stored: dict[str, bytes] = {}
    for count, (step, which) in enumerate(steps):
        now += 0.1
        if step == "put":
            said[f"d{which}"] = body = b"%d" % count
            outbox.put(f"d{which}", body)
        elif step == "take":
            under_way.update({ack.token: ack for ack in outbox.take(now)})
        elif step == "wait":
            now += CONFIRM_WITHIN
        elif step == "lose":
            outbox.disconnect()
            under_way.clear()
        elif under_way:
            ack = under_way.pop(min(under_way))
            if step == "confirm":
                stored[ack.document] = ack.body
                outbox.confirm(ack.token)
            else:
                outbox.refuse(ack.token, now)
    for ack in under_way.values():
        stored[ack.document] = ack.body
        outbox.confirm(ack.token)
    for ack in outbox.take(now + LONGEST_CONFIRM_WITHIN + RETRY_AFTER):
        stored[ack.document] = ack.body
        outbox.confirm(ack.token)
    assert stored == said
    assert len(outbox) == 0
