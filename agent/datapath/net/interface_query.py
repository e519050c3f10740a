"""Reads a namespace's links, and one interface's addresses and default routes, within a limited time.

A tenant may have 100,000 of each: the kernel picks what belongs to the interface (NETLINK_GET_STRICT_CHK, Linux 4.20),
only the header is looked at of a route that is not wanted, and other tasks run in between. `raw_netlink` says what
pyroute2, which can ask in the same way, would take.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from pyroute2.netlink import (
    NETLINK_GET_STRICT_CHK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
)
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETNSID, RTM_GETROUTE, rt_type

from agent.datapath.net.netlink import NETNSA_NSID_NOT_ASSIGNED, Message, attribute
from agent.datapath.net.raw_netlink import (
    ADDRESS,
    LINK,
    NAMESPACE_ID,
    ROUTE,
    error_in,
    link_question,
    message,
    messages,
)

RT_TABLE_MAIN = 254
ATTEMPTS = 3
SECONDS = 0.5
"""Seconds for one query; a namespace that needs longer counts as unreadable."""
CHUNK = 1 << 15
LONGEST = 1 << 16
"""The most bytes of a reply about one link; the kernel's own limit is lower."""

_NO_TABLE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
"""What the kernel answers where a family has no main table yet, or the host has no such family."""


_T = TypeVar("_T")
_Decode = Callable[[bytes], _T | None]
Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class DefaultRoute(NamedTuple):
    """A default route by one interface: its gateway and metric."""

    gateway: str
    metric: int


class InterfaceQuery:
    """Queries on a netlink socket of a namespace; it owns the socket. Close it after an error."""

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        opened.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket = opened
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def addresses(self, index: int) -> list[Address]:
        """Return an interface's addresses. OSError: ENODEV, ETIMEDOUT (too many), EAGAIN (they keep changing)."""
        return await self._ask(RTM_GETADDR, ADDRESS.pack(index=index), _address)

    async def default_routes(self, index: int) -> list[DefaultRoute]:
        """Return the main table's default routes with a gateway by an interface; OSError as `addresses`."""
        found: list[DefaultRoute] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            question = ROUTE.pack(family=family, table=RT_TABLE_MAIN, type=rt_type["unicast"])
            question += ROUTE.u32("RTA_OIF", index)
            found += await self._ask(RTM_GETROUTE, question, _default_route, absent=_NO_TABLE)
        return found

    async def links(self, attempts: int, pause: float) -> list[Message]:
        """Return all links, as `raw_netlink.LINK` reads them; OSError (EAGAIN) if they changed during every attempt."""
        for attempt in range(attempts):
            await asyncio.sleep(attempt * pause)
            if (found := await self._dump(RTM_GETLINK, link_question(0), LINK.decode, ())) is not None:
                return found
        raise OSError(errno.EAGAIN, "the kernel's links changed during every attempt to read them")

    async def link(self, index: int) -> Message | None:
        """Return the link with an index, None when there is none."""
        try:
            return LINK.decode(await self._one(RTM_GETLINK, link_question(index)))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    async def namespace_id(self, descriptor: int) -> int | None:
        """Return the id by which this socket's namespace knows another one, as `Netlink.namespace_id` does."""
        question = NAMESPACE_ID.pack() + NAMESPACE_ID.u32("NETNSA_FD", descriptor)
        number = NAMESPACE_ID.find(await self._one(RTM_GETNSID, question), "NETNSA_NSID")
        return None if number in (None, NETNSA_NSID_NOT_ASSIGNED) else int(number)

    async def _one(self, kind: int, question: bytes) -> bytes:
        """Return the body of the single reply to a query."""
        self._send(kind, NLM_F_REQUEST, question)
        for type_, _, body in messages(await asyncio.get_running_loop().sock_recv(self._socket, LONGEST)):
            if type_ == NLMSG_ERROR:
                _raise_unless((), body)
            return body
        raise OSError(errno.EIO, "the kernel's answer is empty")

    def _send(self, kind: int, flags: int, question: bytes) -> None:
        self._sequence += 1
        self._socket.send(message(kind, flags, self._sequence, question))

    async def _ask(self, kind: int, question: bytes, decode: _Decode[_T], absent: tuple[int, ...] = ()) -> list[_T]:
        try:
            async with asyncio.timeout(SECONDS):
                for _ in range(ATTEMPTS):
                    if (found := await self._dump(kind, question, decode, absent)) is not None:
                        return found
        except TimeoutError:
            detail = f"the endpoint's namespace has more addresses or routes than can be read in {SECONDS} s"
            raise OSError(errno.ETIMEDOUT, detail) from None
        raise OSError(errno.EAGAIN, "the addresses or routes changed during every attempt to read them")

    async def _dump(self, kind: int, question: bytes, decode: _Decode[_T], absent: tuple[int, ...]) -> list[_T] | None:
        """Return the decoded replies, without None; None if the tables changed meanwhile."""
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, question)
        loop = asyncio.get_running_loop()
        found: list[_T] = []
        interrupted = False
        while True:
            chunk = await loop.sock_recv(self._socket, CHUNK)
            for type_, flags, body in messages(chunk):
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if type_ in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_unless(absent, body)
                    return None if interrupted else found
                if (decoded := decode(body)) is not None:
                    found.append(decoded)
            await asyncio.sleep(0)  # a netlink dump never makes its reader wait


def _address(body: bytes) -> Address:
    found = ADDRESS.decode(body)
    # The own side of a point-to-point link is IFA_LOCAL; elsewhere both are the same, or only one is there.
    own = attribute(found, "IFA_LOCAL") or attribute(found, "IFA_ADDRESS")
    return ipaddress.ip_interface((own, found["prefixlen"]))


def _default_route(body: bytes) -> DefaultRoute | None:
    if ROUTE.fields(body)["dst_len"]:
        return None
    found = ROUTE.decode(body)
    gateway, metric = attribute(found, "RTA_GATEWAY"), attribute(found, "RTA_PRIORITY")
    if not gateway:
        return None
    return DefaultRoute(str(ipaddress.ip_address(gateway)), metric or 0)


def _raise_unless(absent: tuple[int, ...], body: bytes) -> None:
    """Raise the error that ends a dump, unless it says that there is nothing."""
    if (error := error_in(body)) is not None and error.errno not in absent:
        raise error
