"""Reads the XDP program of a link with its mode, and the program of a tc filter, on a netlink socket of its own.

Every acknowledgement stands on the answer, so it is asked often: two system calls and a few bytes. `raw_netlink` has
what pyroute2 would take.
"""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_GETTFILTER

from agent.datapath.net.netlink import attribute
from agent.datapath.net.raw_netlink import FILTER, HEADER, LINK, error_in, link_question, message

_MODES = {"IFLA_XDP_DRV_PROG_ID": "native", "IFLA_XDP_SKB_PROG_ID": "generic", "IFLA_XDP_HW_PROG_ID": "offload"}
"""A card may run a program of its own beside one of the others: the kernel then gives no IFLA_XDP_PROG_ID
(net/core/rtnetlink.c: rtnl_xdp_fill)."""
ANSWER = 1 << 16
TIMEOUT = 1.0


class LinkXdp(NamedTuple):
    """A link's program: its id, 0 for none, and its mode: `native`, `generic`, `offload` or `none`."""

    program_id: int
    mode: str


class FilterPlace(NamedTuple):
    """Where a tc filter stands: the hook (`parent`), its handle, and priority and protocol (`info`)."""

    parent: int
    handle: int
    info: int


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
        return _xdp(self._ask(RTM_GETLINK, link_question(ifindex)))

    def filter_program(self, ifindex: int, place: FilterPlace) -> int | None:
        """Return the id of the BPF program of one tc filter, None if there is none or it has another classifier.

        Raises OSError (ENODEV: no such link).
        """
        question = FILTER.pack(index=ifindex, handle=place.handle, parent=place.parent, info=place.info)
        try:
            body = self._ask(RTM_GETTFILTER, question + FILTER.text("TCA_KIND", "bpf"))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # no such filter; no qdisc for it, or another classifier
                return None
            raise
        number = attribute(FILTER.find(body, "TCA_OPTIONS") or {}, "TCA_BPF_ID")
        return int(number) if number else None

    def _ask(self, kind: int, question: bytes) -> bytes:
        """Send one question and return the body of its answer; OSError when the kernel refuses."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._socket.send(message(kind, NLM_F_REQUEST, self._sequence, question))
        while True:
            answer = self._socket.recv(ANSWER)
            length, kind, _, sequence, _ = HEADER.unpack_from(answer)
            if sequence != self._sequence:  # the late answer to a query that timed out
                continue
            body = answer[HEADER.size : length]
            if kind == NLMSG_ERROR:
                raise error_in(body) or OSError(errno.EIO, "the kernel's answer names nothing")
            return body


def _xdp(body: bytes) -> LinkXdp:
    xdp = LINK.find(body, "IFLA_XDP") or {}
    for name, mode in _MODES.items():
        if number := attribute(xdp, name):
            return LinkXdp(number, mode)
    return LinkXdp(0, "none")
