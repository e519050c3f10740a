"""The agent's end of the bus: documents in, acknowledgements and measurements out, questions answered.

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

from structlog.typing import FilteringBoundLogger

from agent.bus import rpc
from agent.bus.acknowledging import Acknowledging
from agent.bus.admission import Admission
from agent.bus.client import Connection, connect, publish_command
from agent.bus.documents import Delivery, DocumentLog
from agent.bus.outbox import Outbox
from agent.bus.reading import Reading
from agent.bus.reasons import describe
from agent.bus.settings import BusSettings, is_open_to_others, shown
from protocol import codec, permissions
from protocol.acknowledgements import Acknowledgement

FIRST_BACKOFF = 0.1
LAST_BACKOFF = 5.0
"""Seconds between attempts to connect, doubling from the first to the last, with up to a half added at random."""
REPEAT_AFTER = 60.0
"""Seconds after which the same trouble is logged again."""


class Handler(Protocol):
    """Who takes the documents and knows the answers. Called by one task, one call at a time, but for `ask`."""

    async def begin_snapshot(self) -> None:
        """Prepare for a replay of every document: at the agent's start, and when the stream was made anew."""

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Take documents, in the stream's order, each newer than what was delivered of it before.

        An exception closes the connection; the same documents come again on the next one.
        """

    async def snapshot_complete(self) -> None:
        """Know that every document that exists was delivered."""

    async def ask(self, verb: str, body: bytes) -> bytes:
        """Return the answer to a question, or raise RpcError."""


class Bus:
    """The bus as one host sees it. All methods belong to the event loop's thread."""

    def __init__(
        self,
        host: str,
        settings: BusSettings,
        handler: Handler,
        log: FilteringBoundLogger,
        versions: Mapping[str, int] | None = None,
    ) -> None:
        """Connect as the settings say; `versions` are those of signed documents that were taken before."""
        self._host = host
        self._settings = settings
        self._handler = handler
        self._log = log
        self._documents = DocumentLog(host, Admission(settings.trusted_publishers, versions))
        self._outbox = Outbox()
        self._outbox_changed = asyncio.Event()
        self._outbox_empty = asyncio.Event()
        self._outbox_empty.set()
        self._connection: Connection | None = None
        self._said: dict[str, tuple[str, float]] = {}

    @property
    def connected(self) -> bool:
        """Say whether there is a connection now."""
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
        """Send a message that may be lost; say whether it was taken."""
        connection = self._connection
        return connection is not None and connection.post([publish_command(subject.encode(), payload)])

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109  the caller's limit at shutdown
        """Wait until the server has confirmed every acknowledgement, `timeout` seconds at most; say whether it has."""
        try:
            await asyncio.wait_for(self._outbox_empty.wait(), timeout)
        except TimeoutError:
            self._log.warning("acknowledgements left unconfirmed", documents=len(self._outbox))
            return False
        return True

    async def run(self) -> None:
        """Stay connected until cancelled."""
        seed = self._settings.nkey_seed_file
        if seed is not None and is_open_to_others(seed):
            self._log.warning("others can read the nkey seed; chmod 0600 it", file=seed)
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
        """Return whether the connection came to work at all."""
        try:
            connection = await connect(
                server,
                self._settings,
                name=f"droplet-agent {self._host}",
                inbox_prefix=permissions.inbox(self._host),
                on_error=self._on_error,
            )
        except Exception as error:
            self._say("connect", "no connection to the bus", server=shown(server), reason=describe(error))
            return False
        self._said.clear()
        self._connection = connection
        self._log.info("connected to the bus", server=shown(server))
        try:
            return await self._serve(connection)
        finally:
            self._connection = None
            self._outbox.disconnect()
            await connection.close()
            self._log.info("connection to the bus closed", server=shown(server))

    async def _serve(self, connection: Connection) -> bool:
        """Run what lives on one connection until it is lost; return whether it ended by that and not by a mistake."""
        reading = Reading(self._host, connection, self._documents, self._handler, self._log)
        acknowledging = Acknowledging(
            self._host, connection, self._outbox, self._outbox_changed, self._outbox_empty, self._log
        )
        jobs = [
            asyncio.create_task(connection.lost.wait()),
            asyncio.create_task(reading.run()),
            asyncio.create_task(acknowledging.run()),
            asyncio.create_task(self._answer_questions(connection)),
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            results = await asyncio.gather(*jobs, return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and not connection.lost.is_set():
            self._log.error("the connection is given up", reason=describe(failures[0]), exc_info=failures[0])
        return reading.progressed

    async def _answer_questions(self, connection: Connection) -> None:
        await rpc.serve(connection, self._host, self._handler.ask, self._log)
        await connection.lost.wait()

    async def _on_error(self, error: Exception) -> None:
        """Log what the library reports. Never raises: an exception here would end the library's read loop."""
        with contextlib.suppress(Exception):
            if self._connection is not None:
                self._say("bus", "trouble on the bus", reason=describe(error))

    def _say(self, topic: str, event: str, **details: str) -> None:
        """Log a warning, but not the same one again and again."""
        now = time.monotonic()
        text = f"{event} {details}"
        before, at = self._said.get(topic, ("", -REPEAT_AFTER))
        if text != before or now - at >= REPEAT_AFTER:
            self._said[topic] = (text, now)
            self._log.warning(event, **details)
