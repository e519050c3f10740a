"""Notices when an interface name in a tenant's namespace becomes free, so that an endpoint can take it at once.

An endpoint that moves between two agents of one machine has its interface in the same namespace under the same name.
Whichever agent hears of the move first, the new one can only make its interface when the old one's is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK, RTMGRP_LINK

from agent.datapath.net.namespaces import in_namespace, open_netlink_socket
from agent.datapath.net.raw_netlink import LINK, messages

MOST = 256
"""Names that are watched at a time, each by a socket; others are free when the periodic retry finds them so."""
EXPIRES = 60.0
"""Seconds until a watch ends by itself, which is longer than two retries are apart.

Its socket keeps the namespace alive: one that its owner removed meanwhile must not stay for the watch's sake."""


@dataclass(slots=True)
class _Watch:
    socket: socket.socket
    expiry: asyncio.TimerHandle


class NameWatch:
    """The interfaces whose names endpoints wait for. Call all methods in the event loop's thread."""

    def __init__(self) -> None:
        self.freed = asyncio.Event()
        """Set when a name became free, or may have."""
        self._watches: dict[tuple[int, int, str], _Watch] = {}

    def watch(self, namespace: int, index: int, name: str) -> None:
        """Watch an interface by its index in a namespace (a file descriptor, not kept) for as long as it has a name.

        Whoever calls looks afterwards whether the interface still has it: before this, nothing was watched.
        """
        key = (os.fstat(namespace).st_ino, index, name)
        self._end(key)
        if len(self._watches) >= MOST:
            return
        opened = in_namespace(namespace, _open_events)
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(EXPIRES, self._end, key)
        self._watches[key] = _Watch(opened, expiry)
        loop.add_reader(opened, self._read, key)

    def close(self) -> None:
        """End all watches."""
        for key in list(self._watches):
            self._end(key)

    def __len__(self) -> int:
        """Return how many names are watched."""
        return len(self._watches)

    def _end(self, key: tuple[int, int, str]) -> None:
        watch = self._watches.pop(key, None)
        if watch is not None:
            watch.expiry.cancel()
            asyncio.get_running_loop().remove_reader(watch.socket)
            watch.socket.close()

    def _read(self, key: tuple[int, int, str]) -> None:
        _, index, name = key
        try:
            data = self._watches[key].socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # events were lost: perhaps that one
            gone = True
        else:
            gone = frees_name(data, index, name)
        if gone:
            self._end(key)
            self.freed.set()


def _open_events() -> socket.socket:
    with contextlib.ExitStack() as undo:
        opened = undo.enter_context(open_netlink_socket())
        opened.bind((0, RTMGRP_LINK))
        opened.setblocking(False)
        undo.pop_all()
        return opened


def frees_name(data: bytes, index: int, name: str) -> bool:
    """Say whether one of some link messages (rtnetlink(7)) says that an interface is gone or has another name.

    Whoever may configure the tenant's namespace can send to the socket: a message that is too short says nothing.
    """
    for kind, _, body in messages(data):
        if kind not in (RTM_NEWLINK, RTM_DELLINK) or len(body) < LINK.size or LINK.fields(body)["index"] != index:
            continue
        if kind == RTM_DELLINK or LINK.find(body, "IFLA_IFNAME") not in (name, None):
            return True
    return False
