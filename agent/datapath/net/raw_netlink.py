"""Reads and writes rtnetlink messages by hand: where pyroute2, which does the same, takes too long for the agent.

Used by `link_query`, `link_messages` and `interface_query` alone; all other netlink goes through pyroute2 (`netlink`,
and the generic netlink of `agent.datapath.attach.xdp_features`). Measured with pyroute2 0.9.7 on two busy cores, with
300 veths and one interface of 1,000 addresses:

| question | by hand | pyroute2 | why it counts |
| --- | --- | --- | --- |
| XDP program of one link (`link_query`) | 0.2 ms | 1.6 ms | asked before each acknowledgement, for each link |
| all links (`link_messages`) | 190 ms | 1,200 ms | read at each comparison with the kernel, thousands of links |
| addresses of one interface (`interface_query`) | 23 ms | 330 ms | a tenant may have 100,000 |

pyroute2 decodes each message of a dump whole, before anything can be left out of it. Once a version of it needs no more
than twice the time by hand, these modules are superfluous.

Formats: netlink(7), rtnetlink(7), linux/netlink.h.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETNSID = 18, 22, 26, 90
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 1, 0x10, 0x300
NLA_TYPE_MASK = 0x3FFF
IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 29, 1 << 3

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid }."""
ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr { u16 len; u16 type }."""
LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg { u8 family; u8 pad; u16 type; s32 index; u32 flags; u32 change }."""
_U32_ATTRIBUTE = struct.Struct("=HHI")


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a request to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def u32_attribute(kind: int, value: int) -> bytes:
    """Return an attribute with a number of 32 bits."""
    return _U32_ATTRIBUTE.pack(_U32_ATTRIBUTE.size, kind, value)


def link_question(index: int) -> bytes:
    """Return the body of an RTM_GETLINK for the link with an index, 0 for all, without their statistics."""
    return LINK.pack(0, 0, index, 0, 0) + u32_attribute(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def messages(chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and body of each message of what was received; a cut one ends it."""
    at = 0
    while at + HEADER.size <= len(chunk):
        length, kind, flags, _, _ = HEADER.unpack_from(chunk, at)
        if length < HEADER.size:
            return
        yield kind, flags, chunk[at + HEADER.size : at + length]
        at += (length + 3) & ~3


def attributes(payload: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of each attribute from an offset on; a cut one ends it."""
    while at + ATTRIBUTE.size <= len(payload):
        length, kind = ATTRIBUTE.unpack_from(payload, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, payload[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def find_attribute(payload: bytes, wanted: int) -> bytes:
    """Return the payload of an attribute, empty when there is none."""
    return next((found for kind, found in attributes(payload) if kind == wanted), b"")


def error_in(body: bytes) -> OSError | None:
    """Return the error of an NLMSG_ERROR or NLMSG_DONE, None when it is none: both begin with the errno, negative."""
    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    return OSError(number, os.strerror(number)) if number else None
