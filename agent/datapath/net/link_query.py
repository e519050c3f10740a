"""Reads which XDP program runs on a link, and in which mode, on a netlink socket of its own.

Every acknowledgement stands on the answer, so it is asked often: two system calls and a few bytes. `raw_netlink` has
what pyroute2 would take.
"""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK

from agent.datapath.net.netlink import attribute
from agent.datapath.net.raw_netlink import HEADER, LINK, error_in, link_question, message

_MODES = {"IFLA_XDP_DRV_PROG_ID": "native", "IFLA_XDP_SKB_PROG_ID": "generic", "IFLA_XDP_HW_PROG_ID": "offload"}
"""A card may run a program of its own beside one of the others: the kernel then gives no IFLA_XDP_PROG_ID
(net/core/rtnetlink.c: rtnl_xdp_fill)."""
ANSWER = 1 << 16
TIMEOUT = 1.0


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
        self._socket.send(message(RTM_GETLINK, NLM_F_REQUEST, self._sequence, link_question(ifindex)))
        while True:
            answer = self._socket.recv(ANSWER)
            length, kind, _, sequence, _ = HEADER.unpack_from(answer)
            if sequence == self._sequence:  # else the late answer to a query that timed out
                return _xdp(kind, answer[HEADER.size : length])


def _xdp(kind: int, body: bytes) -> LinkXdp:
    if kind == NLMSG_ERROR:
        raise error_in(body) or OSError(errno.EIO, "the kernel's answer names no link")
    xdp = LINK.find(body, "IFLA_XDP") or {}
    for name, mode in _MODES.items():
        if number := attribute(xdp, name):
            return LinkXdp(number, mode)
    return LinkXdp(0, "none")
