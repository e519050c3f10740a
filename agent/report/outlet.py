"""Sends the agent's messages: acknowledgements until the server has stored them, all others without confirmation."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent.bus.bus import Bus
from agent.core.config.truncation import first_lines
from protocol import codec, subjects
from protocol.acknowledgements import Acknowledgement
from protocol.status import Counters, Event, Status


class Outlet:
    """Sends one host's messages by subject. Without a bus they are dropped."""

    def __init__(self, host: str) -> None:
        self.bus: Bus | None = None
        """Set after construction: the bus and its handler depend on each other."""
        self._host = host

    @property
    def connected(self) -> bool:
        """Return whether the bus is connected."""
        return self.bus is not None and self.bus.connected

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        """Send an acknowledgement until the server has stored it, or a newer one of the document replaces it."""
        if self.bus is not None:
            self.bus.acknowledge(acknowledgement)

    def event(self, kind: str, detail: Sequence[str]) -> None:
        """Publish an event with lines of detail."""
        event = Event(self._host, kind, time.time(), tuple(detail))
        self._publish(subjects.event(self._host, kind), codec.encode(event))

    def repair(self, repaired: Sequence[str]) -> None:
        """Publish repairs, one action a line, truncated to the size of an event."""
        self.event("repaired", first_lines(repaired))

    def status(self, status: Status) -> None:
        """Publish a status message."""
        self._publish(subjects.status(self._host), codec.encode(status))

    def counters(self, counters: Counters) -> None:
        """Publish counters."""
        self._publish(subjects.telemetry(self._host, "counters"), codec.encode(counters))

    async def drain(self, seconds: float) -> None:
        """Wait until the server has stored every acknowledgement, for at most `seconds`."""
        if self.bus is not None:
            await self.bus.drain(seconds)

    def _publish(self, subject: str, payload: bytes) -> None:
        if self.bus is not None:
            self.bus.publish(subject, payload)
