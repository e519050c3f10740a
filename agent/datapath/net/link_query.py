"""Reads the XDP program of a link with its mode, and the programs of tc filters, on a netlink socket of its own.

Every acknowledgement stands on the answer, so it is asked often: two system calls and a few bytes. `raw_netlink` has
what pyroute2 would take.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import NamedTuple

from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_GETTFILTER

from agent.datapath.net.netlink import attribute
from agent.datapath.net.raw_netlink import FILTER, HEADER, LINK, error_in, link_question, message, messages

_MODES = {"IFLA_XDP_DRV_PROG_ID": "native", "IFLA_XDP_SKB_PROG_ID": "generic", "IFLA_XDP_HW_PROG_ID": "offload"}
"""A card may run a program of its own beside one of the others: the kernel then gives no IFLA_XDP_PROG_ID
(net/core/rtnetlink.c: rtnl_xdp_fill)."""
ANSWER = 1 << 16
TIMEOUT = 5.0


class LinkXdp(NamedTuple):
    """A link's program: its id, 0 for none, and its mode: `native`, `generic`, `offload` or `none`."""

    program_id: int
    mode: str


class FilterPlace(NamedTuple):
    """Where a tc filter stands: the hook (`parent`), its handle, and priority and protocol (`info`)."""

    parent: int
    handle: int
    info: int


class BpfFilter(NamedTuple):
    """A tc filter with a BPF program: its handle, and the program's id."""

    handle: int
    program_id: int


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
        return _program_of(body) or None

    def filters(self, ifindex: int, place: FilterPlace) -> list[BpfFilter]:
        """Return the filters with the priority and protocol of a place, in the order in which frames pass them.

        Empty if there is no such link. OSError (EAGAIN): they changed meanwhile.
        """
        question = FILTER.pack(index=ifindex, parent=place.parent, info=place.info) + FILTER.u32("TCA_CHAIN", 0)
        found = [
            BpfFilter(FILTER.fields(body)["handle"], _program_of(body)) for body in self._dump(RTM_GETTFILTER, question)
        ]
        return [one for one in found if one.program_id]  # the classifier itself has a message, too

    def _ask(self, kind: int, question: bytes) -> bytes:
        """Send one question and return the body of its answer; OSError when the kernel refuses."""
        self._send(kind, NLM_F_REQUEST, question)
        kind, _, body = next(messages(self._receive()))
        if kind == NLMSG_ERROR:
            raise error_in(body) or OSError(errno.EIO, "the kernel's answer names nothing")
        return body

    def _dump(self, kind: int, question: bytes) -> Iterator[bytes]:
        """Yield the body of each message of an answer; OSError when the kernel refuses."""
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, question)
        while True:
            for found, flags, body in messages(self._receive()):
                if flags & NLM_F_DUMP_INTR:
                    raise OSError(errno.EAGAIN, "it changed while it was read")
                if found in (NLMSG_ERROR, NLMSG_DONE):
                    if (error := error_in(body)) is not None:
                        raise error
                    return
                yield body

    def _send(self, kind: int, flags: int, question: bytes) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._socket.send(message(kind, flags, self._sequence, question))

    def _receive(self) -> bytes:
        """Return what the kernel sends next to the current question."""
        while True:
            answer = self._socket.recv(ANSWER)
            _, _, _, sequence, _ = HEADER.unpack_from(answer)
            if sequence == self._sequence:  # otherwise it is a late answer to a query that timed out
                return answer


def _program_of(body: bytes) -> int:
    """Return the id of a filter's program, 0 if it has none."""
    return int(attribute(FILTER.find(body, "TCA_OPTIONS") or {}, "TCA_BPF_ID") or 0)


def _xdp(body: bytes) -> LinkXdp:
    xdp = LINK.find(body, "IFLA_XDP") or {}
    for name, mode in _MODES.items():
        if number := attribute(xdp, name):
            return LinkXdp(number, mode)
    return LinkXdp(0, "none")
