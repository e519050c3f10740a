"""Reads a host's documents on one connection: resets the consumer, pulls, calls the handler, acknowledges.

A consumer that is missing, unusable, shared with another client, or that holds documents back is a fault. None of
these removes a document.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import structlog
from nats.errors import Error as NatsError

from agent.bus.connection.client import Connection, publish_command
from agent.bus.connection.jetstream import ConsumerInfo, parse_consumer_info, reset_request
from agent.bus.connection.tasks import uninterrupted
from agent.bus.consumer.documents import DocumentLog, Message, ResetReason
from agent.bus.consumer.faults import (
    ConsumerFaults,
    consumer_missing,
    consumer_shared,
    consumer_unusable,
    refused_subjects,
    unusable_settings,
)
from agent.bus.consumer.polling import PollTimer
from agent.bus.consumer.pull_session import PullSession
from agent.bus.consumer.snapshot import ConsumerConflicts
from agent.core.config.delivery import Delivery
from agent.core.faults.tracker import ReportFaults
from protocol import streams
from protocol.status import Fault

log = structlog.get_logger()

API_TIMEOUT = 2.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 4.0
"""Seconds between attempts to reset a consumer that is missing or unusable, doubling from the first to the longest."""
MAX_DELIVERIES = 1024
"""The most messages in one call of the handler."""

PublishEvent = Callable[[str, tuple[str, ...]], None]
"""Called with an event's kind and lines."""
Record = Callable[[Sequence[Message]], None]
"""Called with messages as they were delivered."""


def record_nothing(_messages: Sequence[Message]) -> None:
    """Discard the messages of an agent that records nothing."""


class SnapshotHandler(Protocol):
    """The part of a handler that is needed here."""

    async def begin_snapshot(self) -> None:
        """See `agent.bus.bus.Handler`."""

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """See `agent.bus.bus.Handler`."""

    async def snapshot_complete(self) -> None:
        """See `agent.bus.bus.Handler`."""


class Restart(Exception):  # noqa: N818  not an error: the consumer is reset and reading goes on
    """The consumer must be reset, after a pause in seconds."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(pause)
        self.pause = pause


class Shared(NamedTuple):
    """State shared by all connections of one agent: what was delivered, and whether another client reads too."""

    documents: DocumentLog
    conflicts: ConsumerConflicts


class ConsumerReader:
    """The pull loop of one connection."""

    def __init__(
        self,
        host: str,
        connection: Connection,
        shared: Shared,
        handler: SnapshotHandler,
        report: ReportFaults,
        publish_event: PublishEvent,
        record: Record = record_nothing,
    ) -> None:
        self._host = host
        self._connection = connection
        self._documents, self._conflicts = shared
        self._handler = handler
        self._report = report
        self._publish_event = publish_event
        self._record = record
        self._session = PullSession(host, connection)
        self._poll = PollTimer(time.monotonic())
        self._faults = ConsumerFaults(host)
        self.progressed = False
        """Whether the consumer answered at least once."""

    async def run(self) -> None:
        """Read until cancelled, the connection is lost, or the handler raises."""
        await self._connection.receive(streams.pause_subject(self._host), self._on_advisory)
        while not self._connection.lost.is_set():
            try:
                await self._begin()
                self.progressed = True
                await self._pull()
            except Restart as restart:
                await self._session.close()
                self._report_faults()
                await asyncio.sleep(restart.pause)

    def _on_advisory(self, *_message: object) -> None:
        """Ask for the consumer, whatever the message says: any client may have sent it."""
        self._poll.soon(time.monotonic())
        self._session.wake()

    def _report_faults(self) -> None:
        faults = self._faults.standing()
        now = time.monotonic()
        if self._conflicts.active(now):
            faults.append(consumer_shared(self._host, self._conflicts.detail(now)))
        self._report("consumer", [*faults, *refused_subjects(self._documents.refused)])

    # The beginning of a round

    async def _begin(self) -> None:
        """Make the consumer deliver the messages not yet handled, or all if this consumer is new."""
        info = await self._reset()
        self._faults.unusable = None
        self._session = PullSession(self._host, self._connection)
        await self._session.open()
        if self._documents.begin(info):
            log.info("snapshot_began", messages=info.num_pending)
            try:
                await uninterrupted(self._handler.begin_snapshot())
            except Exception:
                self._documents.void()
                raise
        self._faults.note_pause(info, self._documents.waiting, in_snapshot=self._documents.in_snapshot)
        self._poll.later(time.monotonic(), calm=not self._documents.waiting and self._faults.withheld is None)
        await self._conclude()

    async def _reset(self) -> ConsumerInfo:
        """Return the reset answer of a usable consumer; wait as long as it takes until there is one."""
        wait = FIRST_WAIT
        while True:
            info = await self._ask(streams.reset_subject(self._host), reset_request(self._documents.reset_to))
            unusable = await self._why_unusable(info)
            if self._connection.lost.is_set():
                raise ConnectionError("the connection was lost")
            self._faults.unusable = unusable
            if info is not None and unusable is None:
                if self._documents.is_known(info.created) or self._documents.reset_to == 1:
                    return info
                log.warning("consumer_recreated", consumer=self._host, created=info.created)
                self._documents.void()
                continue
            self._report_faults()
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _ask(self, subject: str, body: bytes = b"") -> ConsumerInfo | None:
        """Ask the server about the consumer; None without an answer, as when a consumer to be reset does not exist."""
        try:
            answer = await self._connection.request(subject, body, timeout=API_TIMEOUT)
        except (NatsError, TimeoutError):
            return None
        return parse_consumer_info(answer.data)

    async def _why_unusable(self, info: ConsumerInfo | None) -> Fault | None:
        """Return why a consumer that gave this answer to a reset is unusable, None if it is usable."""
        refusal = (
            "a reset gets no answer: a cluster without a leader, a server older than 2.14, or one without JetStream"
        )
        if info is not None and info.error is None:
            reasons = unusable_settings(info, self._host)
            return self._unusable(reasons) if reasons else None
        if info is not None and info.error is not None:
            refusal = info.error.description
        found = await self._ask(streams.info_subject(self._host))
        if found is None:
            return consumer_missing(self._host, refusal)
        if found.error is not None:
            return consumer_missing(self._host, found.error.description)
        reasons = unusable_settings(found, self._host)
        if info is None and not reasons:
            return consumer_missing(self._host, refusal)
        return self._unusable(reasons or (f"it refuses a reset: {refusal}",))

    def _unusable(self, reasons: Sequence[str]) -> Fault:
        """Return the fault. Everything that such a consumer delivered is read again from the next one."""
        self._documents.void()
        return consumer_unusable(self._host, reasons)

    # A round

    async def _pull(self) -> None:
        """Pull until the consumer has to be reset."""
        while True:
            self._session.request_more()
            await self._session.wait(self._poll.wake_in(time.monotonic()))
            while self._session.messages:
                await self._hand_over()
            self._handle_statuses()
            if self._poll.due(time.monotonic()):
                await self._poll_consumer()
            await self._conclude()
            self._check_duplicate()

    async def _hand_over(self) -> None:
        waiting = self._session.messages
        batch = self._documents.sort(waiting[:MAX_DELIVERIES])
        self._record(waiting[:MAX_DELIVERIES])
        del waiting[:MAX_DELIVERIES]
        self._session.request_more()
        if batch.deliveries:
            await uninterrupted(self._handler.deliver(batch.deliveries), lambda: self._documents.remember(batch))
        self._connection.post(publish_command(reply, body) for reply, body in batch.acks)
        self._report_refused(batch.foreign_subjects, batch.refused)
        self._documents.remember(batch)
        self._faults.withheld = self._faults.refused = None
        self._session.last_delivery = None
        self._poll.later(time.monotonic(), calm=not self._documents.waiting)
        if batch.reset_reason is not None:
            self._reset_for(batch.reset_reason)

    def _report_refused(self, foreign: Sequence[str], refused: Sequence[str]) -> None:
        """Log messages that are not documents, and publish an event if a controller may expect an acknowledgement."""
        for subject in foreign:
            log.warning("message_refused", subject=subject, reason="it was not delivered by this host's consumer")
        new = tuple(subject for subject in refused if subject not in self._documents.refused)
        if new:
            self._publish_event("refused_subject", new)

    def _reset_for(self, reset_reason: ResetReason) -> None:
        """Raise so that the consumer is reset."""
        if reset_reason is ResetReason.GAP:
            pause = self._conflicts.record(time.monotonic(), random.random())  # noqa: S311  jitter is no secret
            log.warning("consumer_sequence_gap", consumer=self._host, pause=round(pause, 1))
            raise Restart(pause)
        log.warning("snapshot_voided", reason=reset_reason.name.lower())
        self._documents.void()
        raise Restart(0.0 if reset_reason is ResetReason.WENT_BACK else FIRST_WAIT)

    def _check_duplicate(self) -> None:
        """Read everything anew once another agent of this host's name has gone.

        The stored acknowledgements may be the other agent's; after a snapshot each document is acknowledged again.
        """
        if self._conflicts.duplicate_left(time.monotonic()):
            log.info("duplicate_agent_gone", consumer=self._host)
            self._documents.void()
            raise Restart(0.0)

    def _handle_statuses(self) -> None:
        """Act on the server's statuses; on those about deliveries only when all received messages are handled."""
        if self._session.gone:
            log.warning("consumer_gone", consumer=self._host)
            raise Restart(FIRST_WAIT)
        if self._session.refusal:
            self._faults.refused = self._unusable((f"it refuses requests: {self._session.refusal}",))
            raise Restart(LONGEST_WAIT)
        last, self._session.last_delivery = self._session.last_delivery, None
        self._faults.refused = None if last is not None else self._faults.refused
        if last is not None and not self._session.messages:
            reset_reason = self._documents.idle(last)
            if reset_reason is not None:
                self._reset_for(reset_reason)

    async def _poll_consumer(self) -> None:
        """Ask the server about the consumer's state and pending messages: silence proves nothing."""
        info = await self._ask(streams.info_subject(self._host))
        if self._session.messages:
            return
        if info is None:
            self._faults.note_pause(
                ConsumerInfo(), self._documents.waiting, in_snapshot=self._documents.in_snapshot, silent=True
            )
            self._poll.again(time.monotonic(), calm=not self._documents.waiting)
            return
        if info.error is not None:
            self._faults.unusable = consumer_missing(self._host, info.error.description)
            raise Restart(FIRST_WAIT)
        reasons = unusable_settings(info, self._host)
        if reasons:
            self._faults.unusable = self._unusable(reasons)
            raise Restart(FIRST_WAIT)
        self._documents.take_info(info)
        waiting = self._documents.waiting or self._poll.stuck(info.num_pending)
        self._faults.note_pause(info, waiting, in_snapshot=self._documents.in_snapshot, silent=True)
        calm = self._faults.withheld is None and not self._documents.waiting and not info.num_pending
        self._poll.again(time.monotonic(), calm=calm)

    async def _conclude(self) -> None:
        """Report the snapshot's completion, or begin it again if the stream turns out to be another one."""
        if self._documents.went_back:
            self._reset_for(ResetReason.WENT_BACK)
        if self._documents.is_short:
            self._reset_for(ResetReason.SHORT)
        if self._documents.completed():
            log.info("snapshot_complete")
            try:
                await uninterrupted(self._handler.snapshot_complete())
            except Exception:
                self._documents.complete_failed()
                raise
        self._report_faults()
