"""Tracks one host's documents in the stream: which are new, and when the snapshot is complete. No I/O.

A connection begins with a consumer reset. The first one of a consumer replays every message; later ones begin a few
messages before the last one handled, and these have to come again as they were (`RECENT`): then it is the stream that
was read before, and nothing before them needs to be read again. Otherwise the stream went back, as one does that was
restored from a backup, and a new snapshot begins. See docs/adr/0025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from agent.bus.connection.jetstream import ACK_TERM, AckSubject, ConsumerInfo, parse_ack_subject, parse_headers
from agent.bus.consumer.admission import Admission
from agent.bus.consumer.snapshot import Replay
from agent.core.config.delivery import Delivery
from protocol import streams, subjects

RECENT = 16
"""Subjects whose newest messages prove that a stream is the one that was read before."""


class ResetReason(Enum):
    """Why messages cannot be used and the consumer has to be reset."""

    GAP = auto()
    """Deliveries are missing, or count from 1 again: another client reads or resets the consumer."""
    WENT_BACK = auto()
    """The stream is not the one that was read before."""
    SHORT = auto()
    """The consumer delivered fewer messages than the reset counted, perhaps because another client reset it."""
    HEADERS_ONLY = auto()
    """The consumer delivers messages without bodies."""


class Message(NamedTuple):
    """A message as it was received."""

    subject: bytes
    reply: bytes
    body: bytes
    headers: bytes | None


class StreamPosition(NamedTuple):
    """A message's place in the stream, and when it was stored there, in nanoseconds since the epoch."""

    sequence: int
    time: int


_NOTHING = StreamPosition(0, 0)


@dataclass(slots=True)
class Batch:
    """The result of handling some messages.

    `acks` are (reply subject, body) to send once the deliveries were taken, `foreign_subjects` the subjects of messages
    that are no delivery of this host's consumer, `refused` the subjects under this host's that name no document and
    `released` those of them whose message was removed, `seen` the newest message of each subject. `reset_reason` says
    why the messages after those were left out.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    acks: list[tuple[bytes, bytes]] = field(default_factory=list)
    foreign_subjects: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    seen: dict[bytes, StreamPosition] = field(default_factory=dict)
    reset_reason: ResetReason | None = None


class DocumentLog:
    """Which of a host's documents were delivered since the agent's start."""

    def __init__(self, host: str, admission: Admission | None = None) -> None:
        self._host = host
        self._admission = admission or Admission()
        self._prefix = subjects.config(host, "").encode()
        self._newest: dict[str, int] = {}
        self._removed: set[str] = set()
        self._created = ""
        self._last = 0
        self._recent: dict[bytes, StreamPosition] = {}
        self._unproven: set[bytes] = set()
        """Subjects of `_recent` whose message has not come again since the reset, nor a newer one."""
        self._unseen = False
        """Whether none of `_recent` has come again as it was: then nothing shows that the stream is the same."""
        self._replay = Replay(0)
        self.refused: set[str] = set()
        """Subjects under this host's that name no document, and hold a message."""
        self.in_snapshot = False

    @property
    def reset_to(self) -> int:
        """Return the stream sequence from which the consumer is to deliver."""
        return min((seen.sequence for seen in self._recent.values()), default=1)

    @property
    def waiting(self) -> int:
        """Return how many messages the last reset counted that have not come."""
        return self._replay.waiting

    @property
    def went_back(self) -> bool:
        """Return whether everything has been delivered, and a message that was there before is missing."""
        return self._replay.complete and not self._is_proven

    @property
    def is_short(self) -> bool:
        """Return whether everything has been delivered, but possibly less than the reset counted."""
        return self._replay.is_short

    @property
    def _is_proven(self) -> bool:
        """Whether the stream is the one that was read before.

        One message that came again as it was shows that the stream is the same up to there. What was handled after it
        is all in `_recent`, and has to come again too, or something newer in its place.
        """
        return not self._unproven and not self._unseen

    def begin(self, info: ConsumerInfo) -> bool:
        """Record the answer to a reset to `reset_to`; return whether a new snapshot begins.

        It does at the agent's start, when the controller made another consumer, and after `void`.
        """
        self._replay = Replay(info.num_pending, drained=info.num_pending == 0)
        self._unproven, self._unseen = set(self._recent), bool(self._recent)
        if info.created == self._created:
            return False
        self.void()
        self._created = info.created
        self._newest.clear()
        self._removed.clear()
        self.refused.clear()
        self._last = 0
        self.in_snapshot = True
        return True

    def void(self) -> None:
        """Make the next reset read everything again, and begin a new snapshot."""
        self._created = ""
        self._recent.clear()
        self._unproven.clear()
        self._unseen = False

    def complete_failed(self) -> None:
        """Report the snapshot's completion again on the next connection: the handler raised."""
        self.in_snapshot = True

    def is_known(self, created: str) -> bool:
        """Return whether this consumer is the one that the deliveries so far came from."""
        return created == self._created

    def sort(self, messages: Sequence[Message]) -> Batch:
        """Return the new documents in some messages, in order. They do not count as delivered before `taken`."""
        batch = Batch()
        new: dict[str, int] = {}
        for message in messages:
            ack = self._ack(message)
            if ack is None:
                batch.foreign_subjects.append(message.subject.decode("utf-8", "replace"))
                continue
            batch.reset_reason = self._reset_reason(message, ack)
            if batch.reset_reason is not None:
                break
            self._take(message, ack, batch, new)
        return batch

    def _ack(self, message: Message) -> AckSubject | None:
        """Return the metadata of a delivery by this host's consumer, None if the message is not one."""
        try:
            ack = parse_ack_subject(message.reply)
        except ValueError:
            return None
        return ack if (ack.stream, ack.consumer) == (streams.CONFIG_STREAM, self._host) else None

    def _reset_reason(self, message: Message, ack: AckSubject) -> ResetReason | None:
        if not self._replay.arrived(ack):
            return ResetReason.GAP
        if not message.body and b"nats-msg-size:" in (message.headers or b"").lower():
            return ResetReason.HEADERS_ONLY
        if ack.stream_sequence > self._last or ack.delivered > 1:
            return None
        known = self._recent.get(message.subject)
        if known is None or known.sequence < ack.stream_sequence:
            return ResetReason.WENT_BACK
        if known.sequence == ack.stream_sequence:
            if known.time != ack.time:
                return ResetReason.WENT_BACK
            self._unproven.discard(message.subject)
            self._unseen = False
        return None

    def _take(self, message: Message, ack: AckSubject, batch: Batch, new: dict[str, int]) -> None:
        """Sort one message into the result."""
        sequence = ack.stream_sequence
        document = self._document(message.subject)
        if document is None:
            self._refuse(message, batch)
        else:
            batch.acks.append((message.reply, b""))
        if sequence <= self._last and message.subject in self._recent:
            return
        if sequence > self._last and batch.seen.get(message.subject, _NOTHING).sequence < sequence:
            self._unproven.discard(message.subject)
            batch.seen.pop(message.subject, None)  # the newest message stands last
            batch.seen[message.subject] = StreamPosition(sequence, ack.time)
        if document is not None and sequence > new.get(document, self._newest.get(document, 0)):
            new[document] = sequence
            batch.deliveries.append(self._delivery(document, sequence, message))

    def _refuse(self, message: Message, batch: Batch) -> None:
        """Tell the server never to deliver a message again."""
        subject = message.subject.decode("utf-8", "replace")
        batch.acks.append((message.reply, ACK_TERM))
        if not message.subject.startswith(self._prefix):
            batch.foreign_subjects.append(subject)
        elif streams.is_delete(parse_headers(message.headers).fields, message.body):
            batch.released.append(subject)
        else:
            batch.refused.append(subject)

    def taken(self, batch: Batch) -> bool:
        """Record that the handler processed a batch; return whether that completed the snapshot."""
        self.remember(batch)
        return self.completed()

    def remember(self, batch: Batch) -> None:
        """Record that the handler processed a batch, and leave the snapshot's completion to the next connection."""
        for subject, seen in list(batch.seen.items())[-RECENT:]:
            self._recent.pop(subject, None)
            self._recent[subject] = seen
            self._last = max(self._last, seen.sequence)
        for subject in list(self._recent)[:-RECENT]:
            del self._recent[subject]
        self.refused |= set(batch.refused)
        self.refused -= set(batch.released)
        for delivery in batch.deliveries:
            self._newest[delivery.document] = delivery.revision
            if delivery.body is None:
                self._removed.add(delivery.document)
            else:
                self._removed.discard(delivery.document)

    def completed(self) -> bool:
        """Return True once, when the snapshot is complete."""
        completed = self.in_snapshot and self._replay.complete and self._is_proven
        if completed:
            self.in_snapshot = False
        return completed

    def idle(self, last_delivery: int) -> ResetReason | None:
        """Record an idle heartbeat, with the number of the consumer's last delivery, when nothing is unhandled.

        What was removed is forgotten: an older message of it is neither in the stream nor on its way.
        """
        if last_delivery != self._replay.last:
            return ResetReason.GAP
        if self._replay.complete and self._is_proven:
            for document in self._removed:
                del self._newest[document]
            self._removed.clear()
        return None

    def take_info(self, info: ConsumerInfo) -> None:
        """Record the consumer's state as the server reports it, when nothing is unhandled."""
        self._replay.take_info(info)

    def _document(self, subject: bytes) -> str | None:
        if not subject.startswith(self._prefix):
            return None
        document = subject[len(self._prefix) :].decode("utf-8", "replace")
        return document if subjects.is_document(document) else None

    def _delivery(self, document: str, revision: int, message: Message) -> Delivery:
        admitted = self._admission.admit(document, message.subject.decode(), message.headers, message.body)
        body = None if admitted.removes else message.body
        return Delivery(document, revision, body, admitted.refusal, admitted.version)
