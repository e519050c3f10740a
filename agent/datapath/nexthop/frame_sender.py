"""Sends whole Ethernet frames on this host's interfaces: a packet socket (packet(7)) that receives nothing.

The frames pass neither the host's routing nor its packet filter.
"""

from __future__ import annotations

import contextlib
import errno
import socket

NOTHING_RECEIVED = 0
_BUSY = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR)


class FrameSender:
    """One packet socket for all interfaces of this thread's network namespace; opened when it is first used."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def send(self, interface: str, frame: bytes) -> bool:
        """Send a frame by an interface; False when there is no room in its queue now.

        OSError: ENODEV or ENXIO when the interface is gone, ENETDOWN when it is down, EPERM without CAP_NET_RAW.
        """
        if self._socket is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_PACKET, kind, NOTHING_RECEIVED)
        try:
            self._socket.sendto(frame, (interface, int.from_bytes(frame[12:14])))
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None
