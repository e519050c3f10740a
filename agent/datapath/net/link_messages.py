"""Decodes the parts of link messages (RTM_NEWLINK, rtnetlink(7)) that the agent uses, in pyroute2's shape.

pyroute2 decodes all of a link: `raw_netlink` has what that takes, where thousands are read again and again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from agent.datapath.net.netlink import Message
from agent.datapath.net.raw_netlink import LINK, attributes

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


def decoded_link(body: bytes) -> Message:
    """Return the body of an RTM_NEWLINK: `index`, `flags`, and attributes as `netlink.attribute` finds them."""
    _, _, index, flags, _ = LINK.unpack_from(body)
    return {"index": index, "flags": flags, "attrs": _attributes(body, LINK.size, _READERS)}


def _attributes(payload: bytes, at: int, readers: _Readers) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for kind, value in attributes(payload, at):
        if (reader := readers.get(kind)) is not None:
            name, read = reader
            found.append((name, read(value)))
    return found
