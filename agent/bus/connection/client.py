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

from agent.bus.connection.nats_internals import (
    ObservedClient,
    Receive,
    queue_commands,
    subscription_id,
    subscription_of,
    unsent_bytes,
)
from agent.bus.connection.settings import BusSettings, is_tls, tls_context

CONNECT_TIMEOUT = 5
"""Seconds for each step of connecting."""
PING_INTERVAL = 10
"""Seconds between pings; after two without an answer the connection is closed."""
MAX_UNSENT = 32 << 20
"""Bytes that may wait for the socket before fire-and-forget messages are dropped."""

OnError = Callable[[Exception], Awaitable[None]]


class Connection(ObservedClient):
    """A client of one server, for one connection."""

    async def receive(self, subject: str, receiver: Receive) -> int:
        """Subscribe with a plain function that is called as messages are read; return what `release` takes."""
        sid = subscription_id(self, await self.subscribe(subject))
        self.receivers[sid] = receiver
        return sid

    async def release(self, sid: int) -> None:
        """End a subscription: what still comes by it is dropped, and the server forgets requests for it."""
        subscription = subscription_of(self, sid)
        if subscription is not None and self.is_connected:
            await subscription.unsubscribe()
        self.receivers.pop(sid, None)

    def post(self, commands: Iterable[bytes]) -> bool:
        """Queue complete protocol commands without waiting; say whether they were taken."""
        if self.lost.is_set() or not self.is_connected or unsent_bytes(self) > MAX_UNSENT:
            return False
        queue_commands(self, b"".join(commands))
        return True

    async def close(self) -> None:
        """Send queued data and close. Never raises, and takes at most two seconds."""
        self.lost.set()
        # Not wait_for(), which before Python 3.12 loses a cancellation that comes as the inner task ends.
        closing = asyncio.create_task(super().close())
        try:
            await asyncio.wait([closing], timeout=2)
        finally:
            closing.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            closing.result()


def publish_command(subject: bytes, body: bytes, reply: bytes = b"") -> bytes:
    """Return a PUB command. The subjects must be free of white space."""
    if reply:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop asyncio's harmless warning about how the library closes a TLS stream."""
    return "eof_received" not in record.getMessage()


async def connect(server: str, settings: BusSettings, *, name: str, inbox_prefix: str, on_error: OnError) -> Connection:
    """Return a connection to one server, or raise the error (`agent.bus.connection.errors.describe` explains it)."""
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
