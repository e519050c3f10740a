"""What one document may not say twice."""

from __future__ import annotations

import pytest

from protocol.documents import Document, Droplet, Endpoint, Network, Vpc
from protocol.errors import ErrorCode
from protocol.rules import check

DROPLET = Droplet("d1", "h1", "10.0.0.1")
SAME_ADDRESS = Droplet("d2", "h1", "10.0.0.1")
VPC = Vpc("red", 7, ("10.1.0.0/16", "fd00::/48"))
NETWORK = Network("front", "red", ("10.1.1.0/24", "fd00::/64"))
ENDPOINT = Endpoint("a", "front", "d1", ("10.1.1.5", "fd00::5"), "02:00:00:00:00:05")
SECOND = Endpoint("b", "front", "d1", ("10.1.1.5",), "02:00:00:00:00:06")
DOUBLE = Endpoint("a", "front", "d1", ("10.1.1.5", "10.1.1.5"), "02:00:00:00:00:05")


def test_a_sound_document_breaks_no_rule() -> None:
    assert check(Document((DROPLET,), (VPC,), (NETWORK,), (ENDPOINT,))) == []


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (Document(droplets=(DROPLET, DROPLET)), "droplets[1].id"),
        (Document(droplets=(DROPLET, SAME_ADDRESS)), "droplets[1].address"),
        (Document(vpcs=(VPC, VPC)), "vpcs[1].id"),
        (Document(networks=(NETWORK, NETWORK)), "networks[1].id"),
        (Document(endpoints=(ENDPOINT, SECOND)), "endpoints[1].addresses[0]"),
        (Document(endpoints=(DOUBLE,)), "endpoints[0].addresses[1]"),
    ],
)
def test_the_second_of_two_is_named(document: Document, path: str) -> None:
    assert [(error.path, error.code) for error in check(document)] == [(path, ErrorCode.DUPLICATE)]


def test_a_network_that_only_dividers_connect_speaks_geneve() -> None:
    pinned = Network("front", "red", ("10.1.1.0/24",), encapsulation="vxlan", routing="divider")
    (error,) = check(Document(vpcs=(VPC,), networks=(pinned,)))
    assert (error.path, error.code) == ("networks[0].routing", ErrorCode.INVALID)
