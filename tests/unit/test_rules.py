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


def test_a_valid_document_breaks_no_rule() -> None:
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
def test_the_second_of_two_duplicates_is_named(document: Document, path: str) -> None:
    assert [(error.path, error.code) for error in check(document)] == [(path, ErrorCode.DUPLICATE)]


@pytest.mark.parametrize("addresses", [("10.1.1.5", "10.1.1.6"), ("fd00::5", "fd00::6")])
def test_an_endpoint_has_one_address_of_each_family(addresses: tuple[str, str]) -> None:
    """It could send from the first one only, and the second would count as realized."""
    endpoint = Endpoint("a", "front", "d1", addresses, "02:00:00:00:00:05")
    (error,) = check(Document(endpoints=(endpoint,)))
    assert (error.path, error.code) == ("endpoints[0].addresses[1]", ErrorCode.INVALID)


def test_a_network_with_routing_divider_must_use_geneve() -> None:
    pinned = Network("front", "red", ("10.1.1.0/24",), encapsulation="vxlan", routing="divider")
    (error,) = check(Document(vpcs=(VPC,), networks=(pinned,)))
    assert (error.path, error.code) == ("networks[0].routing", ErrorCode.INVALID)


def test_a_network_that_asks_for_labels_must_use_geneve() -> None:
    group = Network("front", "red", ("10.1.1.0/24",), encapsulation="vxlan", labels=True)
    (error,) = check(Document(vpcs=(VPC,), networks=(group,)))
    assert (error.path, error.code) == ("networks[0].labels", ErrorCode.INVALID)


def errors_of(document: Document) -> list[tuple[str, str, str]]:
    return [(error.path, error.code.value, error.message) for error in check(document)]


def test_wrong_gateways_are_reported_together_with_other_errors() -> None:
    cidrs, gateways = ("10.1.1.0/24", "fd00::/64"), ("10.9.9.9", "fd09::1")
    wrong = Network("front", "red", cidrs, ("d1", "d1"), gateways, encapsulation="vxlan", routing="divider")
    assert [path for path, _, _ in errors_of(Document(networks=(wrong,)))] == [
        "networks[0].bouncers[1]",
        "networks[0].routing",
        "networks[0].gateways[0]",
        "networks[0].gateways[1]",
    ]


def test_a_gateway_beside_one_that_is_no_address_is_checked_all_the_same() -> None:
    wrong = Network("front", "red", ("10.1.1.0/24", "fd00::/64"), gateways=("10.1.1.300", "fd09::1"))
    assert [path for path, _, _ in errors_of(Document(networks=(wrong,)))] == [
        "networks[0].gateways[0]",
        "networks[0].gateways[1]",
    ]


def test_too_few_gateways_are_reported_together_with_other_errors() -> None:
    wrong = Network("front", "red", ("10.1.1.0/24", "fd00::/64"), ("d1", "d1"), ("10.1.1.1",))
    assert [path for path, _, _ in errors_of(Document(networks=(wrong,)))] == [
        "networks[0].bouncers[1]",
        "networks[0].gateways",
    ]


@pytest.mark.parametrize(
    ("cidr", "gateway"),
    [("10.1.1.0/24", "10.1.1.0"), ("10.1.1.0/24", "10.1.1.255"), ("10.1.1.0/30", "10.1.1.3"), ("fd00::/64", "fd00::")],
)
def test_a_gateway_at_the_edge_of_its_network_is_refused(cidr: str, gateway: str) -> None:
    message = f"{gateway} is no interface's address, but the first or last of {cidr}"
    wrong = Document(networks=(Network("front", "red", (cidr,), gateways=(gateway,)),))
    assert errors_of(wrong) == [("networks[0].gateways[0]", "out_of_range", message)]


@pytest.mark.parametrize(
    ("cidr", "gateway"),
    [
        *(("10.1.1.0/24", "10.1.1.254"), ("10.1.1.0/31", "10.1.1.0"), ("10.1.1.0/31", "10.1.1.1")),
        *(("10.1.1.7/32", "10.1.1.7"), ("fd00::/64", "fd00::ffff:ffff:ffff:ffff"), ("fd00::/127", "fd00::")),
    ],
)
def test_a_gateway_that_an_interface_can_have_is_accepted(cidr: str, gateway: str) -> None:
    assert errors_of(Document(networks=(Network("front", "red", (cidr,), gateways=(gateway,)),))) == []


def test_a_droplet_with_an_ipv4_address_cannot_set_udp_checksum_zero() -> None:
    message = "tunnels over IPv4 go without a UDP checksum in any case: zero is for droplets with an IPv6 address"
    unsigned = Document(
        droplets=(DROPLET, Droplet("d2", "h2", "10.0.0.2", "zero"), Droplet("d3", "h3", "fd::3", "zero"))
    )
    assert errors_of(unsigned) == [("droplets[1].udp_checksum", "invalid", message)]
