"""One rtnetlink socket for requests, with pyroute2's habits kept in one place.

Every error is an OSError with the kernel's errno and, where it gives one, its text. Dumps run one at a time and are
exhausted (the kernel answers EBUSY to a second dump on one socket), and start again when the kernel says that the
tables changed underneath. Events have a socket of their own, in `neighbours.py`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from agent.datapath.net.namespaces import open_netlink_socket

DUMP_ATTEMPTS = 10
DUMP_PAUSE = 0.02
"""Seconds after the first attempt, twice that after the second, and so on, until the tables stop changing."""
RTEXT_FILTER_SKIP_STATS = 8
NETNSA_NSID_NOT_ASSIGNED = 0xFFFFFFFF

Message = Mapping[str, Any]
"""A netlink message: header fields by name, attributes by `attribute`."""


def attribute(message: Message, name: str) -> Any:
    """Return a netlink attribute of a message or a nested attribute, None when it has none."""
    for key, value in message.get("attrs", ()):
        if key == name:
            return value
    return None


def error_from(error: NetlinkError | OSError, message: Any) -> OSError:
    """Return the kernel's error as an OSError, with its text. pyroute2 raises an OSError only for ENOBUFS."""
    attrs = message.get("attrs", ()) if hasattr(message, "get") else ()
    text = next((value for key, value in attrs if key == "NLMSGERR_ATTR_MSG"), None)
    number = abs(int((error.errno or errno.EIO) if isinstance(error, OSError) else error.code))
    return OSError(number, str(text) if text else os.strerror(number))


class Netlink:
    """A socket for rtnetlink requests in one namespace; it owns the socket that it is given."""

    def __init__(self, opened: socket.socket | None = None) -> None:
        self._socket = opened if opened is not None else open_netlink_socket()
        self._route = AsyncIPRoute(use_socket=self._socket, exception_factory=error_from)
        self._dumping = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._route.close()
        self._socket.close()

    async def request(self, method: str, *arguments: Any, **options: Any) -> list[Message]:
        """Send one request of AsyncIPRoute by name and return its answers; OSError when the kernel refuses."""
        try:
            return list(await getattr(self._route, method)(*arguments, **options))
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    async def dump(self, method: str, *arguments: Any, **options: Any) -> list[Message]:
        """Run one dump of AsyncIPRoute by name to its end; OSError when the kernel refuses."""
        async with self._dumping:
            for attempt in range(DUMP_ATTEMPTS):
                await asyncio.sleep(attempt * DUMP_PAUSE)
                try:
                    answers = await getattr(self._route, method)(*arguments, **options)
                    messages = [message async for message in answers]
                except NetlinkError as error:
                    raise OSError(error.code, os.strerror(error.code)) from error
                if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
                    return messages
        raise OSError(errno.EAGAIN, "the kernel's tables changed during every attempt to read them")

    async def link(self, **selector: Any) -> Message | None:
        """Return the link with this `index` or `ifname`, None when there is none."""
        try:
            answers = await self.request("link", "get", ext_mask=RTEXT_FILTER_SKIP_STATS, **selector)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return next((answer for answer in answers if "index" in answer), None)

    async def links(self, **options: Any) -> list[Message]:
        """Return all links, without their statistics."""
        return await self.dump("link", "dump", ext_mask=RTEXT_FILTER_SKIP_STATS, **options)

    async def namespace_id(self, descriptor: int) -> int | None:
        """Return the id by which this socket's namespace knows the one behind `descriptor`, None when by none.

        rtnetlink(7), RTM_GETNSID: a veth whose peer is there shows that id as IFLA_LINK_NETNSID.
        """
        try:
            answer = await self._route.get_netnsid(fd=descriptor)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error
        number = None if answer is None else answer["nsid"]
        return None if number is None or number in (NETNSA_NSID_NOT_ASSIGNED, -1) else int(number)
