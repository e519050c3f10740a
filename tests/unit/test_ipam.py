"""Allocation: deterministic, within the network, and stable when the topology changes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller_sim.topology.ipam import ExhaustedError, allocate, mac_of
from controller_sim.topology.model import Droplet, Endpoint, Network, Subnet, Topology, Underlay, Vpc, gateway_of
from protocol.addresses import parse_mac


def cloud(*endpoints: Endpoint, cidr: str = "10.0.1.0/24", more: tuple[str, ...] = ()) -> Topology:
    cidrs = (cidr, *more)
    return Topology(
        Underlay((Subnet("underlay", ("172.18.0.0/24",)),), ("172.18.0.1",)),
        {"h1": Droplet("h1", "172.18.0.11", "h1")},
        {"red": Vpc("red", 1, ("10.0.0.0/16",)), "blue": Vpc("blue", 2, ("10.0.0.0/16",))},
        {"web": Network("web", "red", cidrs), "shop": Network("shop", "blue", cidrs)},
        {endpoint.name: endpoint for endpoint in endpoints},
    )


def test_the_lowest_free_addresses_are_given_in_the_files_order_but_not_the_gateways():
    found = allocate(cloud(Endpoint("b", "web", "h1"), Endpoint("a", "web", "h1")))
    assert found["b"].address == "10.0.1.2"
    assert found["a"].address == "10.0.1.3"


def test_a_configured_address_is_kept_and_not_allocated_to_others():
    found = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "web", "h1", ("10.0.1.2",), "02:00:00:00:00:aa")))
    assert found["b"].address == "10.0.1.2"
    assert found["b"].mac == "02:00:00:00:00:aa"
    assert found["a"].address == "10.0.1.3"


def test_an_endpoint_gets_an_address_of_each_family_of_its_network():
    found = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "web", "h1", ("fd10::2",)), more=("fd10::/64",)))
    assert found["a"].addresses == ("10.0.1.2", "fd10::3")
    assert found["b"].addresses == ("10.0.1.3", "fd10::2")
    assert found["a"].mac == mac_of("10.0.1.2"), "IPv4's where there is one"


def test_a_network_of_ipv6_alone_gives_addresses_and_macs():
    found = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "web", "h1"), cidr="fd10::/64"))
    assert [one.addresses for one in found.values()] == [("fd10::2",), ("fd10::3",)]
    assert found["a"].mac == mac_of("fd10::2") != found["b"].mac


def test_an_endpoint_keeps_its_address_when_its_network_gets_another_family():
    before = allocate(cloud(Endpoint("b", "web", "h1"), Endpoint("a", "web", "h1")))
    after = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "web", "h1"), more=("fd10::/64",)), before)
    assert after["a"].addresses == ("10.0.1.3", "fd10::2")
    assert after["a"].mac == before["a"].mac


def test_two_vpcs_may_have_the_same_addresses():
    found = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "shop", "h1")))
    assert found["a"] == found["b"]


def test_an_endpoint_keeps_its_address_when_another_comes_before_it():
    before = allocate(cloud(Endpoint("b", "web", "h1")))
    after = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "web", "h1")), before)
    assert after["b"] == before["b"]
    assert after["a"] != before["b"]


def test_an_endpoint_that_moves_to_another_range_gets_a_new_address():
    before = allocate(cloud(Endpoint("a", "web", "h1")))
    after = allocate(cloud(Endpoint("a", "web", "h1"), cidr="10.0.7.0/24"), before)
    assert after["a"].address == "10.0.7.2"


def test_a_configured_address_takes_precedence_over_an_earlier_one():
    before = allocate(cloud(Endpoint("a", "web", "h1")))
    after = allocate(cloud(Endpoint("a", "web", "h1"), Endpoint("b", "web", "h1", before["a"].addresses)), before)
    assert after["b"].address == before["a"].address
    assert after["a"].address != before["a"].address


def test_a_full_network_is_named():
    endpoints = [Endpoint(f"e{n}", "web", "h1") for n in range(6)]
    assert len(allocate(cloud(*endpoints[:5], cidr="10.0.1.0/29"))) == 5
    with pytest.raises(ExhaustedError, match="web"):
        allocate(cloud(*endpoints, cidr="10.0.1.0/29"))


def test_the_mac_follows_from_the_address_and_is_unicast():
    assert mac_of("10.0.1.2") == "02:00:0a:00:01:02"
    assert parse_mac(mac_of("fd00::7"))
    assert mac_of("fd00::7") != mac_of("fd00::8")


@given(st.lists(st.integers(min_value=2, max_value=60), unique=True, max_size=20), st.integers(0, 40))
def test_no_two_endpoints_of_a_vpc_share_an_address_or_a_mac(written, free):
    endpoints = [Endpoint(f"w{n}", "web", "h1", (f"10.0.1.{n}",)) for n in written]
    endpoints += [Endpoint(f"f{n}", "web", "h1") for n in range(free)]
    found = allocate(cloud(*endpoints, cidr="10.0.1.0/24"))
    assert len({a.address for a in found.values()}) == len({a.mac for a in found.values()}) == len(endpoints)
    assert all(ip_address(a.address) in ip_network("10.0.1.0/24") for a in found.values())
    assert gateway_of("10.0.1.0/24") not in {a.address for a in found.values()}
