"""The documents of one host as they come from the stream: which are new, and when the snapshot is complete. No I/O.

A connection begins with a consumer reset to the message after the last one handled, so nothing that was lost on the way
is missed. Redelivered messages are older than, or the same as, what was delivered of their document, and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.bus.admission import Admission
from agent.bus.jetstream import ACK_TERM, parse_ack_subject
from protocol import subjects
from protocol.errors import FieldError

IDLE_HEARTBEATS = 2
"""Heartbeats without a message that prove that nothing is left to deliver."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One revision of a document; `body` is None when it removes the document.

    `refusal` says why the message may change nothing; `version` is its signed version, 0 where none was checked.
    """

    document: str
    revision: int
    body: bytes | None
    refusal: FieldError | None = None
    version: int = 0


class Message(NamedTuple):
    """A message as it was read."""

    subject: bytes
    reply: bytes
    body: bytes
    headers: bytes | None


@dataclass(slots=True)
class Batch:
    """What became of some messages.

    `answers` are (reply subject, body) to send once the deliveries were taken, `strangers` the subjects that name no
    document of this host or come from a stream, `last` the highest stream sequence, `caught_up` that nothing waited
    behind the last message.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    answers: list[tuple[bytes, bytes]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    last: int = 0
    caught_up: bool = False


class DocumentLog:
    """What was delivered of a host's documents since the agent's start."""

    def __init__(self, host: str, admission: Admission | None = None) -> None:
        self._admission = admission or Admission()
        self._prefix = subjects.config(host, "").encode()
        self._newest: dict[str, int] = {}
        self._removed: set[str] = set()
        self._created = ""
        self._idle = 0
        self._last = 0
        self.in_snapshot = False

    @property
    def reset_to(self) -> int:
        """Return the stream sequence from which the consumer is to deliver."""
        return self._last + 1

    def begin(self, created: str) -> bool:
        """Take note of the consumer that answered a reset; say whether the snapshot begins anew.

        It does at the agent's start, and when the controller made another consumer: its stream may be another one too,
        whose sequences start from 1.
        """
        self._idle = 0
        if created == self._created:
            return False
        self._created = created
        self._newest.clear()
        self._removed.clear()
        self._last = 0
        self.in_snapshot = True
        return True

    def begin_failed(self) -> None:
        """Have the snapshot begin again on the next connection: the handler could not begin it."""
        self._created = ""

    def complete_failed(self) -> None:
        """Have the snapshot completed again on the next connection: the handler could not take it."""
        self.in_snapshot = True

    def is_known(self, created: str) -> bool:
        """Say whether this consumer is the one that the deliveries so far came from."""
        return created == self._created

    def sort(self, messages: Sequence[Message]) -> Batch:
        """Return what is new in some messages, in their order. Nothing is remembered before `taken`."""
        batch = Batch(last=self._last)
        seen: dict[str, int] = {}
        for message in messages:
            try:
                sequence, pending = parse_ack_subject(message.reply)
            except ValueError:
                batch.strangers.append(message.subject.decode("utf-8", "replace"))
                continue
            if sequence > batch.last:
                batch.last = sequence
            batch.caught_up = pending == 0
            document = self._document(message.subject)
            if document is None:
                batch.strangers.append(message.subject.decode("utf-8", "replace"))
                batch.answers.append((message.reply, ACK_TERM))
                continue
            batch.answers.append((message.reply, b""))
            if sequence > seen.get(document, self._newest.get(document, 0)):
                seen[document] = sequence
                batch.deliveries.append(self._delivery(document, sequence, message))
        return batch

    def taken(self, batch: Batch) -> bool:
        """Take note that the handler took a batch; say whether that completed the snapshot."""
        self.remember(batch)
        return self._complete(caught_up=batch.caught_up)

    def remember(self, batch: Batch) -> None:
        """Take note that the handler took a batch, and leave the snapshot's completion to the next connection."""
        self._idle = 0
        self._last = max(self._last, batch.last)
        for delivery in batch.deliveries:
            self._newest[delivery.document] = delivery.revision
            if delivery.body is None:
                self._removed.add(delivery.document)
            else:
                self._removed.discard(delivery.document)

    def nothing_waits(self) -> bool:
        """Take note that a reset found nothing to deliver; say whether that completed the snapshot."""
        return self._complete(caught_up=True)

    def idle(self) -> bool:
        """Take note of an idle heartbeat with nothing unhandled; say whether that completed the snapshot.

        What was removed is forgotten: an older message of it is neither in the stream nor on its way.
        """
        self._idle += 1
        if self._idle < IDLE_HEARTBEATS:
            return False
        for document in self._removed:
            del self._newest[document]
        self._removed.clear()
        return self._complete(caught_up=True)

    def _complete(self, *, caught_up: bool) -> bool:
        completed = self.in_snapshot and caught_up
        if completed:
            self.in_snapshot = False
        return completed

    def _document(self, subject: bytes) -> str | None:
        if not subject.startswith(self._prefix):
            return None
        document = subject[len(self._prefix) :].decode("utf-8", "replace")
        return document if subjects.is_document(document) else None

    def _delivery(self, document: str, revision: int, message: Message) -> Delivery:
        admitted = self._admission.admit(document, message.subject.decode(), message.headers, message.body)
        body = None if admitted.removes else message.body
        return Delivery(document, revision, body, admitted.refusal, admitted.version)
