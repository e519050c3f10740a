"""The pull machine keeps the server busy without being flooded, and notices silence."""

from __future__ import annotations

import pytest

from agent.bus.consumer.pull import BATCH, MAX_SILENCES, MAX_WAITING, SILENCE, PullMachine, Signal


def ask(machine: PullMachine, now: float = 0.0, waiting: int = 0) -> list[int]:
    """Return the numbers of all requests to send now."""
    return list(iter(lambda: machine.next_request(now, waiting), None))


def test_the_server_always_has_a_request_to_serve() -> None:
    machine = PullMachine(0.0)
    assert ask(machine) == [1, 2]
    assert machine.wanted == 2 * BATCH
    for _ in range(BATCH - 1):
        machine.on_message(0.0)
    assert ask(machine) == []
    machine.on_message(0.0)
    assert ask(machine) == [3]
    assert machine.wanted == 2 * BATCH


def test_a_slow_handler_gets_no_more_messages() -> None:
    machine = PullMachine(0.0)
    assert ask(machine, waiting=MAX_WAITING) == []
    assert ask(machine, waiting=MAX_WAITING - 1) == [1, 2]


def test_the_end_of_a_request_leads_to_the_next_one() -> None:
    for status in (404, 408, 409):
        machine = PullMachine(0.0)
        ask(machine)
        assert machine.on_status(1, status, "Message Size Exceeds MaxBytes", 1.0) is Signal.CARRY_ON
        assert ask(machine, 1.0) == [3]


def test_a_status_of_a_forgotten_request_changes_nothing() -> None:
    machine = PullMachine(0.0)
    machine.next_request(0.0, 0)
    assert machine.on_status(77, 408, "Request Timeout", 0.0) is Signal.CARRY_ON
    assert machine.wanted == BATCH


def test_heartbeats_keep_a_request_alive() -> None:
    machine = PullMachine(0.0)
    ask(machine)
    for second in range(2, 30, 2):
        assert machine.on_status(1, 100, "Idle Heartbeat", float(second)) is Signal.IDLE
        assert ask(machine, second + 1.0) == []


def test_two_heartbeats_of_silence_make_a_new_request_and_several_a_dead_connection() -> None:
    machine, now = PullMachine(0.0), 0.0
    ask(machine)
    for _ in range(MAX_SILENCES):
        assert not machine.is_dead
        assert ask(machine, now + SILENCE) == []
        now += SILENCE + 0.1
        assert len(ask(machine, now)) == 2
    assert machine.is_dead
    machine.on_message(now)
    assert not machine.is_dead


def test_a_missing_consumer_is_distinguished_from_silence() -> None:
    machine = PullMachine(0.0)
    machine.next_request(0.0, 0)
    assert machine.on_status(1, 503, "No Responders", 0.0) is Signal.CONSUMER_GONE
    assert machine.on_status(1, 409, "Consumer Deleted", 0.0) is Signal.CONSUMER_GONE
    assert machine.on_status(1, 409, "Leadership Change", 0.0) is Signal.CARRY_ON


@pytest.mark.parametrize(
    ("status", "text", "signal"),
    [
        (409, "Exceeded MaxRequestBatch of 10", Signal.REFUSED),
        (409, "Exceeded MaxRequestExpires of 1s", Signal.REFUSED),
        (409, "Exceeded MaxWaiting", Signal.REFUSED),
        (409, "Consumer is push based", Signal.REFUSED),
        (400, "Bad Request - heartbeat value too large", Signal.REFUSED),
        (409, "Message Size Exceeds MaxBytes", Signal.CARRY_ON),
        (404, "No Messages", Signal.CARRY_ON),
    ],
)
def test_a_request_that_is_refused_is_not_sent_again_and_again(status: int, text: str, signal: Signal) -> None:
    machine = PullMachine(0.0)
    machine.next_request(0.0, 0)
    assert machine.on_status(1, status, text, 0.0) is signal
