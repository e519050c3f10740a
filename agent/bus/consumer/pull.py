"""Decides when to send pull requests. Sans-I/O: received messages and `now` go in, requests come out.

The server answers a request with up to `BATCH` messages; it ends the request with a status when that is not reached in
`EXPIRES` seconds, and sends an idle heartbeat when there was nothing to send. Data messages do not say which request
they answer, but requests are served in order.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import msgspec

_REFUSAL = re.compile("exceeded max|push based", re.IGNORECASE)
"""A server's answers to a request that exceeds a consumer's limits, and to any request to a push consumer."""

BATCH = 256
MAX_WANTED = BATCH
"""While fewer messages than this are requested, another request is sent: the server always has one to serve."""
MAX_WAITING = 2 * BATCH
"""The number of unhandled messages above which no request is sent."""
MAX_BYTES = 8 << 20
"""Bytes of messages that one request may bring; one message has at most 1 MiB."""
EXPIRES = 30.0
HEARTBEAT = 2.0
SILENCE = 2 * HEARTBEAT + 0.5
"""Seconds of silence after which a request counts as lost."""
MAX_SILENCES = 3
"""Consecutive lost requests after which the connection counts as dead."""


class Signal(Enum):
    """What a status means for the caller that runs the loop."""

    CARRY_ON = auto()
    IDLE = auto()
    """Nothing was delivered for the heartbeat interval, whether or not there is anything to deliver."""
    CONSUMER_GONE = auto()
    """The consumer or its stream does not exist (any more)."""
    REFUSED = auto()
    """The consumer refuses this request, and will refuse others like it."""


@dataclass(slots=True)
class _Request:
    number: int
    remaining: int


class PullMachine:
    """The requests in flight on one connection."""

    def __init__(self, now: float) -> None:
        self._requests: deque[_Request] = deque()
        self._last_heard = now
        self._number = 0
        self._silences = 0

    @property
    def is_dead(self) -> bool:
        """Return whether so many requests were lost that the connection must be dead."""
        return self._silences >= MAX_SILENCES

    @property
    def patience(self) -> float:
        """Return the seconds of silence after which the connection must be dead."""
        return (MAX_SILENCES + 1) * SILENCE

    @property
    def wanted(self) -> int:
        """Return how many messages the requests in flight can still bring."""
        return sum(request.remaining for request in self._requests)

    def next_request(self, now: float, waiting: int) -> int | None:
        """Return the number of a request to send now, or None.

        `waiting` is how many messages were read and not handled: a slow handler is not given more.
        """
        if self._requests and now - self._last_heard > SILENCE:
            self._requests.clear()
            self._silences += 1
        if waiting >= MAX_WAITING or self.wanted > MAX_WANTED:
            return None
        if not self._requests:
            self._last_heard = now
        self._number += 1
        self._requests.append(_Request(self._number, BATCH))
        return self._number

    def wake_in(self, now: float) -> float:
        """Return the seconds after which to call `next_request` again even if nothing was read."""
        return max(0.05, self._last_heard + SILENCE - now + 0.05)

    def on_message(self, now: float) -> None:
        """Record one delivered message."""
        self._last_heard = now
        self._silences = 0
        if self._requests:
            first = self._requests[0]
            first.remaining -= 1
            if first.remaining <= 0:
                self._requests.popleft()

    def on_status(self, number: int, status: int, text: str, now: float) -> Signal:
        """Record a status for a request: 100 is a heartbeat; 404, 408, 409 and 503 end it (ADR-13)."""
        self._last_heard = now
        self._silences = 0
        if status == 100:
            return Signal.IDLE
        self._requests = deque(request for request in self._requests if request.number != number)
        if status == 503 or (status == 409 and "consumer deleted" in text.lower()):
            return Signal.CONSUMER_GONE
        if status == 400 or (status == 409 and _REFUSAL.search(text)):
            return Signal.REFUSED
        return Signal.CARRY_ON


def request_body() -> bytes:
    """Return the body of a pull request; times are in nanoseconds."""
    return msgspec.json.encode(
        {
            "batch": BATCH,
            "max_bytes": MAX_BYTES,
            "expires": int(EXPIRES * 1e9),
            "idle_heartbeat": int(HEARTBEAT * 1e9),
        }
    )
