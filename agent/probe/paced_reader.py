"""Reads a socket in the event loop so that neither a flood can occupy the loop nor an exception end the reading."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

BATCH = 64
"""Messages that are read in one go."""
MOST_BATCHES = 16
PAUSE = 0.05
"""Seconds until the next batch, if a batch was full."""

log = structlog.get_logger()


class PacedReader:
    """Calls `read_one` as long as it returns True; False means that nothing is left to read. Owns the socket."""

    def __init__(self, opened: socket.socket, read_one: Callable[[], bool]) -> None:
        """Begin to read in the running loop."""
        self._socket = opened
        self._read_one = read_one
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._failed = ""
        """The last exception. If it recurs, perhaps for each message that someone sends, it is logged only once."""
        self._loop.add_reader(opened, self._readable)

    def close(self) -> None:
        """Stop reading and close the socket."""
        if self._resume is not None:
            self._resume.cancel()
        else:
            self._loop.remove_reader(self._socket)
        self._socket.close()

    def drain(self) -> None:
        """Read the available messages, up to a limit, before the caller concludes that none arrived."""
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
