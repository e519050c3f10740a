"""Reads and writes the rtnetlink messages that are too many for pyroute2, by pyroute2's own description of them.

`link_query`, `interface_query` and `agent.datapath.veth.name_watch` use it, and no other module reads netlink by hand.
All else goes through pyroute2 (`netlink`, and the generic netlink of `agent.datapath.attach.xdp_features`). Names,
numbers and layouts come from pyroute2's message classes; what is left out of it is its decoder, which makes objects of
all attributes of a message before any of them is asked for.

`python -m bench.netlink` compares both in one run. CPU time with pyroute2 0.9.7 on Linux 6.18, in a namespace with
2,000 links and an interface with 2,000 addresses; pyroute2's dumps are strict too (NETLINK_GET_STRICT_CHK):

| question | by hand | pyroute2 | ratio | why it counts |
| --- | --- | --- | --- | --- |
| all links | 74 ms | 2,254 ms | 30 | read at each comparison with the kernel |
| addresses of one interface | 22 ms | 233 ms | 11 | a tenant may have 100,000 |
| XDP program of one link | 0.037 ms | 1.1 ms | 30 | asked before each acknowledgement, for each link |
| one endpoint's namespace | 0.15 ms | 2.5 ms | 16 | read at each comparison, thousands of them |
| one link event in a tenant's namespace | 0.004 ms | 0.33 ms | 90 | tenants cause as many as they like |

A message class of pyroute2 with these attributes alone saves less than a quarter of the time for links. Once a version
of pyroute2 needs no more than twice the time by hand, this module is superfluous.

Formats: netlink(7), rtnetlink(7), linux/netlink.h.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyroute2.netlink import NLA_F_NESTED, NLA_F_NET_BYTEORDER, nla, nlmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import sched_bpf, tcmsg

from agent.datapath.net.netlink import RTEXT_FILTER_SKIP_STATS, Message

Reader = Callable[[bytes], Any]
"""Returns the value of an attribute's payload."""


def _layout(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    return struct.Struct("=" + "".join(code for _, code in fields))


HEADER = _layout(nlmsg.header)
"""struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid }."""
_ATTRIBUTE = _layout(nla.header)
"""struct rtattr { u16 len; u16 type }."""
_TYPE_FLAGS = NLA_F_NESTED | NLA_F_NET_BYTEORDER
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a request to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


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
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & ~_TYPE_FLAGS, payload[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def error_in(body: bytes) -> OSError | None:
    """Return the error of an NLMSG_ERROR or NLMSG_DONE, None when it is none: both begin with the errno, negative."""
    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    return OSError(number, os.strerror(number)) if number else None


class MessageFormat:
    """A kind of message, or of nested attribute, with the attributes that the agent reads of it."""

    def __init__(self, described: Any, readers: Mapping[str, Reader]) -> None:
        """Take names, numbers and layout from a class of pyroute2, and of its attributes those that have a reader."""
        self._header = _layout(described.fields)
        self._names = tuple(name for name, code in described.fields if not code.endswith("x"))
        self._numbers = {name: number for number, (name, *_) in enumerate(described.nla_map)}
        self._readers = {self._numbers[name]: (name, reader) for name, reader in readers.items()}
        self.size = self._header.size

    def pack(self, **fields: int) -> bytes:
        """Return the beginning of a body with these fields, and all others zero."""
        return self._header.pack(*(fields.get(name, 0) for name in self._names))

    def text(self, name: str, value: str) -> bytes:
        """Return an attribute with a text, which the kernel expects to end with a zero byte."""
        payload = value.encode() + b"\0"
        head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), self._numbers[name])
        return head + payload + bytes(-len(payload) % 4)

    def u32(self, name: str, value: int) -> bytes:
        """Return an attribute with a number of 32 bits."""
        return _ATTRIBUTE.pack(_ATTRIBUTE.size + _U32.size, self._numbers[name]) + _U32.pack(value)

    def decode(self, body: bytes) -> Message:
        """Return a message in pyroute2's shape. Raises struct.error if it is too short."""
        return {**self.fields(body), "attrs": self.attributes(body)}

    def fields(self, body: bytes) -> dict[str, int]:
        """Return what stands in front of the attributes. Raises struct.error if the message is too short."""
        return dict(zip(self._names, self._header.unpack_from(body), strict=True))

    def attributes(self, body: bytes) -> list[tuple[str, Any]]:
        """Return the attributes that have a reader, by pyroute2's names."""
        found: list[tuple[str, Any]] = []
        for kind, value in attributes(body, self.size):
            if (known := self._readers.get(kind)) is not None:
                name, reader = known
                found.append((name, reader(value)))
        return found

    def find(self, body: bytes, name: str) -> Any:
        """Return one attribute, None when there is none; those behind it are not looked at."""
        wanted = self._numbers[name]
        for kind, value in attributes(body, self.size):
            if kind == wanted:
                return self._readers[kind][1](value)
        return None


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


def _nested(inner: MessageFormat) -> Reader:
    return lambda payload: {"attrs": inner.attributes(payload)}


_KIND = MessageFormat(ifinfmsg.ifinfo, {"IFLA_INFO_KIND": _text})
_XDP = MessageFormat(
    ifinfmsg.xdp,
    {
        "IFLA_XDP_ATTACHED": _u8,
        "IFLA_XDP_PROG_ID": _u32,
        "IFLA_XDP_DRV_PROG_ID": _u32,
        "IFLA_XDP_SKB_PROG_ID": _u32,
        "IFLA_XDP_HW_PROG_ID": _u32,
    },
)


class _Link:
    """A link's message, with attributes (linux/if_link.h, from 62 on) that pyroute2 does not know."""

    fields = ifinfmsg.fields
    nla_map = (*ifinfmsg.nla_map[:62], ("IFLA_DEVLINK_PORT", ""), ("IFLA_GSO_IPV4_MAX_SIZE", ""))


LINK = MessageFormat(
    _Link,
    {
        "IFLA_ADDRESS": _mac,
        "IFLA_IFNAME": _text,
        "IFLA_MTU": _u32,
        "IFLA_LINK": _u32,
        "IFLA_LINKINFO": _nested(_KIND),
        "IFLA_IFALIAS": _text,
        "IFLA_LINK_NETNSID": _s32,
        "IFLA_XDP": _nested(_XDP),
        "IFLA_MAX_MTU": _u32,
        "IFLA_GSO_MAX_SIZE": _u32,
        "IFLA_GSO_IPV4_MAX_SIZE": _u32,
    },
)
"""struct ifinfomsg { u8 family; u8 pad; u16 type; s32 index; u32 flags; u32 change }."""
ADDRESS = MessageFormat(ifaddrmsg, {"IFA_ADDRESS": bytes, "IFA_LOCAL": bytes})
"""struct ifaddrmsg { u8 family; u8 prefixlen; u8 flags; u8 scope; u32 index }; addresses stay packed."""
ROUTE = MessageFormat(rtmsg, {"RTA_GATEWAY": bytes, "RTA_PRIORITY": _u32})
"""struct rtmsg { u8 family, dst_len, src_len, tos, table, protocol, scope, type; u32 flags }."""


class _BpfOptions:
    """The attributes of a filter with a BPF program, up to its id, which pyroute2 does not know."""

    fields = ()
    nla_map = (*sched_bpf.options.nla_map, ("TCA_BPF_FLAGS_GEN", ""), ("TCA_BPF_TAG", ""), ("TCA_BPF_ID", ""))


_FILTER_OPTIONS = MessageFormat(_BpfOptions, {"TCA_BPF_NAME": _text, "TCA_BPF_ID": _u32})


class _Filter:
    """A filter's message, with attributes (linux/rtnetlink.h, from 9 on) that pyroute2 does not know."""

    fields = tcmsg.fields
    nla_map = (*tcmsg.nla_map[:9], ("TCA_PAD", ""), ("TCA_DUMP_INVISIBLE", ""), ("TCA_CHAIN", ""))


FILTER = MessageFormat(_Filter, {"TCA_KIND": _text, "TCA_OPTIONS": _nested(_FILTER_OPTIONS)})
"""struct tcmsg { u8 family; u8 pad; u16 pad; s32 index; u32 handle; u32 parent; u32 info }."""
NAMESPACE_ID = MessageFormat(nsidmsg, {"NETNSA_NSID": _u32})
"""struct rtgenmsg { u8 family }, padded to where its attributes begin."""


def link_question(index: int) -> bytes:
    """Return the body of an RTM_GETLINK for the link with an index, 0 for all, without their statistics."""
    return LINK.pack(index=index) + LINK.u32("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)
