"""Reads a socket in the event loop without ever letting a flood take the loop over, or a mistake end it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

BATCH = 64
"""Messages that are read at one time."""
MOST_BATCHES = 16
PAUSE = 0.05
"""Seconds until the next ones, when there were so many."""

log = structlog.get_logger()


class PacedReader:
    """Calls `read_one` while there is something to read; that returns False when there is nothing. Owns the socket."""

    def __init__(self, opened: socket.socket, read_one: Callable[[], bool]) -> None:
        """Begin to read in the running loop."""
        self._socket = opened
        self._read_one = read_one
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._failed = ""
        """The last mistake: the same one again, perhaps for each message that somebody sends, is logged once."""
        self._loop.add_reader(opened, self._readable)

    def close(self) -> None:
        """Stop reading and close the socket."""
        if self._resume is not None:
            self._resume.cancel()
        else:
            self._loop.remove_reader(self._socket)
        self._socket.close()

    def drain(self) -> None:
        """Read what is there now, within bounds: before somebody concludes that nothing came."""
        for _ in range(MOST_BATCHES):
            if not self._read():
                return

    def _readable(self) -> None:
        if self._read():
            self._loop.remove_reader(self._socket)
            self._resume = self._loop.call_later(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        self._loop.add_reader(self._socket, self._readable)

    def _read(self) -> bool:
        """Read a batch; return whether to pause before the next."""
        try:
            return all(self._read_one() for _ in range(BATCH))
        except Exception as error:
            if (failed := repr(error)) != self._failed:
                log.exception("socket_read_failed", socket=str(self._socket))
            self._failed = failed
            return True
