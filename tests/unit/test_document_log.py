"""What counts as new among messages, when a snapshot is complete, and how a stream that went back is noticed."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bus.connection.jetstream import (
    ConsumerInfo,
    parse_ack_subject,
    parse_consumer_info,
    parse_headers,
    parse_pub_ack,
)
from agent.bus.connection.jetstream import Delivered as Position
from agent.bus.consumer.documents import RECENT, Batch, DocumentLog, Message, ResetReason
from agent.core.config.delivery import Delivery
from protocol import binding

PURGE = b"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Rollup: sub\r\n\r\n"
EPOCH = 1_700_000_000_000_000_000


class Server:
    """One consumer as a server has it: what is in the stream, what was delivered, and how far it counts."""

    def __init__(self) -> None:
        self.stream: dict[str, tuple[int, int, bytes, bytes | None]] = {}
        """Sequence, time, body and headers by document."""
        self.sequence = 0
        self.clock = EPOCH
        self.created = "made once"
        self.counted = 0
        self.position = 1

    def publish(self, document: str, body: bytes = b"x", headers: bytes | None = None) -> int:
        self.sequence += 1
        self.clock += 1
        self.stream[document] = (self.sequence, self.clock, body, headers)
        return self.sequence

    def remove(self, document: str) -> int:
        return self.publish(document, b"", PURGE)

    def waiting(self) -> list[str]:
        newer = [name for name, (sequence, *_) in self.stream.items() if sequence >= self.position]
        return sorted(newer, key=lambda name: self.stream[name][0])

    def reset(self, sequence: int) -> ConsumerInfo:
        self.position, self.counted = sequence, 0
        return ConsumerInfo(created=self.created, num_pending=len(self.waiting()))

    def info(self) -> ConsumerInfo:
        return ConsumerInfo(
            created=self.created, delivered=Position(self.counted, self.position - 1), num_pending=len(self.waiting())
        )

    def deliver(self, most: int = 1000) -> list[Message]:
        found = []
        while len(found) < most and (names := self.waiting()):
            sequence, time, body, headers = self.stream[names[0]]
            self.counted += 1
            self.position = sequence + 1
            reply = f"$JS.ACK.DROPLET_CONFIG.h1.1.{sequence}.{self.counted}.{time}.{len(names) - 1}"
            subject = f"droplet.v1.h1.config.{names[0]}"
            found.append(Message(subject.encode(), reply.encode(), body, bound(subject, headers)))
        return found


def bound(subject: str, headers: bytes | None = None) -> bytes:
    """Return headers with the subject that a message was published for."""
    return (headers or b"NATS/1.0\r\n\r\n")[:-2] + f"{binding.SUBJECT}: {subject}\r\n\r\n".encode()


def begin(log: DocumentLog, server: Server) -> bool:
    return log.begin(server.reset(log.reset_to))


def take(log: DocumentLog, server: Server, most: int = 1000) -> Batch:
    batch = log.sort(server.deliver(most))
    log.remember(batch)
    return batch


def in_sync(*documents: str) -> tuple[DocumentLog, Server]:
    """Return a log that has taken the whole of a stream, and the server."""
    log, server = DocumentLog("h1"), Server()
    for document in documents:
        server.publish(document)
    assert begin(log, server)
    take(log, server)
    assert log.completed()
    return log, server


def test_both_forms_of_ack_subjects_say_the_same() -> None:
    old = b"$JS.ACK.S.h1.2.30.40.1700000000000000000.5"
    new = b"$JS.ACK.hub.ACC.S.h1.2.30.40.1700000000000000000.5"
    assert parse_ack_subject(old) == ("S", "h1", 2, 30, 40, EPOCH, 5)
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


def test_replies_that_cannot_be_decoded_are_errors() -> None:
    assert parse_pub_ack(b'{"stream":"S","seq":3}').error is None
    for body in (b"", b"{}", b"[1]", b'{"error":{"code":503,"description":"no space"}}'):
        assert parse_pub_ack(body).error is not None
    assert parse_consumer_info(b"nonsense").error is not None


def test_only_newer_revisions_of_each_document_are_delivered() -> None:
    log, server = in_sync()
    server.publish("a")
    first = log.sort(server.deliver())
    assert first.deliveries == [Delivery("a", 1, b"x")]
    log.remember(first)
    server.publish("a", b"y")
    assert take(log, server).deliveries == [Delivery("a", 2, b"y")]


def test_a_redelivered_message_is_ignored() -> None:
    log, _ = in_sync("a", "b")
    again = b"$JS.ACK.DROPLET_CONFIG.h1.2.1.3.%d.0" % EPOCH
    batch = log.sort([Message(b"droplet.v1.h1.config.a", again, b"x", None)])
    assert (batch.reset_reason, batch.deliveries, batch.acks) == (None, [], [(again, b"")])


def test_messages_that_the_handler_did_not_process_are_redelivered() -> None:
    log, server = in_sync("a")
    server.publish("b")
    log.sort(server.deliver())
    assert not begin(log, server)
    assert [delivery.document for delivery in take(log, server).deliveries] == ["b"]


def test_a_removal_is_distinguished_from_an_empty_document() -> None:
    log, server = in_sync()
    server.remove("a")
    server.publish("b", b"")
    assert [delivery.body for delivery in take(log, server).deliveries] == [None, b""]


def test_a_snapshot_is_complete_once_when_all_that_the_reset_counted_was_taken() -> None:
    log, server = DocumentLog("h1"), Server()
    for name in "abc":
        server.publish(name)
    begin(log, server)
    take(log, server, 2)
    assert not log.completed()
    assert log.waiting == 1
    take(log, server)
    assert log.completed()
    assert not log.completed()


def test_idle_heartbeats_prove_nothing() -> None:
    log, server = DocumentLog("h1"), Server()
    server.publish("a")
    begin(log, server)
    for _ in range(5):
        assert log.idle(0) is None
        assert not log.completed()
    assert log.waiting == 1


def test_a_snapshot_whose_last_messages_were_deleted_is_complete_when_the_server_has_none_left() -> None:
    log, server = DocumentLog("h1"), Server()
    server.publish("a")
    server.publish("b")
    begin(log, server)
    take(log, server, 1)
    del server.stream["b"]
    log.take_info(server.info())
    assert log.completed()


def test_another_consumer_restarts_the_snapshot() -> None:
    log, server = in_sync("a", "b")
    server.created, server.stream = "made again", {}
    server.sequence = 0
    server.publish("a")
    assert not log.is_known(server.created)
    log.void()
    assert begin(log, server)
    assert log.in_snapshot
    assert take(log, server).deliveries == [Delivery("a", 1, b"x")]


@pytest.mark.parametrize("seen", [2, 4])
def test_a_delivery_that_does_not_follow_the_last_one_is_left_out_with_all_after_it(seen: int) -> None:
    """A larger number: another reader got deliveries. A smaller one: another client reset the consumer."""
    log, _ = in_sync("a", "b")
    reply = b"$JS.ACK.DROPLET_CONFIG.h1.1.9.%d.%d.0" % (seen, EPOCH)
    batch = log.sort([Message(b"droplet.v1.h1.config.c", reply, b"x", None)])
    assert (batch.reset_reason, batch.deliveries) == (ResetReason.GAP, [])


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_heartbeat_with_another_sequence_is_a_gap(last: int) -> None:
    log, _ = in_sync("a", "b")
    assert log.idle(2) is None
    assert log.idle(last) is ResetReason.GAP


def test_messages_without_their_bodies_are_no_documents() -> None:
    log, server = in_sync()
    server.publish("a", b"", b"NATS/1.0\r\nNats-Msg-Size: 30\r\n\r\n")
    batch = log.sort(server.deliver())
    assert (batch.reset_reason, batch.deliveries) == (ResetReason.HEADERS_ONLY, [])


def test_a_reconnection_continues_if_the_last_messages_are_redelivered_unchanged() -> None:
    log, server = in_sync(*(f"d{number}" for number in range(40)))
    server.publish("d39", b"superseded meanwhile")
    server.publish("new")
    assert not begin(log, server)
    assert log.reset_to == 41 - RECENT
    assert [delivery.document for delivery in take(log, server).deliveries] == ["d39", "new"]
    assert not log.went_back
    assert not log.in_snapshot


def restored(server: Server, backup: dict[str, tuple[int, int, bytes, bytes | None]], sequence: int) -> None:
    """Have the server go on from a backup, as one whose store was restored does."""
    server.stream, server.sequence = dict(backup), sequence
    server.clock += 10**9


@pytest.mark.parametrize("published", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("lost", [1, 3, 5])
def test_a_reverted_stream_is_noticed_however_many_messages_follow(lost: int, published: int) -> None:
    """Its new messages may have the sequences of those that were lost, or greater ones."""
    log, server = in_sync("a", "b", "c")
    backup, sequence = dict(server.stream), server.sequence
    for number in range(lost):
        server.publish(f"lost{number}")
    take(log, server)
    restored(server, backup, sequence)
    for number in range(published):
        server.publish(f"after{number}")
    assert not begin(log, server)
    batch = take(log, server)
    assert batch.reset_reason is ResetReason.WENT_BACK or log.went_back
    log.void()
    assert begin(log, server)
    names = {delivery.document for delivery in take(log, server).deliveries}
    assert names == {"a", "b", "c", *(f"after{number}" for number in range(published))}
    assert log.completed()


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=30),
    st.integers(0, 30),
    st.lists(st.sampled_from("abcdefgh"), max_size=30),
    st.integers(1, 4),
)
def test_after_a_reconnection_the_documents_are_those_of_the_stream(
    history: list[tuple[str, bool]], backed_up: int, later: list[str], recent: int
) -> None:
    """Whether the stream is the same, or one that was restored from a backup of any moment and went on."""
    with mock.patch("agent.bus.consumer.documents.RECENT", recent):
        reconnect_to_a_stream_of(history, backed_up, later)


def reconnect_to_a_stream_of(history: list[tuple[str, bool]], backed_up: int, later: list[str]) -> None:
    log, server = in_sync()
    backup, sequence, known = dict(server.stream), 0, {}
    for step, (document, removing) in enumerate(history):
        if step == backed_up:
            backup, sequence = dict(server.stream), server.sequence
        if removing:
            server.remove(document)
        else:
            server.publish(document, b"%d" % step)
    for delivery in take(log, server).deliveries:
        known[delivery.document] = delivery.body
    if backed_up < len(history):
        restored(server, backup, sequence)
    for number, document in enumerate(later):
        server.publish(document, b"later %d" % number)
    begin(log, server)
    batch = take(log, server)
    if batch.reset_reason is ResetReason.WENT_BACK or log.went_back:
        log.void()
        assert begin(log, server)
        known.clear()
        batch = take(log, server)
    for delivery in batch.deliveries:
        known[delivery.document] = delivery.body
    removed = {name for name, (*_, body, _) in server.stream.items() if not body}
    assert {name: body for name, body in known.items() if body is not None} == {
        name: body for name, (*_, body, _) in server.stream.items() if name not in removed
    }


def test_removed_documents_do_not_pile_up() -> None:
    log, server = in_sync()
    for number in range(9):
        server.remove(f"d{number}")
    take(log, server)
    assert log.idle(9) is None
    assert log._newest == {}
    assert not begin(log, server)
    assert take(log, server).deliveries == []


def test_a_message_of_another_host_or_consumer_is_ignored() -> None:
    log, _ = in_sync("a")
    ours = b"$JS.ACK.DROPLET_CONFIG.h1.1.2.2.%d.0" % EPOCH
    others = b"$JS.ACK.DROPLET_CONFIG.h2.1.9.7.%d.0" % EPOCH
    batch = log.sort(
        [
            Message(b"droplet.v1.h1.config.b", others, b"x", None),
            Message(b"droplet.v1.h1.config.c", b"_INBOX.x", b"", None),
            Message(b"droplet.v1.h2.config.d", ours, b"x", None),
        ]
    )
    assert (batch.reset_reason, batch.deliveries) == (None, [])
    assert batch.foreign_subjects == ["droplet.v1.h1.config.b", "droplet.v1.h1.config.c", "droplet.v1.h2.config.d"]
    assert batch.acks == [(ours, b"+TERM")]


def test_an_invalid_subject_is_reported_until_its_message_is_removed() -> None:
    log, server = in_sync("a")
    server.publish("UPPER")
    batch = take(log, server)
    assert batch.refused == ["droplet.v1.h1.config.UPPER"]
    assert log.refused == {"droplet.v1.h1.config.UPPER"}
    assert batch.acks[0][1] == b"+TERM"
    assert not begin(log, server)
    take(log, server)
    assert log.refused
    server.remove("UPPER")
    take(log, server)
    assert log.refused == set()
