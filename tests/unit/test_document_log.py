"""What counts as new among messages, and when a snapshot is complete."""

from __future__ import annotations

import pytest

from agent.bus.documents import Delivery, DocumentLog, Message
from agent.bus.jetstream import parse_ack_subject, parse_headers, parse_pub_ack, parse_reset_reply
from protocol import binding


def message(
    document: str, sequence: int, pending: int = 0, body: bytes = b"x", headers: bytes | None = None
) -> Message:
    reply = f"$JS.ACK.DROPLET_CONFIG.h1.1.{sequence}.{sequence}.1700000000000000000.{pending}"
    subject = f"droplet.v1.h1.config.{document}"
    return Message(subject.encode(), reply.encode(), body, bound(subject, headers))


def bound(subject: str, headers: bytes | None = None) -> bytes:
    """Return headers with the subject that a message was published for."""
    return (headers or b"NATS/1.0\r\n\r\n")[:-2] + f"{binding.SUBJECT}: {subject}\r\n\r\n".encode()


def test_both_forms_of_ack_subjects_say_the_same() -> None:
    old = b"$JS.ACK.S.h1.2.30.40.1700000000000000000.5"
    new = b"$JS.ACK.hub.ACC.S.h1.2.30.40.1700000000000000000.5"
    assert parse_ack_subject(old) == (30, 5)
    assert parse_ack_subject(new) == parse_ack_subject(new + b".token") == parse_ack_subject(old)


@pytest.mark.parametrize("reply", [b"", b"$JS.ACK", b"_INBOX.1", b"$JS.ACK.S.h1.2.30.40.17", b"$JS.ACK.S.h.1.x.4.1.5"])
def test_other_subjects_are_refused(reply: bytes) -> None:
    with pytest.raises(ValueError):
        parse_ack_subject(reply)


def test_headers_with_and_without_status() -> None:
    assert parse_headers(None) == (0, "", {})
    assert parse_headers(b"NATS/1.0 503\r\n\r\n") == (503, "", {})
    beat = parse_headers(b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 4\r\n\r\n")
    assert beat == (100, "Idle Heartbeat", {"Nats-Last-Consumer": "4"})
    assert parse_headers(b"NATS/1.0\r\nA:b: c\r\n\r\n").fields == {"A": "b: c"}
    assert parse_headers(b"\xff\xfe").status == 0


def test_answers_that_cannot_be_read_are_errors() -> None:
    assert parse_pub_ack(b'{"stream":"S","seq":3}').error is None
    for body in (b"", b"{}", b"[1]", b'{"error":{"code":503,"description":"no space"}}'):
        assert parse_pub_ack(body).error is not None
    assert parse_reset_reply(b"nonsense").error is not None


def test_only_newer_revisions_of_each_document_are_delivered() -> None:
    log = DocumentLog("h1")
    assert log.begin("made once")
    batch = log.sort([message("a", 1), message("b", 5), message("a", 7), message("a", 7), message("b", 4)])
    assert batch.deliveries == [Delivery("a", 1, b"x"), Delivery("b", 5, b"x"), Delivery("a", 7, b"x")]
    assert len(batch.answers) == 5
    log.taken(batch)
    assert log.reset_to == 8
    assert log.sort([message("b", 5), message("a", 6), message("c", 3)]).deliveries == [Delivery("c", 3, b"x")]


def test_what_the_handler_did_not_take_is_still_new() -> None:
    log = DocumentLog("h1")
    log.begin("made once")
    log.sort([message("a", 1)])
    assert log.reset_to == 1
    assert len(log.sort([message("a", 1)]).deliveries) == 1


def test_a_removal_is_told_from_an_empty_body() -> None:
    log = DocumentLog("h1")
    headers = b"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Rollup: sub\r\n\r\n"
    batch = log.sort([message("a", 1, body=b"", headers=headers), message("b", 2, body=b"")])
    assert [delivery.body for delivery in batch.deliveries] == [None, b""]


def test_a_snapshot_is_complete_when_nothing_waits_behind_the_last_message() -> None:
    log = DocumentLog("h1")
    log.begin("made once")
    assert not log.taken(log.sort([message("a", 1, pending=1)]))
    assert log.taken(log.sort([message("b", 2, pending=0)]))
    assert not log.taken(log.sort([message("b", 3, pending=0)])), "only once"


def test_idle_heartbeats_complete_a_snapshot_whose_last_message_was_taken_away() -> None:
    log = DocumentLog("h1")
    log.begin("made once")
    log.taken(log.sort([message("a", 1, pending=1)]))
    assert not log.idle()
    assert log.idle()


def test_another_consumer_begins_the_snapshot_anew() -> None:
    log = DocumentLog("h1")
    log.begin("made once")
    log.taken(log.sort([message("a", 50)]))
    assert not log.begin("made once")
    assert log.begin("made again")
    assert log.in_snapshot
    assert log.sort([message("a", 1)]).deliveries == [Delivery("a", 1, b"x")]


def test_removed_documents_do_not_pile_up() -> None:
    log = DocumentLog("h1")
    log.begin("made once")
    headers = b"NATS/1.0\r\nKV-Operation: PURGE\r\n\r\n"
    log.taken(log.sort([message(f"d{i}", i + 1, body=b"", headers=headers) for i in range(9)]))
    log.idle()
    log.idle()
    assert log._newest == {}


def test_a_message_of_another_host_or_without_a_name_is_a_stranger() -> None:
    log = DocumentLog("h1")
    ack = message("a", 1).reply
    foreign = Message(b"droplet.v1.h2.config.a", ack, b"", None)
    nameless = Message(b"droplet.v1.h1.config.A B", b"_INBOX.x", b"", None)
    batch = log.sort([foreign, nameless])
    assert batch.deliveries == []
    assert batch.strangers == ["droplet.v1.h2.config.a", "droplet.v1.h1.config.A B"]
    assert batch.answers == [(ack, b"+TERM")]
