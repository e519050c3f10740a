"""What is read of netlink messages by hand is what pyroute2 reads, and only three modules read by hand."""

from __future__ import annotations

import ast
import errno
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, rt_type
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent.datapath.net import raw_netlink as raw
from agent.datapath.net.link_query import LinkXdp
from agent.datapath.net.link_query import _xdp as read_xdp
from agent.datapath.net.netlink import attribute
from agent.datapath.veth.name_watch import frees_name

IFLA_XDP = 43
NET = Path(__file__).parents[2] / "agent/datapath"
READERS = {"interface_query.py", "link_query.py", "name_watch.py"}


def link(kind: int = RTM_NEWLINK, **attributes: object) -> bytes:
    """Return a link message as pyroute2 writes it."""
    written = ifinfmsg()
    written["header"]["type"], written["index"], written["flags"] = kind, 7, 0x1003
    return encoded(written, {f"IFLA_{name}": value for name, value in attributes.items()})


def nested(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload


def encoded(message: Any, attributes: Mapping[str, object]) -> bytes:
    message["attrs"] = list(attributes.items())
    message.encode()
    return bytes(message.data)


def test_a_link_that_pyroute2_wrote_is_read_with_the_same_values() -> None:
    values = {"IFNAME": "eth0", "MTU": 1500, "ADDRESS": "02:00:00:00:00:01", "IFALIAS": "odd", "LINK_NETNSID": 3}
    ((_, _, body),) = raw.messages(link(**values))
    found = raw.LINK.decode(body)
    assert (found["index"], found["flags"]) == (7, 0x1003)
    assert {name: attribute(found, f"IFLA_{name}") for name in values} == values
    assert {name: raw.LINK.find(body, f"IFLA_{name}") for name in values} == values
    assert raw.LINK.find(body, "IFLA_XDP") is None


def test_an_address_that_pyroute2_wrote_is_read_with_the_same_values() -> None:
    written = ifaddrmsg()
    written["family"], written["prefixlen"], written["index"] = socket.AF_INET, 24, 7
    ((_, _, body),) = raw.messages(encoded(written, {"IFA_ADDRESS": "10.0.0.2", "IFA_LOCAL": "10.0.0.1"}))
    found = raw.ADDRESS.decode(body)
    assert (found["prefixlen"], found["index"]) == (24, 7)
    assert attribute(found, "IFA_ADDRESS") == socket.inet_aton("10.0.0.2")
    assert attribute(found, "IFA_LOCAL") == socket.inet_aton("10.0.0.1")


def test_a_route_that_pyroute2_wrote_is_read_with_the_same_values() -> None:
    written = rtmsg()
    written["family"], written["dst_len"], written["table"] = socket.AF_INET, 16, 254
    ((_, _, body),) = raw.messages(encoded(written, {"RTA_GATEWAY": "10.0.0.1", "RTA_PRIORITY": 100}))
    found = raw.ROUTE.decode(body)
    assert (found["dst_len"], found["table"]) == (16, 254)
    assert attribute(found, "RTA_GATEWAY") == socket.inet_aton("10.0.0.1")
    assert attribute(found, "RTA_PRIORITY") == 100


def test_a_request_is_read_by_pyroute2_with_the_same_values() -> None:
    request = raw.message(RTM_GETLINK, NLM_F_REQUEST, 5, raw.link_question(9))
    read = ifinfmsg(request)
    read.decode()
    header = read["header"]
    assert (header["length"], header["type"], header["flags"], header["sequence_number"]) == (
        len(request),
        RTM_GETLINK,
        NLM_F_REQUEST,
        5,
    )
    assert (read["family"], read["index"], read.get_attr("IFLA_EXT_MASK")) == (socket.AF_UNSPEC, 9, 8)


def test_a_request_for_routes_is_read_by_pyroute2_with_the_same_values() -> None:
    body = raw.ROUTE.pack(family=socket.AF_INET6, table=254, type=rt_type["unicast"]) + raw.ROUTE.u32("RTA_OIF", 9)
    read = rtmsg(raw.message(0, 0, 1, body))
    read.decode()
    assert (read["family"], read["table"], read["type"], read["dst_len"]) == (socket.AF_INET6, 254, 1, 0)
    assert read.get_attr("RTA_OIF") == 9


@pytest.mark.parametrize(
    ("message", "freed"),
    [
        (link(RTM_DELLINK, IFNAME="eth0"), True),
        (link(RTM_NEWLINK, IFNAME="eth1"), True),
        (link(RTM_NEWLINK, IFNAME="eth0"), False),
        (link(RTM_NEWLINK, MTU=1500), False),
        (link(RTM_GETLINK, IFNAME="eth1"), False),
    ],
)
def test_a_name_is_free_when_its_interface_is_gone_or_has_another_name(message: bytes, freed: bool) -> None:
    assert frees_name(message, 7, "eth0") is freed
    assert not frees_name(message, 8, "eth0")


@pytest.mark.parametrize("length", range(16, 32))
def test_a_link_event_that_is_shorter_than_its_fields_frees_no_name(length: int) -> None:
    assert not frees_name(struct.pack("=IHHII", length, RTM_DELLINK, 0, 0, 0) + bytes(length - 16), 0, "eth0")


@pytest.mark.parametrize("left", range(1, 48))
def test_messages_that_are_cut_anywhere_are_read_as_far_as_they_go(left: int) -> None:
    whole = link(IFNAME="a", MTU=1500)
    for _, _, body in raw.messages((whole + whole)[: len(whole) + left]):
        for kind, _ in raw.attributes(body, raw.LINK.size):
            assert kind in (3, 4)


@pytest.mark.parametrize("length", range(4))
def test_an_attribute_that_says_it_is_shorter_than_its_header_ends_the_reading(length: int) -> None:
    payload = struct.pack("=HH", length, 3) * 2
    assert list(raw.attributes(payload)) == []
    assert raw.LINK.find(raw.LINK.pack() + payload, "IFLA_IFNAME") is None


@pytest.mark.parametrize("length", range(16))
def test_a_message_that_says_it_is_shorter_than_its_header_ends_the_reading(length: int) -> None:
    assert list(raw.messages(struct.pack("=IHHII", length, 16, 0, 1, 0) * 2)) == []


@pytest.mark.parametrize(
    ("attached", "found"),
    [
        ({}, LinkXdp(0, "none")),
        ({4: 9, 5: 9}, LinkXdp(9, "native")),
        ({4: 9, 6: 9}, LinkXdp(9, "generic")),
        ({4: 9, 7: 9}, LinkXdp(9, "offload")),
        ({5: 9, 7: 8}, LinkXdp(9, "native")),
    ],
    ids=["none", "in the driver", "in the stack", "on the card", "in the driver beside another's on the card"],
)
def test_a_program_is_found_in_its_mode_also_beside_another_one(attached: dict[int, int], found: LinkXdp) -> None:
    """As rtnl_xdp_fill() writes them (net/core/rtnetlink.c): with two programs, there is no IFLA_XDP_PROG_ID."""
    xdp = b"".join(nested(kind, struct.pack("=I", number)) for kind, number in attached.items())
    assert read_xdp(raw.LINK.pack(index=7) + nested(IFLA_XDP, xdp)) == found


def test_an_error_has_the_kernels_errno_and_an_acknowledgement_is_none() -> None:
    error = raw.error_in(struct.pack("=i", -errno.ENODEV) + bytes(16))
    assert error is not None
    assert error.errno == errno.ENODEV
    assert raw.error_in(bytes(20)) is None
    assert raw.error_in(b"") is None


def test_three_modules_read_netlink_by_hand_and_no_other() -> None:
    users = set()
    for path in NET.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("raw_netlink"):
                users.add(path.name)
    assert users == READERS
