"""Publishes the outbox's acknowledgements to the stream, many at a time, and handles the server's confirmations."""

from __future__ import annotations

import asyncio
import time

from agent.bus.connection.client import Connection, publish_command
from agent.bus.connection.jetstream import parse_headers, parse_pub_ack
from agent.bus.outbox import Outbox
from agent.core.faults.tracker import ReportFaults
from protocol import streams, subjects
from protocol.status import Fault

NO_RESPONDERS = 503


def acknowledgements_not_stored(reason: str) -> Fault:
    """Return the fault of acknowledgements that no stream stores."""
    return Fault(
        "acknowledgements_not_stored",
        streams.ACK_STREAM,
        reason,
        f"the controller makes stream {streams.ACK_STREAM}; the agent goes on trying",
    )


class AckPublisher:
    """Sends the outbox on one connection."""

    def __init__(
        self,
        host: str,
        connection: Connection,
        outbox: Outbox,
        changed: asyncio.Event,
        empty: asyncio.Event,
        report: ReportFaults,
    ) -> None:
        self._host = host
        self._connection = connection
        self._outbox = outbox
        self._changed = changed
        self._empty = empty
        self._report = report
        self._inbox = connection.new_inbox()

    async def run(self) -> None:
        """Send until cancelled or the connection is lost."""
        await self._connection.receive(f"{self._inbox}.*", self._on_answer)
        while not self._connection.lost.is_set():
            self._changed.clear()
            self._send()
            try:
                async with asyncio.timeout(self._outbox.wake_in(time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _send(self) -> None:
        acks = self._outbox.take(time.monotonic())
        if acks:
            prefix = subjects.ack(self._host, "")
            self._connection.post(
                publish_command(f"{prefix}{p.document}".encode(), p.body, f"{self._inbox}.{p.token}".encode())
                for p in acks
            )

    def _on_answer(self, subject: bytes, _reply: bytes, body: bytes, headers: bytes | None) -> None:
        token = subject.rpartition(b".")[2]
        if not token.isdigit():
            return
        reason = ""
        if headers and parse_headers(headers).status == NO_RESPONDERS:
            reason = "no stream takes acknowledgements"
        else:
            answer = parse_pub_ack(body)
            if answer.error is not None:
                reason = answer.error.description
        if reason:
            self._outbox.refuse(int(token), time.monotonic())
            self._report("acknowledgements", [acknowledgements_not_stored(reason)])
        else:
            self._outbox.confirm(int(token))
            self._report("acknowledgements", [])
        if not self._outbox:
            self._empty.set()
        self._changed.set()
