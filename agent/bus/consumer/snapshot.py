"""Tracks the deliveries after one reset: whether any are missing, and whether the snapshot is complete. No I/O.

A consumer numbers its deliveries from 1 after each reset, to all clients together. So the only reader of a consumer
receives every number, and a missing one went to another client. Idle heartbeats carry the last number. Silence proves
nothing: a paused consumer sends heartbeats too.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.bus.connection.jetstream import AckSubject, ConsumerInfo


@dataclass(slots=True)
class Replay:
    """The deliveries since a reset that counted `promised` messages."""

    promised: int
    received: int = 0
    """Messages that were delivered, each counted once."""
    last: int = 0
    """The consumer's number of the last delivery."""
    drained: bool = False
    """Whether the server had nothing more to deliver at some moment since the reset."""
    whole: bool = False
    """Whether the first delivery had at least as many behind it as were counted: it follows from this reset."""

    def arrived(self, ack: AckSubject) -> bool:
        """Record a delivery. If it does not follow the one before, ignore it and return False."""
        if ack.consumer_sequence != self.last + 1:
            return False
        if self.last == 0:
            self.whole = ack.pending + 1 >= self.promised
        self.last = ack.consumer_sequence
        self.received += ack.delivered == 1
        self.drained = self.drained or ack.pending == 0
        return True

    def take_info(self, info: ConsumerInfo) -> None:
        """Record the consumer's progress as the server reports it.

        Messages may have been deleted after they were counted, so that nothing is left to deliver. Deliveries on their
        way are counted there already: then this says nothing yet.
        """
        if info.error is None and info.num_pending == 0 and info.delivered.consumer_seq == self.last:
            self.drained = True

    @property
    def complete(self) -> bool:
        """Return whether every message that the reset counted was delivered, or there was none left to deliver.

        Messages come in the stream's order, and newer ones stand behind those that were counted. So when as many have
        come as were counted, all of those have come that still exist. Fewer will do only where the deliveries are known
        to follow from this reset and not from a later one of somebody else.
        """
        return self.received >= self.promised or (self.drained and self.whole)

    @property
    def is_short(self) -> bool:
        """Return whether nothing is left to deliver, and it is unknown whether the missing messages still exist.

        Messages were deleted before the first delivery, or somebody else reset the consumer to a later place by then:
        its numbers begin with 1 in either case.
        """
        return self.drained and not self.complete

    @property
    def waiting(self) -> int:
        """Return how many of the messages that the reset counted were not delivered yet."""
        return 0 if self.complete else self.promised - self.received


class ConsumerConflicts:
    """When other readers of the consumer were noticed, and how long to leave it alone. Times are in seconds."""

    FIRST_PAUSE = 0.5
    LONGEST_PAUSE = 8.0
    CALM = 15.0
    """Seconds without a disturbance after which the consumer counts as this agent's own again.

    More than the longest pause with its random part: the other reader may be pausing.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._duplicate: float | None = None
        self._pause = self.FIRST_PAUSE

    def record(self, now: float, chance: float) -> float:
        """Record a disturbance; return the seconds to wait before the next reset, with up to a half more by `chance`.

        `chance` is a random number from 0 to 1: two agents that disturb one another must not stay in step.
        """
        if not self.active(now):
            self._pause = self.FIRST_PAUSE
        self._last = now
        pause, self._pause = self._pause, min(self._pause * 2, self.LONGEST_PAUSE)
        return pause * (1 + chance / 2)

    def saw_duplicate(self, now: float) -> None:
        """Take note of a status that another agent published under this host's name."""
        self._duplicate = now

    def active(self, now: float) -> bool:
        """Return whether somebody else counts as a reader now."""
        return self._is_recent(self._last, now) or self._is_recent(self._duplicate, now)

    def duplicate_left(self, now: float) -> bool:
        """Return whether another agent of this host's name was heard and has gone; true once for each."""
        if self._duplicate is None or self.active(now):
            return False
        self._duplicate = None
        return True

    def detail(self, now: float) -> str:
        """Return who that is, as far as is known, in words that stay the same for as long as that does."""
        if self._is_recent(self._duplicate, now):
            return "another agent runs under this host's name: its status is on the bus"
        return "somebody else pulls from this consumer or resets it: deliveries are missing"

    def _is_recent(self, at: float | None, now: float) -> bool:
        return at is not None and now - at < self.CALM
