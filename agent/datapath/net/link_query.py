"""Reads which XDP program runs on a link, and in which mode, on a netlink socket of its own.

Every acknowledgement depends on the answer, so it is read often: two system calls and a few bytes, while a library
takes a millisecond to decode a whole link message. Formats: rtnetlink(7), include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import NamedTuple

NLMSG_ERROR, RTM_NEWLINK, RTM_GETLINK = 2, 16, 18
NLM_F_REQUEST = 1
IFLA_EXT_MASK, IFLA_XDP, IFLA_XDP_ATTACHED, IFLA_XDP_PROG_ID = 29, 43, 2, 4
_MODES = {1: "native", 2: "generic", 3: "offload"}
"""XDP_ATTACHED_DRV, _SKB and _HW of linux/if_link.h."""
RTEXT_FILTER_SKIP_STATS = 1 << 3
NLA_TYPE_MASK = 0x3FFF
ANSWER = 1 << 16
TIMEOUT = 1.0

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid }."""
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg { u8 family; u8 pad; u16 type; s32 index; u32 flags; u32 change }."""
ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr { u16 len; u16 type }."""
_MASK = struct.Struct("=HHI")


class LinkXdp(NamedTuple):
    """A link's program: its id, 0 for none, and its mode: `native`, `generic`, `offload` or `none`."""

    program_id: int
    mode: str


class LinkQuery:
    """One socket in the network namespace where it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def xdp(self, ifindex: int) -> LinkXdp:
        """Return the program on a link. Raises OSError (ENODEV: no such link)."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        body = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
        body += _MASK.pack(_MASK.size, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        length = HEADER.size + len(body)
        self._socket.send(HEADER.pack(length, RTM_GETLINK, NLM_F_REQUEST, self._sequence, 0) + body)
        while True:
            answer = self._socket.recv(ANSWER)
            length, kind, _, sequence, _ = HEADER.unpack_from(answer)
            if sequence == self._sequence:  # else the late answer to a query that timed out
                return _xdp(kind, answer[HEADER.size : length])


def _xdp(kind: int, body: bytes) -> LinkXdp:
    if kind == NLMSG_ERROR:
        raise error_from(body)
    xdp = find_attribute(body[_LINK.size :], IFLA_XDP)
    identity = find_attribute(xdp, IFLA_XDP_PROG_ID)
    attached = find_attribute(xdp, IFLA_XDP_ATTACHED)
    return LinkXdp(int.from_bytes(identity, sys.byteorder), _MODES.get(attached[0] if attached else 0, "none"))


def error_from(body: bytes) -> OSError:
    """Return the error in an NLMSG_ERROR: struct nlmsgerr begins with the negative errno."""
    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    return OSError(number, os.strerror(number))


def find_attribute(attributes: bytes, wanted: int) -> bytes:
    """Return the payload of an attribute, empty when there is none."""
    at = 0
    while at + ATTRIBUTE.size <= len(attributes):
        length, kind = ATTRIBUTE.unpack_from(attributes, at)
        if length < ATTRIBUTE.size:
            break
        if kind & NLA_TYPE_MASK == wanted:
            return attributes[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return b""
