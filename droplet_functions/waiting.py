"""What a function waits for, as one descriptor: its queues, the agent's connection, and a bell for other threads."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Mapping


class Waiting:
    """An epoll instance with a bell."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._events: dict[int, int] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to do."""
        return self._epoll.fileno()

    def ring(self) -> None:
        """End a wait: for signal handlers and other threads, also after `close`."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._bell, 1)

    def silence(self) -> None:
        """Let the bell ring anew next time."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def wait(self, timeout: float) -> None:
        """Wait until there is something to do, or for some seconds."""
        self._epoll.poll(timeout)

    def watch(self, wanted: Mapping[int, int]) -> None:
        """Wait for these events by descriptor, besides the others."""
        for descriptor, events in wanted.items():
            known = self._events.get(descriptor)
            if known is None:
                self._epoll.register(descriptor, events)
            elif known != events:
                self._epoll.modify(descriptor, events)
            self._events[descriptor] = events

    def forget(self, descriptor: int) -> None:
        """Wait for a descriptor no more; before it is closed."""
        if self._events.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Let go of the descriptors."""
        bell, self._bell = self._bell, -1
        self._epoll.close()
        os.close(bell)
