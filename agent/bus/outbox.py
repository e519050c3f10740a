"""Holds acknowledgements that the server has not confirmed: the newest per document, and publishes in flight.

Sans-I/O: the clock is a parameter. An acknowledgement leaves the outbox only once the server confirms that the stream
holds it, or when a newer one of the same document replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 4096
"""The most publishes in flight."""
CONFIRM_WITHIN = 5.0
"""Seconds after which an unconfirmed publish is sent again."""
LONGEST_CONFIRM_WITHIN = 80.0
"""The same while the server confirms nothing in time: resending adds to a queue that it is slow to work off."""
RETRY_AFTER = 1.0
"""Seconds to wait after the server refused one."""


@dataclass(frozen=True, slots=True)
class PendingAck:
    """One acknowledgement to publish. The server's answer carries `token`."""

    token: int
    document: str
    body: bytes


@dataclass(slots=True)
class _Sent:
    ack: PendingAck
    at: float


class Outbox:
    """Newest acknowledgement per document, until it is confirmed."""

    def __init__(self) -> None:
        self._waiting: dict[str, bytes] = {}
        self._sent: dict[int, _Sent] = {}
        self._newest_sent: dict[str, int] = {}
        self._late: dict[int, str] = {}
        """Publishes to send again, by token: the server may still confirm them. None is out of date."""
        self._late_of: dict[str, list[int]] = {}
        self._confirm_within = CONFIRM_WITHIN
        self._token = 0
        self._not_before = 0.0

    def __len__(self) -> int:
        """Return how many documents have an acknowledgement that is not confirmed."""
        return len(self._waiting.keys() | self._newest_sent.keys())

    def __bool__(self) -> bool:
        """Return whether any acknowledgement is not confirmed."""
        return bool(self._waiting or self._newest_sent)

    def put(self, document: str, body: bytes) -> None:
        """Hold a document's newest acknowledgement; an older one that is not confirmed is forgotten."""
        self._waiting[document] = body
        self._forget_late(document)

    def take(self, now: float) -> list[PendingAck]:
        """Return what to publish now, and mark it as in flight."""
        if now < self._not_before:
            return []
        self._expire(now)
        acks = []
        for document in list(self._waiting)[: max(0, WINDOW - len(self._sent))]:
            self._token += 1
            ack = PendingAck(self._token, document, self._waiting.pop(document))
            self._sent[ack.token] = _Sent(ack, now)
            self._newest_sent[document] = ack.token
            acks.append(ack)
        return acks

    def wake_in(self, now: float) -> float | None:
        """Return the seconds until `take` may return something without another event, None for never."""
        if self._waiting and now < self._not_before:
            return self._not_before - now
        if self._sent:
            oldest = next(iter(self._sent.values()))
            return max(0.0, oldest.at + self._confirm_within - now)
        return None

    def confirm(self, token: int) -> None:
        """Forget a publish that the server has stored, even if the confirmation arrives after it was sent again."""
        sent = self._sent.pop(token, None)
        document = self._late.get(token)
        if sent:
            self._confirm_within = CONFIRM_WITHIN
            if self._newest_sent.get(sent.ack.document) == token:
                del self._newest_sent[sent.ack.document]
        elif document is not None:
            self._forget_late(document)
            self._waiting.pop(document, None)
            self._newest_sent.pop(document, None)

    def _forget_late(self, document: str) -> None:
        for token in self._late_of.pop(document, ()):
            del self._late[token]

    def refuse(self, token: int, now: float) -> None:
        """Hold a publish that the server did not store, to send it again a little later."""
        if self._requeue(token):
            self._not_before = now + RETRY_AFTER

    def disconnect(self) -> None:
        """Return everything in flight to the queue: its answer would have come on a connection that is gone."""
        for token in list(self._sent):
            self._requeue(token)
        self._late.clear()
        self._late_of.clear()
        self._confirm_within = CONFIRM_WITHIN
        self._not_before = 0.0

    def _expire(self, now: float) -> None:
        within = self._confirm_within
        for token, sent in list(self._sent.items()):
            if now - sent.at < within:
                break
            self._confirm_within = min(2 * within, LONGEST_CONFIRM_WITHIN)
            document = sent.ack.document
            if self._newest_sent.get(document) == token and document not in self._waiting:
                self._late[token] = document
                self._late_of.setdefault(document, []).append(token)
            self._requeue(token)

    def _requeue(self, token: int) -> bool:
        sent = self._sent.pop(token, None)
        if sent is None:
            return False
        document = sent.ack.document
        if self._newest_sent.get(document) == token:
            del self._newest_sent[document]
            self._waiting.setdefault(document, sent.ack.body)
        return True
