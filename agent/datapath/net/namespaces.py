"""Network namespaces: names them, opens them, and opens sockets inside them.

A socket belongs to the namespace in which it was opened, whatever thread uses it later. So a throw-away thread enters
the namespace (setns(2) moves one thread), opens the sockets, and ends: the agent's own threads never move. Never
creates or removes a namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from pyroute2.netlink import NETLINK_EXT_ACK, SOL_NETLINK

from agent.core.model.process_bindings import Process
from agent.core.plan.remedies import Step
from agent.errors import OperatorError, kernel_step

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STARTED = 19
"""Index of `starttime` (field 22 of /proc/PID/stat, proc(5)) behind the process's name."""
_OF_PROCESS = re.compile(r"(?P<process>.*/\d+)/(?P<file>(?:task/\d+/)?ns/net):\[\d+\]")
"""What a path to a process's network namespace resolves to."""

_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class NamespaceSockets:
    """Sockets that belong to one namespace: two for rtnetlink, and a datagram socket that ioctls are sent through."""

    netlink: socket.socket
    query: socket.socket
    control: socket.socket


def namespace_path(namespace: str) -> Path:
    """Return the file of a namespace: a name under /run/netns, an absolute path, or a pid in decimal digits.

    A name of digits alone is a pid; a namespace so named is reached by its absolute path.
    """
    if namespace.startswith("/"):
        return Path(namespace)
    if namespace.isdecimal():
        return Path("/proc", namespace, "ns/net")
    if not namespace or "/" in namespace or namespace in (".", ".."):
        raise OSError(errno.EINVAL, "this is not a name of a network namespace")
    return NAMED / namespace


class OpenedNamespace(NamedTuple):
    """An open namespace. If it was named by a process: that process, and the symbolic link to it, if any."""

    descriptor: int
    process: Process | None = None
    link: str = ""


@contextlib.contextmanager
def opened_namespace(namespace: str) -> Iterator[int]:
    """Yield a file descriptor of the namespace; OperatorError (ENOENT) if there is none.

    EINVAL: no namespace, EPERM: the agent's own, which belongs to no tenant. The path is a document's, so
    that nothing is opened before it is known to be a namespace: a FIFO would block, a device would do what it does.
    """
    with kernel_step(Step.ENTER_NAMESPACE, namespace):
        descriptor = _open(namespace_path(namespace), namespace)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_with_process(namespace: str) -> Iterator[OpenedNamespace]:
    """Yield the namespace as `opened_namespace` does, with the process that it was named by, if any.

    Both are of the same process: its folder in /proc is opened once, and shows nothing of a later one with its id.
    """
    with kernel_step(Step.ENTER_NAMESPACE, namespace):
        opened = _open_with_process(namespace)
    try:
        yield opened
    finally:
        os.close(opened.descriptor)


def _open_with_process(namespace: str) -> OpenedNamespace:
    path = namespace_path(namespace)
    of_process = _OF_PROCESS.fullmatch(os.path.realpath(path))
    if of_process is None:
        return OpenedNamespace(_open(path, namespace))
    folder = os.open(of_process["process"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        started = _start_of(folder)
        descriptor = _open(of_process["file"], namespace, folder)
    finally:
        os.close(folder)
    found = os.fstat(descriptor)
    process = Process(BOOT_ID.read_text().strip(), started, found.st_dev, found.st_ino)
    return OpenedNamespace(descriptor, process, _link_at(path))


def _start_of(folder: int) -> int:
    """Return the start time of the process of a folder in /proc, in clock ticks since boot."""
    descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return int(os.read(descriptor, 4096).rpartition(b")")[2].split()[STARTED])
    finally:
        os.close(descriptor)


def _link_at(path: Path) -> str:
    """Return the identity of a symbolic link, which differs after it is recreated; empty if it is not a link."""
    found = path.lstat()
    of_namespace = path.is_relative_to("/proc") or not stat.S_ISLNK(found.st_mode)
    return "" if of_namespace else f"link {found.st_dev}:{found.st_ino}:{found.st_ctime_ns}"


def _open(path: Path | str, namespace: str, folder: int | None = None) -> int:
    name = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    try:
        found, own = os.fstat(name), Path("/proc/self/ns/net").stat()
        if found.st_dev != own.st_dev:  # all namespaces are files of one file system
            raise OSError(errno.EINVAL, "this file is not a namespace")
        if found.st_ino == own.st_ino:
            message = "this is the host's own network namespace: an endpoint needs one of its tenant's"
            raise OperatorError(errno.EPERM, message, namespace)
        return os.open(f"/proc/self/fd/{name}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(name)


def in_namespace(descriptor: int, function: Callable[[], _T]) -> _T:
    """Call `function` in a thread that has entered the namespace, and return or raise what it does.

    Blocks the caller: for opening a socket, not for work. OSError (EINVAL) when the file is no network namespace.
    """

    def enter_and_call() -> _T:
        enter_in_this_thread(descriptor)
        return function()

    return run_in_own_thread(enter_and_call)


def enter_in_this_thread(descriptor: int) -> None:
    """Move the calling thread, which is to end soon, into the namespace."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


def run_in_own_thread(function: Callable[[], _T]) -> _T:
    """Call `function` in a thread of its own, which it may move elsewhere, and return or raise what it does."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="enter-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def open_netlink_socket() -> socket.socket:
    """Open an rtnetlink socket in the calling thread's namespace, with the kernel's error texts on."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return opened


def open_control_socket() -> socket.socket:
    """Open a socket in the calling thread's namespace for ioctls on its interfaces."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def open_sockets_in(descriptor: int) -> NamespaceSockets:
    """Open the sockets inside the namespace; whoever calls closes them."""
    return in_namespace(descriptor, _open_sockets)


def _open_sockets() -> NamespaceSockets:
    with contextlib.ExitStack() as undo:
        netlink, query = (undo.enter_context(open_netlink_socket()) for _ in range(2))
        control = undo.enter_context(open_control_socket())
        undo.pop_all()
        return NamespaceSockets(netlink, query, control)
