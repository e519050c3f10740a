"""The agent's end of the bus: receives documents, sends acknowledgements and measurements, answers queries.

`Bus.run` keeps one connection at a time; when it is lost, for whatever reason, everything on it is built anew. What has
to outlive a connection is in the `DocumentLog` and the `Outbox`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
from nats.errors import Error as NatsError

from agent.bus import rpc
from agent.bus.ack_publisher import AckPublisher
from agent.bus.connection.client import Connection, connect, publish_command
from agent.bus.connection.errors import describe
from agent.bus.connection.faults import VIOLATION_STANDS, ConnectionFaults
from agent.bus.connection.settings import BusSettings, is_open_to_others, shown
from agent.bus.connection.tasks import end
from agent.bus.consumer.admission import Admission
from agent.bus.consumer.documents import DocumentLog
from agent.bus.consumer.reader import ConsumerReader, Record, Shared, record_nothing
from agent.bus.consumer.snapshot import ConsumerConflicts
from agent.bus.outbox import Outbox
from agent.core.config.delivery import Delivery
from agent.core.faults.tracker import ReportFaults
from protocol import codec, permissions, subjects
from protocol.acknowledgements import Acknowledgement
from protocol.signed_versions import SignedVersion
from protocol.status import AgentState, Event, Status

log = structlog.get_logger()

FIRST_BACKOFF = 0.1
LAST_BACKOFF = 5.0
"""Seconds between attempts to connect, doubling from the first to the last, with up to a half added at random."""


class Handler(Protocol):
    """Receives the documents and answers queries. One task makes all calls except `ask`, one at a time."""

    async def begin_snapshot(self) -> None:
        """Prepare for a replay of every document: at the agent's start, and after the stream was replaced."""

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Handle documents, in the stream's order, each newer than what was delivered for it before.

        An exception closes the connection; the same documents come again on the next one.
        """

    async def snapshot_complete(self) -> None:
        """Handle the end of the snapshot: every existing document was delivered."""

    async def ask(self, verb: str, body: bytes) -> bytes:
        """Return the answer to a query, or raise RpcError."""


class Bus:
    """The bus as one host sees it. Call all methods in the event loop's thread."""

    def __init__(
        self,
        host: str,
        settings: BusSettings,
        handler: Handler,
        report: ReportFaults = lambda _source, _faults: None,
        boot: str = "",
        versions: Mapping[str, SignedVersion] | None = None,
    ) -> None:
        """Report faults to `report`; `boot` distinguishes this agent's status from that of another agent with its name.

        `versions` are those of signed documents that were taken before.
        """
        self._host = host
        self._settings = settings
        self._handler = handler
        self._report = report
        self._boot = boot
        self._shared = Shared(DocumentLog(host, Admission(settings.trusted_publishers, versions)), ConsumerConflicts())
        self.record: Record = record_nothing
        """Receives every message that is read, before the handler does."""
        self._outbox = Outbox()
        self._outbox_changed = asyncio.Event()
        self._outbox_empty = asyncio.Event()
        self._outbox_empty.set()
        self._connection: Connection | None = None
        self._faults = ConnectionFaults(host, settings.servers, report)

    @property
    def connected(self) -> bool:
        """Return whether there is a connection now."""
        return self._connection is not None and not self._connection.lost.is_set()

    @property
    def unconfirmed(self) -> int:
        """Return how many documents' acknowledgements the server has not confirmed."""
        return len(self._outbox)

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        """Send an acknowledgement until the server has stored it, or a newer one of the document replaces it."""
        self._outbox.put(acknowledgement.document, codec.encode(acknowledgement))
        self._outbox_empty.clear()
        self._outbox_changed.set()

    def publish(self, subject: str, payload: bytes) -> bool:
        """Send a message that may be lost; return whether it was queued."""
        connection = self._connection
        return connection is not None and connection.post([publish_command(subject.encode(), payload)])

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109  the caller's limit at shutdown
        """Wait at most `timeout` seconds for the server to confirm every acknowledgement; return whether it has."""
        try:
            async with asyncio.timeout(timeout):
                await self._outbox_empty.wait()
        except TimeoutError:
            log.warning("acknowledgements_unconfirmed", documents=len(self._outbox))
            return False
        return True

    async def run(self) -> None:
        """Stay connected until cancelled."""
        seed = self._settings.nkey_seed_file
        if seed is not None and is_open_to_others(seed):
            log.warning("nkey_seed_readable_by_others", file=seed, remedy="chmod 0600")
        backoff = FIRST_BACKOFF
        turn = 0
        while True:
            server = self._settings.servers[turn % len(self._settings.servers)]
            turn += 1
            if await self._connect_and_serve(server):
                backoff = FIRST_BACKOFF
                turn -= 1
            await asyncio.sleep(backoff * (1 + random.random() / 2))  # noqa: S311  jitter is no secret
            backoff = min(LAST_BACKOFF, backoff * 2)

    async def _connect_and_serve(self, server: str) -> bool:
        """Return whether the connection ever worked."""
        try:
            connection = await connect(
                server,
                self._settings,
                name=f"droplet-agent {self._host}",
                inbox_prefix=permissions.inbox(self._host),
                on_error=self._on_error,
            )
        except Exception as error:
            self._faults.disconnected(server, describe(error))
            return False
        self._faults.connected()
        self._connection = connection
        log.info("bus_connected", server=shown(server))
        try:
            worked, reason = await self._serve(server, connection)
            self._faults.disconnected(server, reason)
            return worked
        finally:
            self._connection = None
            self._outbox.disconnect()
            await connection.close()
            log.info("bus_connection_closed", server=shown(server))

    async def _serve(self, server: str, connection: Connection) -> tuple[bool, str]:
        """Run one connection's tasks until it ends; return whether it ever worked, and why it ended."""
        reader = ConsumerReader(
            self._host,
            connection,
            self._shared,
            self._handler,
            self._report,
            self._publish_event,
            self.record,
        )
        ack_publisher = AckPublisher(
            self._host, connection, self._outbox, self._outbox_changed, self._outbox_empty, self._report
        )
        jobs = [
            asyncio.create_task(connection.lost.wait()),
            asyncio.create_task(reader.run()),
            asyncio.create_task(ack_publisher.run()),
            asyncio.create_task(self._answer_questions(connection)),
            asyncio.create_task(self._watch_for_duplicates(connection)),
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(jobs)
        results = await asyncio.gather(*jobs, return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and not connection.lost.is_set():
            reason = describe(failures[0])
            if not isinstance(failures[0], ConnectionError | NatsError):
                log.error("bus_connection_failed", server=shown(server), reason=reason, exc_info=failures[0])
            return reader.progressed, reason
        return reader.progressed, "the connection was lost"

    async def _answer_questions(self, connection: Connection) -> None:
        await rpc.serve(connection, self._host, self._handler.ask)
        await connection.lost.wait()

    async def _watch_for_duplicates(self, connection: Connection) -> None:
        """Subscribe to the status messages of this host's name: those with another boot id come from another agent."""
        await connection.receive(subjects.status(self._host), self._on_status)
        while not connection.lost.is_set():
            self._faults.report_violations()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(VIOLATION_STANDS / 6):
                    await connection.lost.wait()

    def _on_status(self, _subject: bytes, _reply: bytes, body: bytes, _headers: bytes | None) -> None:
        """Record a status. Nothing may be raised, whatever the message: it would end the library's read loop."""
        with contextlib.suppress(Exception):
            status = codec.decode(body, Status)
            if self._boot and status.boot != self._boot and status.state is not AgentState.STOPPING:
                self._shared.conflicts.saw_duplicate(time.monotonic())

    def _publish_event(self, kind: str, detail: tuple[str, ...]) -> None:
        self.publish(subjects.event(self._host, kind), codec.encode(Event(self._host, kind, time.time(), detail)))

    async def _on_error(self, error: Exception) -> None:
        """Report an error from the library. Never raises: an exception here would end the library's read loop."""
        with contextlib.suppress(Exception):
            if self._connection is not None:
                self._faults.on_error(error)
