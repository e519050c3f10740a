"""Reads from the kernel which XDP features an interface's driver supports, without attaching anything.

The netdev family of generic netlink (Linux 6.3) tells: Documentation/netlink/specs/netdev.yaml, linux/genetlink.h.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.datapath.net.link_query import (
    ANSWER,
    ATTRIBUTE,
    HEADER,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    TIMEOUT,
    error_from,
    find_attribute,
)

NETLINK_GENERIC, GENL_ID_CTRL = 16, 16
CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 3, 1, 2
NETDEV = b"netdev\0"
NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_FEATURES = 1, 1, 3
CTRL_ATTR_MCAST_GROUPS, CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID = 7, 1, 2
GROUP = b"mgmt\0"
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1

_GENERIC = struct.Struct("=BBxx")
"""struct genlmsghdr { u8 cmd; u8 version; u16 reserved }."""


def xdp_features(ifindex: int) -> int | None:
    """Return the `XdpFeatures` that the driver of an interface in this thread's network namespace supports.

    None if the kernel does not report them: older than 6.3. Raises OSError (ENODEV: no such interface).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC) as opened:
        family = _family(opened)
        if family is None:
            return None
        wanted = ifindex.to_bytes(4, sys.byteorder)
        answer = _ask(opened, family.number, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, wanted)
        return _number(find_attribute(answer, NETDEV_A_DEV_XDP_FEATURES))


class _Family(NamedTuple):
    """The kernel's number of the netdev family, and the multicast group for changes (None: there is none)."""

    number: int
    group: int | None


def _family(opened: socket.socket) -> _Family | None:
    """Look up the netdev family; None if the kernel has none: older than 6.3."""
    opened.settimeout(TIMEOUT)
    try:
        found = _ask(opened, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, NETDEV)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    groups = (
        _number(find_attribute(group, CTRL_ATTR_MCAST_GRP_ID))
        for group in _nested(find_attribute(found, CTRL_ATTR_MCAST_GROUPS))
        if find_attribute(group, CTRL_ATTR_MCAST_GRP_NAME) == GROUP
    )
    return _Family(_number(find_attribute(found, CTRL_ATTR_FAMILY_ID)), next(groups, None))


def _ask(opened: socket.socket, family: int, command: int, attribute: int, value: bytes) -> bytes:
    """Return the attributes of the single reply to a request with one attribute."""
    length = ATTRIBUTE.size + len(value)
    body = _GENERIC.pack(command, 1) + ATTRIBUTE.pack(length, attribute) + value + bytes(-length % 4)
    opened.send(HEADER.pack(HEADER.size + len(body), family, NLM_F_REQUEST, 1, 0) + body)
    answer = opened.recv(ANSWER)
    length, kind, *_ = HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        raise error_from(answer[HEADER.size :])
    return answer[HEADER.size + _GENERIC.size : length]


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, sys.byteorder)


class FeatureEvents:
    """Watches this thread's network namespace for changes of the drivers' XDP features."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Call `changed` for each, in the running loop. A kernel that reports no features reports no changes either."""
        self._changed = changed
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
        try:
            family = _family(self._socket)
            if family is not None and family.group is not None:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, family.group)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._on_event)

    def close(self) -> None:
        """Close the socket."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _on_event(self) -> None:
        """Read one message. Its interface does not matter: all are queried again."""
        try:
            self._socket.recv(ANSWER)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # the socket overflowed, so something did change
                raise
        self._changed()


def _nested(attributes: bytes) -> Iterator[bytes]:
    """Yield the payloads of a list of attributes."""
    at = 0
    while at + ATTRIBUTE.size <= len(attributes):
        length, _ = ATTRIBUTE.unpack_from(attributes, at)
        if length < ATTRIBUTE.size:
            break
        yield attributes[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
