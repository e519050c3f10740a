"""The trace of `dropletctl path`, for every state of the maps that it depends on."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from agent.core.model.map_layout import (
    DIRECT_LIFETIME,
    ENDPOINT_PINNED,
    ENDPOINT_VXLAN,
    INTERFACE_PINNED,
    NETWORK_LOCAL_BOUNCER,
    NEXT_HOP_DOWN,
    NEXT_HOP_ZERO_CHECKSUM,
    PATH_PINNED,
    VPC_LOCAL_DIVIDER,
    AddressSet,
    Endpoint,
    mapped,
)
from agent.report.trace import TraceInput, trace
from protocol.addresses import parse_address
from protocol.rpc import PathReply


class Direct(NamedTuple):
    """A learnt path."""

    host: bytes
    age: float
    flags: int = 0


class Entry(NamedTuple):
    """A network."""

    gateway: bytes
    bouncers: AddressSet


def at(text: str) -> bytes:
    return mapped(parse_address(text))


def front(flags: int = 0, *bouncers: str) -> Entry:
    return Entry(at("192.168.1.1"), AddressSet(flags, tuple(map(at, bouncers))))


def back(flags: int = 0, *bouncers: str) -> Entry:
    return Entry(at("192.168.2.1"), AddressSet(flags, tuple(map(at, bouncers))))


LEARNT = Direct(at("10.0.0.9"), 1.5)
REMOTE = Endpoint(at("2001:db8::2"), 0, 0, 0, bytes(6))
VXLAN = REMOTE._replace(flags=ENDPOINT_VXLAN)
FRONT = front(0, "10.0.0.2", "10.0.0.3")
HERE = front(NETWORK_LOCAL_BOUNCER, "10.0.0.1")
DIVIDED = AddressSet(0, (at("10.0.0.4"),))
DIVIDED_HERE = AddressSet(VPC_LOCAL_DIVIDER, (at("10.0.0.1"),))
KNOWN = TraceInput(at("192.168.1.7"), 0, None, None, None, None, FRONT, FRONT, DIVIDED)

DIRECT = PathReply("direct", ("2001:db8::2",), encapsulation="geneve")
BOUNCER = PathReply("bouncer", ("10.0.0.2", "10.0.0.3"), encapsulation="geneve")
DIVIDER = PathReply("divider", ("10.0.0.4",), encapsulation="geneve")
BY_LEARNT = PathReply("direct", ("10.0.0.9",), learnt=True, age=1.5, encapsulation="geneve")


def none(reason: str) -> PathReply:
    return PathReply("none", reason=reason)


CASES = {
    "nothing is known: a bouncer": ({}, BOUNCER),
    "a path that was learnt": ({"direct": LEARNT, "learnt_hop": 0}, BY_LEARNT),
    "a next hop without a checksum leads there too": (
        {"direct": LEARNT, "learnt_hop": NEXT_HOP_ZERO_CHECKSUM},
        BY_LEARNT,
    ),
    "a path that is too old": ({"direct": LEARNT._replace(age=DIRECT_LIFETIME), "learnt_hop": 0}, BOUNCER),
    "a learnt path without a next hop": (
        {"direct": LEARNT},
        BOUNCER,
    ),
    "a learnt path to a host that is down": ({"direct": LEARNT, "learnt_hop": NEXT_HOP_DOWN}, BOUNCER),
    "a host that is down, and one that is known": (
        {"direct": LEARNT, "learnt_hop": NEXT_HOP_DOWN, "destination": REMOTE, "host_hop": 0},
        DIRECT,
    ),
    "a host that is known": ({"destination": REMOTE, "host_hop": 0}, DIRECT),
    "a host that is known and down, and this host bounces for the network": (
        {"source_network": HERE, "destination_network": HERE, "destination": REMOTE, "host_hop": NEXT_HOP_DOWN},
        DIRECT,
    ),
    "a host that is known and down": ({"destination": REMOTE, "host_hop": NEXT_HOP_DOWN}, BOUNCER),
    "a host that is known and has no next hop": (
        {"destination": REMOTE},
        BOUNCER,
    ),
    "a host that speaks VXLAN": (
        {"destination": VXLAN, "host_hop": 0},
        PathReply("direct", ("2001:db8::2",), encapsulation="vxlan"),
    ),
    "on this host": ({"destination": REMOTE._replace(ifindex=9)}, PathReply("same_host")),
    "the gateway": ({"to": FRONT.gateway}, PathReply("gateway")),
    "a source without a network": ({"source_network": None}, none("no_network")),
    "a network without bouncers": ({"source_network": front()}, none("no_bouncer")),
    "pinned within its network": ({"sender": INTERFACE_PINNED}, BOUNCER),
    "pinned within its network, host known": (
        {"sender": INTERFACE_PINNED, "destination": REMOTE._replace(flags=ENDPOINT_PINNED), "host_hop": 0},
        DIRECT,
    ),
    "pinned to another network": ({"sender": INTERFACE_PINNED, "destination_network": back()}, DIVIDER),
    "pinned to an unknown network": ({"sender": INTERFACE_PINNED, "destination_network": None}, DIVIDER),
    "pinned, though a path was learnt": (
        {"sender": INTERFACE_PINNED, "destination_network": back(), "direct": LEARNT, "learnt_hop": 0},
        DIVIDER,
    ),
    "to a pinned network whose host is known": (
        {"destination": REMOTE._replace(flags=ENDPOINT_PINNED), "host_hop": 0, "destination_network": back()},
        DIVIDER,
    ),
    "a learnt path within a pinned network": (
        {"direct": LEARNT._replace(flags=PATH_PINNED), "learnt_hop": 0},
        BY_LEARNT,
    ),
    "a path that was learnt of a pinned network": (
        {"destination_network": back(), "direct": LEARNT._replace(flags=PATH_PINNED), "learnt_hop": 0},
        DIVIDER,
    ),
    "a path that was learnt to a host of VXLAN": (
        {"direct": LEARNT, "learnt_hop": 0, "destination": VXLAN, "host_hop": 0},
        BY_LEARNT,
    ),
    "pinned and divided here, though a path was learnt": (
        {
            "sender": INTERFACE_PINNED,
            "destination_network": back(),
            "direct": LEARNT,
            "learnt_hop": 0,
            "destination": REMOTE,
            "host_hop": 0,
            "vpc": DIVIDED_HERE,
        },
        DIRECT,
    ),
    "pinned, on this host": (
        {"sender": INTERFACE_PINNED, "destination_network": back(), "destination": REMOTE._replace(ifindex=9)},
        DIVIDER,
    ),
    "pinned without a divider": (
        {"sender": INTERFACE_PINNED, "destination_network": back(), "vpc": AddressSet(0, ())},
        none("no_divider"),
    ),
    "pinned without a VPC": (
        {"sender": INTERFACE_PINNED, "destination_network": back(), "vpc": None},
        none("no_vpc"),
    ),
    "pinned, and divided here": (
        {
            "sender": INTERFACE_PINNED,
            "destination_network": back(),
            "destination": REMOTE,
            "host_hop": 0,
            "vpc": DIVIDED_HERE,
        },
        DIRECT,
    ),
    "bounced here, to another network": ({"source_network": HERE, "destination_network": back()}, DIVIDER),
    "bounced here, within": ({"source_network": HERE, "destination_network": HERE}, none("no_endpoint")),
    "bounced and divided here": (
        {"source_network": HERE, "destination_network": back(0, "10.0.0.5"), "vpc": DIVIDED_HERE},
        PathReply("bouncer", ("10.0.0.5",), encapsulation="geneve"),
    ),
    "bounced and divided here, to no network": (
        {"source_network": HERE, "destination_network": None, "vpc": DIVIDED_HERE},
        none("no_network"),
    ),
    "bounced here without a VPC": ({"source_network": HERE, "vpc": None}, none("no_vpc")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_trace_follows_the_entries_of_the_maps(name: str) -> None:
    changes, expected = CASES[name]
    assert trace(KNOWN._replace(**changes)) == expected
