"""Decodes the parts of link messages (RTM_NEWLINK, rtnetlink(7)) that the agent uses, in pyroute2's shape.

pyroute2 decodes all of a link, which takes ten times as long: that counts where thousands are read again and again.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from agent.datapath.net.link_query import ATTRIBUTE, IFLA_EXT_MASK, NLA_TYPE_MASK, RTEXT_FILTER_SKIP_STATS
from agent.datapath.net.netlink import Message

_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg { u8 family; u8 pad; u16 type; s32 index; u32 flags; u32 change }."""
_MASK = struct.Struct("=HHI")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _u8(payload: bytes) -> int:
    return payload[0]


def _u32(payload: bytes) -> int:
    return int(_U32.unpack(payload)[0])


def _s32(payload: bytes) -> int:
    return int(_S32.unpack(payload)[0])


def _mac(payload: bytes) -> str:
    return payload.hex(":")


_Readers = dict[int, tuple[str, Callable[[bytes], Any]]]


def _nested(readers: _Readers) -> Callable[[bytes], Message]:
    return lambda payload: {"attrs": _attributes(payload, 0, readers)}


_XDP: _Readers = {
    2: ("IFLA_XDP_ATTACHED", _u8),
    4: ("IFLA_XDP_PROG_ID", _u32),
    5: ("IFLA_XDP_DRV_PROG_ID", _u32),
    6: ("IFLA_XDP_SKB_PROG_ID", _u32),
    7: ("IFLA_XDP_HW_PROG_ID", _u32),
}
_READERS: _Readers = {
    1: ("IFLA_ADDRESS", _mac),
    3: ("IFLA_IFNAME", _text),
    4: ("IFLA_MTU", _u32),
    5: ("IFLA_LINK", _u32),
    18: ("IFLA_LINKINFO", _nested({1: ("IFLA_INFO_KIND", _text)})),
    20: ("IFLA_IFALIAS", _text),
    37: ("IFLA_LINK_NETNSID", _s32),
    43: ("IFLA_XDP", _nested(_XDP)),
    51: ("IFLA_MAX_MTU", _u32),
}


def link_question(index: int) -> bytes:
    """Return the body of an RTM_GETLINK for the link with an index, 0 for all, without their statistics."""
    mask = _MASK.pack(_MASK.size, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + mask


def decoded_link(body: bytes) -> Message:
    """Return the body of an RTM_NEWLINK: `index`, `flags`, and attributes as `netlink.attribute` finds them."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    return {"index": index, "flags": flags, "attrs": _attributes(body, _LINK.size, _READERS)}


def _attributes(payload: bytes, at: int, readers: _Readers) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    while at + ATTRIBUTE.size <= len(payload):
        length, kind = ATTRIBUTE.unpack_from(payload, at)
        if length < ATTRIBUTE.size:
            break
        reader = readers.get(kind & NLA_TYPE_MASK)
        if reader is not None:
            name, read = reader
            found.append((name, read(payload[at + ATTRIBUTE.size : at + length])))
        at += (length + 3) & ~3
    return found
