"""Reads a host's documents on one connection: resets the consumer, pulls, hands over, acknowledges to the stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from structlog.typing import FilteringBoundLogger

from agent.bus.client import Connection, publish_command
from agent.bus.documents import Delivery, DocumentLog, Message
from agent.bus.jetstream import ResetReply, parse_headers, parse_reset_reply, reset_request
from agent.bus.pull import PullMachine, Signal, request_body
from protocol import streams

RESET_TIMEOUT = 2.0
WAIT_FOR_CONSUMER = 0.5
"""Seconds between attempts to find the consumer that the controller makes."""
MAX_DELIVERIES = 1024
"""Messages that the handler gets at a time."""


async def uninterrupted(call: Coroutine[Any, Any, None], done_late: Callable[[], None] | None = None) -> None:
    """Await a call of the handler to its end, also when the connection is lost meanwhile: nothing is half applied.

    `done_late` is called when the call ended well after it was to be cancelled.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None and done_late is not None:
            done_late()
        raise


class Taker(Protocol):
    """What is needed of a handler here."""

    async def begin_snapshot(self) -> None:
        """See `agent.bus.bus.Handler`."""

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """See `agent.bus.bus.Handler`."""

    async def snapshot_complete(self) -> None:
        """See `agent.bus.bus.Handler`."""


class Reading:
    """The pull loop of one connection."""

    def __init__(
        self, host: str, connection: Connection, documents: DocumentLog, taker: Taker, log: FilteringBoundLogger
    ) -> None:
        self._host = host
        self._connection = connection
        self._documents = documents
        self._taker = taker
        self._log = log
        self._inbox = connection.new_inbox()
        self._next = streams.next_subject(host).encode()
        self._request = request_body()
        self._messages: list[Message] = []
        self._arrived = asyncio.Event()
        self._machine = PullMachine(time.monotonic())
        self._round = 0
        self._consumer_gone = False
        self._heartbeats = 0
        self.progressed = False
        """Whether the consumer answered at least once."""

    async def run(self) -> None:
        """Read until cancelled, the connection is lost, or the handler raises."""
        await self._connection.receive(f"{self._inbox}.*.*", self._on_message)
        while not self._connection.lost.is_set():
            await self._begin()
            self.progressed = True
            await self._pull()

    async def _begin(self) -> None:
        """Have the consumer deliver what was not handled yet, or all of it when it is a consumer not seen before."""
        reply = await self._reset(self._documents.reset_to)
        if not self._documents.is_known(reply.created) and self._documents.reset_to > 1:
            self._log.warning("the consumer was made anew: reading all documents again")
            reply = await self._reset(1)
        self._round += 1
        self._messages.clear()
        self._machine = PullMachine(time.monotonic())
        self._consumer_gone = False
        self._heartbeats = 0
        if self._documents.begin(reply.created):
            self._log.info("snapshot begins", messages=reply.num_pending)
            try:
                await uninterrupted(self._taker.begin_snapshot())
            except Exception:
                self._documents.begin_failed()
                raise
        if reply.num_pending == 0 and self._documents.nothing_waits():
            await self._complete()

    async def _reset(self, sequence: int) -> ResetReply:
        complained = False
        while True:
            reason = (
                "no answer: there is no such stream or consumer (the controller makes it), or the server is too old"
            )
            try:
                answer = await self._connection.request(
                    streams.reset_subject(self._host), reset_request(sequence), timeout=RESET_TIMEOUT
                )
                reply = parse_reset_reply(answer.data)
                if reply.error is None:
                    return reply
                reason = reply.error.description
            except (NoRespondersError, NatsTimeoutError):
                pass
            if not complained:
                complained = True
                self._log.warning("waiting for this host's consumer", consumer=self._host, reason=reason)
            await asyncio.sleep(WAIT_FOR_CONSUMER)

    async def _pull(self) -> None:
        """Pull until the consumer is gone."""
        while not self._consumer_gone:
            self._ask_for_more()
            try:
                await asyncio.wait_for(self._arrived.wait(), self._machine.wake_in(time.monotonic()))
            except TimeoutError:
                if self._machine.is_dead:
                    raise ConnectionError("the server has gone silent") from None
            self._arrived.clear()
            while self._messages:
                await self._hand_over()
            if self._heartbeats:
                self._heartbeats = 0
                if self._documents.idle():
                    await self._complete()
        self._log.warning("the consumer is gone")
        await asyncio.sleep(WAIT_FOR_CONSUMER)

    def _ask_for_more(self) -> None:
        now = time.monotonic()
        while (number := self._machine.next_request(now, len(self._messages))) is not None:
            reply = f"{self._inbox}.{self._round}.{number}".encode()
            self._connection.post([publish_command(self._next, self._request, reply)])

    async def _hand_over(self) -> None:
        batch = self._documents.sort(self._messages[:MAX_DELIVERIES])
        del self._messages[:MAX_DELIVERIES]
        for subject in batch.strangers:
            self._log.warning("message refused: its subject names no document of this host", subject=subject)
        self._ask_for_more()
        if batch.deliveries:
            await uninterrupted(self._taker.deliver(batch.deliveries), lambda: self._documents.remember(batch))
        self._connection.post(publish_command(reply, body) for reply, body in batch.answers)
        self._heartbeats = 0
        if self._documents.taken(batch):
            await self._complete()

    async def _complete(self) -> None:
        self._log.info("snapshot complete")
        try:
            await uninterrupted(self._taker.snapshot_complete())
        except Exception:
            self._documents.complete_failed()
            raise

    def _on_message(self, subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> None:
        now = time.monotonic()
        if reply.startswith(b"$JS.ACK."):
            self._machine.on_message(now)
            self._messages.append(Message(subject, reply, body, headers))
        else:
            self._on_status(subject, headers, now)
        self._arrived.set()

    def _on_status(self, subject: bytes, headers: bytes | None, now: float) -> None:
        *_, turn, number = subject.split(b".")
        if not (turn.isdigit() and int(turn) == self._round and number.isdigit()):
            return
        parsed = parse_headers(headers)
        signal = self._machine.on_status(int(number), parsed.status, parsed.text, now)
        if signal is Signal.CONSUMER_GONE:
            self._consumer_gone = True
        elif signal is Signal.IDLE and not self._messages:
            self._heartbeats += 1
