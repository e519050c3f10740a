"""Pulls messages between two resets of the consumer: sends requests, and keeps what arrives until it is handled."""

from __future__ import annotations

import asyncio
import time

from agent.bus.connection.client import Connection, publish_command
from agent.bus.connection.jetstream import parse_headers
from agent.bus.consumer.documents import Message
from agent.bus.consumer.pull import PullMachine, Signal, request_body
from protocol import streams


class PullSession:
    """The pulling between two resets. Each has an inbox of its own, so that older requests deliver nothing to it."""

    def __init__(self, host: str, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._next = streams.next_subject(host).encode()
        self._request = request_body()
        self._machine = PullMachine(time.monotonic())
        self._sid: int | None = None
        self._arrived = asyncio.Event()
        self.messages: list[Message] = []
        self.gone = False
        """Whether the consumer or its stream does not exist any more."""
        self.refusal = ""
        """Why the consumer refuses requests, empty if it does not."""
        self.last_delivery: int | None = None
        """The number of the consumer's last delivery, as the last idle heartbeat has it."""

    async def open(self) -> None:
        """Subscribe to the inbox."""
        self._sid = await self._connection.receive(f"{self._inbox}.*", self._on_message)

    async def close(self) -> None:
        """End the subscription: requests that wait at the server must not consume messages meant for later ones."""
        if self._sid is not None:
            await self._connection.release(self._sid)
            self._sid = None

    def request_more(self) -> None:
        """Send requests, as many as the unhandled messages allow."""
        now = time.monotonic()
        while (number := self._machine.next_request(now, len(self.messages))) is not None:
            reply = f"{self._inbox}.{number}".encode()
            self._connection.post([publish_command(self._next, self._request, reply)])

    async def wait(self, at_most: float) -> None:
        """Wait until something arrives, `wake` is called or a request is due; ConnectionError if the server is dead."""
        try:
            async with asyncio.timeout(min(self._machine.wake_in(time.monotonic()), at_most)):
                await self._arrived.wait()
        except TimeoutError:
            if self._machine.is_dead:
                raise ConnectionError(f"the server has said nothing for {self._machine.patience:g} seconds") from None
        self._arrived.clear()

    def wake(self) -> None:
        """End a call of `wait`."""
        self._arrived.set()

    def _on_message(self, subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> None:
        """Handle a message to the inbox."""
        now = time.monotonic()
        if reply.startswith(b"$JS.ACK."):
            self._machine.on_message(now)
            self.messages.append(Message(subject, reply, body, headers))
        else:
            self._on_status(subject, headers, now)
        self._arrived.set()

    def _on_status(self, subject: bytes, headers: bytes | None, now: float) -> None:
        number = subject.rpartition(b".")[2]
        if not number.isdigit():
            return
        parsed = parse_headers(headers)
        signal = self._machine.on_status(int(number), parsed.status, parsed.text, now)
        last = parsed.fields.get("Nats-Last-Consumer", "")
        if signal is Signal.CONSUMER_GONE:
            self.gone = True
        elif signal is Signal.REFUSED:
            self.refusal = parsed.text
        elif signal is Signal.IDLE and last.isdigit() and not self.messages:
            self.last_delivery = int(last)
