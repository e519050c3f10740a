"""Ensures that one agent at a time owns the objects of an instance in a network namespace.

Interfaces and attached programs are recognised by the instance's name, so a second agent with that name would take
them over, and remove what its own documents do not list. The lock is a listening socket with an abstract name: it is
the network namespace's, as the interfaces are, and goes with the process. Any user may bind such a name, so a holder
that could not run the agent is ignored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

import structlog

from agent.errors import OperatorError

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred { pid_t pid; uid_t uid; gid_t gid }: unix(7), SO_PEERCRED."""

log = structlog.get_logger()


def hold_instance(instance: str) -> socket.socket:
    """Hold an instance's name until the socket is closed; OperatorError (EADDRINUSE) if another agent holds it."""
    name = f"\0droplet-agent/{instance}"
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(held.close)
        try:
            held.bind(name)
            held.listen()  # the kernel tells others the credentials of a socket that listens
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _refuse_other_agent(instance, name)
        undo.pop_all()
    return held


def _refuse_other_agent(instance: str, name: str) -> None:
    pid, user = _holder(name)
    if user not in (0, os.geteuid()):
        log.warning("instance_lock_ignored", instance=instance, process=pid, user=user)
        return
    process = f" (process {pid})" if pid else ""
    raise OperatorError(
        errno.EADDRINUSE,
        f"another agent of instance {instance} runs in this network namespace{process} and owns its interfaces and "
        "programs: stop it, or give each agent an `instance`, `interfaces` and a network namespace of its own",
    )


def _holder(name: str) -> tuple[int, int]:
    """Return the process (0 if it is not visible) and the user that hold a name; root if they just released it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(name)
            raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except ConnectionError:
            return 0, 0
    pid, user, _ = _CREDENTIALS.unpack(raw)
    return pid, user
