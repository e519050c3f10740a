"""Runs things inside a network namespace: a command, a function, a coroutine.

Threads enter (setns(2) moves one thread) and end there; the calling thread never moves. Namespaces are named under
/run/netns, as ip-netns(8) does. Commands are entered by nsenter(1), which keeps the mount namespace, and with it bpffs.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

NAMED = Path("/run/netns")
CLONE_NEWNET = 0x40000000

_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


def entered(namespace: str, argv: list[str]) -> list[str]:
    """Return the command line that runs `argv` in a namespace, as the same process (nsenter does not fork)."""
    return ["nsenter", f"--net={NAMED / namespace}", "--", *argv]


def run_in(namespace: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a namespace and return its output as text, whatever its exit code."""
    return subprocess.run(entered(namespace, argv), capture_output=True, text=True, check=False)


def enter(namespace: str) -> None:
    """Move the calling thread into a namespace; OSError when there is none."""
    descriptor = os.open(NAMED / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
    finally:
        os.close(descriptor)


def call_in(namespace: str, function: Callable[[], _T]) -> _T:
    """Call a function in a thread inside a namespace, and return or raise what it does: for opening sockets."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter(namespace)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=f"in-{namespace}", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class _Loop:
    """One event loop in a thread inside a namespace, which can be cancelled from outside."""

    def __init__(self, namespace: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.namespace = namespace
        self.make = make
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def body(self) -> None:
        try:
            enter(self.namespace)
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self.make())
        self.result = await self.task

    def cancel(self) -> None:
        if self.loop is not None and self.task is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.task.cancel)


def run_coroutine_in(namespace: str, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in an event loop of its own inside a namespace; Ctrl-C cancels it and is raised again."""
    running = _Loop(namespace, make)
    thread = threading.Thread(target=running.body, name=f"loop-{namespace}", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        running.cancel()
        thread.join(5)
        raise
    if running.error is not None:
        raise running.error
    result: _T = running.result
    return result
