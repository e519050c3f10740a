"""The Unix socket to the agent: connects without waiting, sends and receives whole messages with descriptors."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

from droplet_functions import handover
from droplet_functions.errors import HandoverError, NoAgentError
from droplet_functions.handover import LONGEST_MESSAGE, MOST_QUEUES, Message

FOLDER = Path("/run/droplet/functions")
"""Where agents listen, one socket for each function: `<name>.sock`."""
VARIABLE = "DROPLET_FUNCTION_SOCKET"


class Arrived(NamedTuple):
    """A message and the descriptors that came with it. Whoever takes it owns them."""

    message: Message
    descriptors: tuple[int, ...]


def default_path(name: str) -> Path:
    """Return where the agent listens for a function: DROPLET_FUNCTION_SOCKET, or its socket in FOLDER."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else FOLDER / f"{name}.sock"


class Channel:
    """A connection to the agent. `ended` when the other side is gone."""

    def __init__(self, path: Path, function: str) -> None:
        """Connect and ask for the function's sockets; NoAgentError when nothing listens there."""
        self.ended = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.connect(str(path))
            self._socket.send(handover.hello(function))
        except OSError as error:
            self._socket.close()
            raise NoAgentError(f"{path}: {error.strerror or error}: {_advice(error, function)}") from error

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Send a message, if the other side is still there."""
        try:
            self._socket.send(message)
        except OSError:
            self.ended = True

    def receive(self) -> Arrived | None:
        """Return the next message, or None while there is none; HandoverError when it is malformed."""
        try:
            raw, descriptors, flags, _ = socket.recv_fds(
                self._socket, LONGEST_MESSAGE, MOST_QUEUES + 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError:
            self.ended = True
            return None
        try:
            if not raw:
                self.ended = True
                close_all(descriptors)
                return None
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise HandoverError("the agent's message is too long, or this process may not open so many descriptors")
            return Arrived(handover.decode(raw), tuple(descriptors))
        except HandoverError:
            close_all(descriptors)
            raise

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def close_all(descriptors: list[int] | tuple[int, ...]) -> None:
    """Close descriptors."""
    for one in descriptors:
        os.close(one)


def _advice(error: OSError, function: str) -> str:
    if isinstance(error, PermissionError):
        return "run the function as the user, or in the group, that may serve it"
    return (
        f"is droplet-agent running on this host, with a document that makes {function!r} a function in a process? "
        f"Another place is set by {VARIABLE}; to try a function without an agent, use replay()"
    )
