"""What the agent uses of nats-py beyond its public interface. No other module touches a private member of its objects.

pyproject.toml caps nats-py below the first minor release that was not tried, and two tests hold what is relied on:
tests/unit/test_nats_private_members.py compares names and signatures, tests/system/test_nats_contract.py asks a real
server. For a new release: raise the cap, run `make lock`, run both tests, and fix this module alone.

Why the public interface does not do:

- `_process_msg`: the library makes an object of each message and wakes a task for it. An agent takes 100,000 documents
  at a time, needs their raw headers, and must notice each delivery in the order of the connection.
- `_pending`, `_pending_data_size`, `_flush_queue`: `publish()` is a coroutine per message and blocks when the server is
  slow. Acknowledgements are queued in batches, and are dropped rather than waited for.
- `_select_next_server`: the library tries its servers again and again, and in the end says only that none is left. The
  agent tries one server once and reports why that failed.
- `_read_loop`, `_flusher`: either can end while `is_connected` stays true. The agent has to know when one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.subscription import Subscription

Receive = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply subject, body and raw headers (None without) of a message. It must not raise."""


class ObservedClient(Client):
    """A client that tries one server once, sets `lost` when it is of no use, and hands raw messages to functions."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.Event()
        """Set when the connection is of no use any more, whatever the reason."""
        self.receivers: dict[int, Receive] = {}
        """Subscription id -> the function that gets its messages instead of the library's queue."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Take a message from the parser, which waits before it parses the next one."""
        receiver = self.receivers.get(sid)
        if receiver is None:
            await super()._process_msg(sid, subject, reply, data, headers or b"")
        else:
            receiver(subject, reply, data, headers)

    async def _select_next_server(self) -> None:
        """Open the socket for `connect()`: try the one server once, and let the error through."""
        server = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _read_loop(self) -> None:
        """Read until the connection ends: `connect()` makes a task of it."""
        try:
            await super()._read_loop()
        finally:
            self.lost.set()

    async def _flusher(self) -> None:
        """Write what is queued until the connection ends: `connect()` makes a task of it."""
        try:
            await super()._flusher()
        finally:
            self.lost.set()


def subscription_id(client: Client, subscription: Subscription) -> int:
    """Return the number that `_process_msg` gets with a subscription's messages."""
    return next(sid for sid, known in client._subs.items() if known is subscription)


def subscription_of(client: Client, sid: int) -> Subscription | None:
    """Return the subscription with a number, None once it has ended or the client was closed."""
    return client._subs.get(sid)


def unsent_bytes(client: Client) -> int:
    """Return how many bytes of commands wait for the socket."""
    return client._pending_data_size


def queue_commands(client: Client, data: bytes) -> None:
    """Queue complete protocol commands behind those that wait, and have the flusher write them; never waits."""
    client._pending.append(data)
    client._pending_data_size += len(data)
    if client._flush_queue is not None and client._flush_queue.empty():
        client._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
