"""Processes with a process id of the test's choice: clone3(2) with `set_tid`, struct clone_args of linux/sched.h."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CLONE3 = 435
CLONE_NEWNET = 0x40000000
_libc = ctypes.PyDLL(None, use_errno=True)  # it keeps the interpreter's lock, which the child needs
_ARGUMENTS = struct.Struct("=11Q")


def _fork_as(pid: int) -> int:
    """Fork to a free process id; 0 for any. Return as fork(2) does."""
    wanted = ctypes.c_int(pid)
    set_tid = (ctypes.addressof(wanted), 1) if pid else (0, 0)
    packed = _ARGUMENTS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, *set_tid, 0)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    made = int(_libc.syscall(CLONE3, buffer, ctypes.c_size_t(len(packed))))
    if made < 0:
        raise OSError(ctypes.get_errno(), f"clone3 to process id {pid}: {os.strerror(ctypes.get_errno())}")
    return made


ATTEMPTS, PATIENCE = 5, 10.0
"""How often, and for how many seconds each, a started process is waited for."""


def start_in(namespace: str, pid: int = 0, *command: str, born_in: str = "") -> int:
    """Start `sleep`, or a command, in a network namespace by name, under a process id; return that. End it by `end`.

    The process begins in the namespace `born_in` and moves; by default it begins where it stays. Until it has moved,
    an agent that waits for this process id sees it there.
    A fork of a process with threads may inherit a lock that another thread held, and then never gets on: it is tried
    again.
    """
    for _ in range(ATTEMPTS):
        made = _start_in(namespace, pid, command, born_in or namespace)
        inside = Path("/run/netns", namespace).stat().st_ino
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if Path(f"/proc/{made}/ns/net").stat().st_ino == inside:
                return made
            time.sleep(0.002)
        end(made)
    raise AssertionError("the process never entered its namespace")


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Move this thread into a network namespace for the time of a block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(Path("/run/netns", namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(other)
        yield
    finally:
        _enter(home)
        os.close(other)
        os.close(home)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def _start_in(namespace: str, pid: int, command: tuple[str, ...], born_in: str) -> int:
    descriptor = os.open(Path("/run/netns", namespace), os.O_RDONLY | os.O_CLOEXEC)
    with _inside(born_in):
        made = _fork_as(pid)
        if made == 0:
            _become(descriptor, command)
    os.close(descriptor)
    return made


def _become(descriptor: int, command: tuple[str, ...]) -> None:
    """Enter the namespace and run the command, in the child; never returns."""
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) == 0:
            argv = command or ("sleep", "600")
            os.execvp(argv[0], argv)
    finally:
        os._exit(1)


def end(pid: int) -> None:
    """End a process of `start_in`, and free its process id."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def living_in(namespace: str, pid: int = 0, *command: str) -> Iterator[int]:
    """Have a process in a namespace for the time of a block, which may end it before."""
    made = start_in(namespace, pid, *command)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            end(made)


def reuse(pid: int, namespace: str) -> int:
    """End a process, and start another one in a namespace under its id, later by a clock tick at the least."""
    end(pid)
    time.sleep(0.02)  # the kernel counts a process's start in ticks of 10 ms
    try:
        return start_in(namespace, pid)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0)
        raise AssertionError(f"the process id was taken by another process: {name}") from error


def namespace_of(pid: int) -> int:
    """Return the inode of a process's network namespace."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


@contextlib.contextmanager
def linked(name: str, pid: int) -> Iterator[Callable[[], None]]:
    """Have /run/netns/NAME be a symbolic link to a process's namespace; yield what makes it again."""
    link = Path("/run/netns", name)

    def make() -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(f"/proc/{pid}/ns/net")

    make()
    try:
        yield make
    finally:
        link.unlink()
