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
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.datapath.told import ToldError

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")
SOL_NETLINK = 270
NETLINK_EXT_ACK = 11

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
        raise ToldError(errno.EINVAL, "not a name of a network namespace", namespace)
    return NAMED / namespace


@contextlib.contextmanager
def opened_namespace(namespace: str) -> Iterator[int]:
    """Yield a file descriptor of the namespace; OSError (ENOENT) when there is none.

    EINVAL: no namespace, EPERM: the agent's own, which belongs to no tenant. The path is a document's, so
    that nothing is opened before it is known to be a namespace: a FIFO would block, a device would do what it does.
    """
    descriptor = _open_namespace(namespace)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_namespace(namespace: str) -> int:
    name = os.open(namespace_path(namespace), os.O_PATH | os.O_CLOEXEC)
    try:
        found, own = os.fstat(name), Path("/proc/self/ns/net").stat()
        if found.st_dev != own.st_dev:  # all namespaces are files of one file system
            raise ToldError(errno.EINVAL, "not a network namespace", namespace)
        if found.st_ino == own.st_ino:
            message = "this is the host's own network namespace: an endpoint needs one of its tenant's"
            raise ToldError(errno.EPERM, message, namespace)
        return os.open(f"/proc/self/fd/{name}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(name)


def in_namespace(descriptor: int, function: Callable[[], _T]) -> _T:
    """Call `function` in a thread that has entered the namespace, and return or raise what it does.

    Blocks the caller: for opening a socket, not for work. OSError (EINVAL) when the file is no network namespace.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "setns")
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_call, name="enter-namespace")
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
