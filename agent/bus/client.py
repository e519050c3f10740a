"""One connection to a NATS server. It is used once, signals when it is lost, and is then replaced by a new one.

The library's own reconnection is not used: it gives up on most server errors, and can go on with a dead read loop.
Messages of an inbox go to a plain function without a task switch each, and commands are queued without awaiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from nats.aio.client import Client

from agent.bus.settings import BusSettings, is_tls, tls_context

CONNECT_TIMEOUT = 5
"""Seconds for each step of connecting."""
PING_INTERVAL = 10
"""Seconds between pings; after two without an answer the connection is closed."""
MAX_UNSENT = 32 << 20
"""Bytes that may wait for the socket before fire-and-forget messages are dropped."""

Receive = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called with subject, reply subject, body and raw headers (None if there are none) of a message. It must not raise."""
OnError = Callable[[Exception], Awaitable[None]]


class Connection(Client):
    """A client of one server, for one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.Event()
        """Set when the connection is no longer usable, for whatever reason."""
        self._receivers: dict[int, Receive] = {}

    async def receive(self, subject: str, receiver: Receive) -> int:
        """Subscribe with a plain function that is called as messages are read; return what `release` takes."""
        subscription = await self.subscribe(subject)
        sid = next(sid for sid, known in self._subs.items() if known is subscription)
        self._receivers[sid] = receiver
        return sid

    async def release(self, sid: int) -> None:
        """End a subscription: messages that still arrive are dropped, and the server forgets requests for it."""
        subscription = self._subs.get(sid)
        if subscription is not None and self.is_connected:
            await subscription.unsubscribe()
        self._receivers.pop(sid, None)

    def post(self, commands: Iterable[bytes]) -> bool:
        """Queue complete protocol commands without waiting; return whether they were queued."""
        if self.lost.is_set() or not self.is_connected or self._pending_data_size > MAX_UNSENT:
            return False
        data = b"".join(commands)
        self._pending.append(data)
        self._pending_data_size += len(data)
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    async def close(self) -> None:
        """Send queued data and close. Never raises, and takes at most two seconds."""
        self.lost.set()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(super().close(), 2)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        receiver = self._receivers.get(sid)
        if receiver is None:
            await super()._process_msg(sid, subject, reply, data, headers or b"")
        else:
            receiver(subject, reply, data, headers)

    async def _select_next_server(self) -> None:
        """Try the one server once: the library would retry for ever, or hide the reason."""
        server = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _read_loop(self) -> None:
        try:
            await super()._read_loop()
        finally:
            self.lost.set()

    async def _flusher(self) -> None:
        try:
            await super()._flusher()
        finally:
            self.lost.set()


def publish_command(subject: bytes, body: bytes, reply: bytes = b"") -> bytes:
    """Return a PUB command. The subjects must be free of white space."""
    if reply:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop asyncio's harmless warning about how the library closes a TLS stream."""
    return "eof_received" not in record.getMessage()


async def connect(server: str, settings: BusSettings, *, name: str, inbox_prefix: str, on_error: OnError) -> Connection:
    """Return a connection to one server, or raise the error (`agent.bus.connection_errors.describe` explains it)."""
    options: dict[str, Any] = {}
    if is_tls(server):
        options["tls_handshake_first"] = True
    if is_tls(server) or settings.tls_ca_file:
        options["tls"] = await asyncio.to_thread(tls_context, settings)
    if settings.nkey_seed_file:
        options["nkeys_seed"] = settings.nkey_seed_file
    logging.getLogger("asyncio").addFilter(_is_worth_a_line)
    connection = Connection()
    # A task of its own: the library's timeouts can lose a cancellation (wait_for() before Python 3.12).
    dialling = asyncio.create_task(
        connection.connect(
            [server],
            name=name,
            error_cb=on_error,
            allow_reconnect=False,
            connect_timeout=CONNECT_TIMEOUT,
            ping_interval=PING_INTERVAL,
            inbox_prefix=inbox_prefix,
            flush_timeout=CONNECT_TIMEOUT,
            **options,
        )
    )
    try:
        await asyncio.wait([dialling])
        dialling.result()
    except TimeoutError:
        await connection.close()
        hint = "; a tls:// server has to begin with TLS" if is_tls(server) else "; if it expects TLS, write tls://"
        raise ConnectionError(f"no answer within {CONNECT_TIMEOUT} seconds{hint}") from None
    except BaseException:
        dialling.cancel()
        await asyncio.wait([dialling], timeout=1)
        await connection.close()
        raise
    return connection
