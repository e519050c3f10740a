"""Addresses, CIDRs and MACs: one spelling each, and the arithmetic over them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import addresses
from protocol.addresses import Cidr

cidrs = st.builds(
    lambda address, prefix: ip_network((address, prefix % (address.max_prefixlen + 1)), strict=False),
    st.ip_addresses(),
    st.integers(0, 128),
)


@given(st.ip_addresses())
def test_an_address_survives_formatting_and_parsing(address: IPv4Address | IPv6Address) -> None:
    packed = address.packed
    assert addresses.parse_address(addresses.format_address(packed)) == packed


@given(cidrs, st.ip_addresses())
def test_containment_is_that_of_the_standard_library(network, address) -> None:
    cidr = addresses.parse_cidr(f"{addresses.format_address(network.network_address.packed)}/{network.prefixlen}")
    assert addresses.contains(cidr, address.packed) == (address in network)
    assert addresses.contains(cidr, network.broadcast_address.packed)


@given(cidrs, cidrs)
def test_a_cidr_within_another_is_its_subnet(inner, outer) -> None:
    expected = inner.version == outer.version and inner.subnet_of(outer)
    parts = [Cidr(network.network_address.packed, network.prefixlen) for network in (inner, outer)]
    assert addresses.within(*parts) == expected


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0", "10.0.0.01", "10.0.0.256", " 10.0.0.1", "10.0.0.1\n", "FD00::1", "fd00:0::1", "::1%eth0", "1\0"],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        addresses.parse_address(text)


@pytest.mark.parametrize("text", ["0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255", "::", "::1", "ff02::1"])
def test_an_interface_cannot_have_an_address_that_is_not_unicast(text: str) -> None:
    with pytest.raises(ValueError, match="unicast"):
        addresses.parse_host_address(text)


@pytest.mark.parametrize("text", ["fe80::1", "febf::1"])
def test_a_link_local_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="link-local"):
        addresses.parse_host_address(text)


@pytest.mark.parametrize("text", ["fec0::1", "fd00::1", "2001:db8::1"])
def test_addresses_next_to_the_link_local_range_are_accepted(text: str) -> None:
    assert len(addresses.parse_host_address(text)) == 16


@pytest.mark.parametrize(
    ("text", "remedy_for"),
    [
        ("10.0.0.0", "write ADDRESS/PREFIX"),
        ("10.0.0.0/", "write ADDRESS/PREFIX"),
        ("10.0.0.0/٣", "write ADDRESS/PREFIX"),
        ("10.0.0.0/-1", "write ADDRESS/PREFIX"),
        ("10.0.0.0/33", "at most 32 bits"),
        ("fd00::/129", "at most 128 bits"),
        ("10.0.0.1/24", "write 10.0.0.0/24"),
    ],
)
def test_an_invalid_cidr_is_reported_with_a_remedy(text: str, remedy_for: str) -> None:
    with pytest.raises(ValueError, match=remedy_for):
        addresses.parse_cidr(text)


@pytest.mark.parametrize(
    ("cidr", "gateway"), [("10.0.0.0/24", "10.0.0.1"), ("10.0.0.7/32", "10.0.0.7"), ("fd00::/64", "fd00::1")]
)
def test_the_gateway_is_the_first_host(cidr: str, gateway: str) -> None:
    assert addresses.first_host(addresses.parse_cidr(cidr)) == ip_address(gateway).packed
    assert str(addresses.parse_cidr(cidr)) == cidr


@pytest.mark.parametrize("text", ["02:00:00:00:00", "01:00:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:0G", ""])
def test_a_mac_that_is_not_unicast_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        addresses.parse_mac(text)


@given(st.binary(min_size=6, max_size=6).map(lambda mac: bytes([mac[0] & 0xFE, *mac[1:]])))
def test_a_mac_survives_formatting_and_parsing(mac: bytes) -> None:
    assert addresses.parse_mac(addresses.format_mac(mac)) == mac
