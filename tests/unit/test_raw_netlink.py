"""What is read of netlink messages by hand is what pyroute2 reads, and by hand only three modules read."""

from __future__ import annotations

import ast
import errno
import socket
import struct
from pathlib import Path

import pytest
from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from agent.datapath.net import raw_netlink as raw
from agent.datapath.net.link_messages import decoded_link
from agent.datapath.net.link_query import IFLA_XDP, LinkXdp
from agent.datapath.net.link_query import _xdp as read_xdp
from agent.datapath.net.netlink import attribute

NET = Path(__file__).parents[2] / "agent/datapath"
READERS = {"interface_query.py", "link_messages.py", "link_query.py"}


def link(**attributes: object) -> bytes:
    """Return a link message as pyroute2 writes it."""
    written = ifinfmsg()
    written["index"], written["flags"] = 7, 0x1003
    written["attrs"] = [(f"IFLA_{name}", value) for name, value in attributes.items()]
    written.encode()
    return bytes(written.data)


def test_a_link_that_pyroute2_wrote_is_read_with_the_same_values() -> None:
    values = {"IFNAME": "eth0", "MTU": 1500, "ADDRESS": "02:00:00:00:00:01", "IFALIAS": "odd", "LINK_NETNSID": 3}
    ((_, _, body),) = raw.messages(link(**values))
    found = decoded_link(body)
    assert (found["index"], found["flags"]) == (7, 0x1003)
    assert {name: attribute(found, f"IFLA_{name}") for name in values} == values


def test_a_request_is_read_by_pyroute2_with_the_same_values() -> None:
    request = raw.message(raw.RTM_GETLINK, raw.NLM_F_REQUEST, 5, raw.link_question(9))
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
    assert raw.find_attribute(payload, 3) == b""


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
    xdp = b"".join(raw.u32_attribute(kind, number) for kind, number in attached.items())
    body = raw.LINK.pack(0, 0, 7, 0, 0) + raw.ATTRIBUTE.pack(raw.ATTRIBUTE.size + len(xdp), IFLA_XDP) + xdp
    assert read_xdp(raw.RTM_GETLINK, body) == found


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
