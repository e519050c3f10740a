"""What a name on the lab's command line means, and why two endpoints cannot talk."""

from __future__ import annotations

import pytest

from controller_sim.lab.naming import namespace_of, unknown_endpoint, unknown_host, why_apart
from controller_sim.lab.state import LabError
from controller_sim.lab.underlay import Names
from controller_sim.topology.file import TopologyError, parse_topology
from controller_sim.topology.ipam import allocate

TEXT = """\
underlay: {cidr: [172.18.0.0/24, "fd18::/64"]}
droplets:
  a1: {host: a, address: 172.18.0.11}
  a2: {host: a, address: 172.18.0.12}
  b: {address: 172.18.0.13}
  p: {address: 172.18.0.14, peer: vxlan}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"]}
  - {name: blue, vni: 2002, cidr: [10.0.0.0/16, "fd10::/48"]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"]}
  - {name: shop, vpc: blue, cidr: [10.0.0.0/16, "fd10:0:0:1::/64"]}
endpoints:
  - {name: web-1, network: web, droplet: a1}
  - {name: web-2, network: web, droplet: b}
  - {name: shop-1, network: shop, droplet: b, address: [10.0.1.2, "fd10:0:0:1::9"]}
  - {name: shop-2, network: shop, droplet: b, address: 10.0.1.1}
"""
TOPOLOGY = parse_topology(TEXT)
ASSIGNED = allocate(TOPOLOGY)
NAMES = Names("one")


def test_endpoints_of_one_vpc_are_not_isolated():
    assert why_apart(TOPOLOGY, ASSIGNED, "web-1", "web-2") is None


@pytest.mark.parametrize(
    ("destination", "family", "holder"),
    [
        ("shop-1", None, "in red, 10.0.1.2 is web-1's"),
        ("shop-1", 6, "in red, fd10:0:0:1::9 is unused"),
        ("shop-2", 4, "in red, 10.0.1.1 is the gateway of web"),
    ],
)
def test_a_destination_in_another_vpc_is_explained_with_its_holder(destination, family, holder):
    said = why_apart(TOPOLOGY, ASSIGNED, "web-2", destination, family)
    assert said == f"web-2 is in VPC red and {destination} in VPC blue: VPCs are isolated from each other; {holder}"


def test_an_endpoint_does_not_talk_to_itself():
    assert "never leave its namespace" in (why_apart(TOPOLOGY, ASSIGNED, "web-1", "web-1") or "")


def test_endpoints_and_hosts_have_namespaces():
    assert namespace_of(TOPOLOGY, NAMES, "web-1") == "one_endpoint_web-1"
    assert namespace_of(TOPOLOGY, NAMES, "droplet:a") == "one_droplet_a"
    assert namespace_of(TOPOLOGY, NAMES, "droplet:p") == "one_droplet_p"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("b", "b is a host, not an endpoint: with `exec`, write droplet:b"),
        ("a1", "a1 is a droplet of host a, not an endpoint: with `exec`, write droplet:a"),
        ("droplet:a1", "a1 is a droplet of host a; hosts are a, b, p"),
        ("droplet:x", "there is no host 'x'; hosts are a, b, p"),
        ("router", "there is no router: the underlay has a single subnet"),
        ("web-9", "there is no endpoint 'web-9'; endpoints are shop-1, shop-2, web-1, web-2, and hosts a, b, p"),
    ],
)
def test_a_name_without_a_namespace_is_explained(target, reason):
    with pytest.raises(LabError, match=f"^{reason}"):
        namespace_of(TOPOLOGY, NAMES, target)


def test_a_host_without_an_agent_is_named():
    assert unknown_host(TOPOLOGY, "p") == "p is a VXLAN peer and has no agent; hosts with one are a, b"
    assert unknown_host(TOPOLOGY, "a2") == "a2 is a droplet of host a; hosts are a, b"
    assert unknown_host(TOPOLOGY, "x") == "there is no host 'x'; hosts are a, b"


def test_the_router_is_known_where_there_are_several_subnets():
    routed = parse_topology(
        TEXT.replace(
            'cidr: [172.18.0.0/24, "fd18::/64"]', "subnets: {n: {cidr: 172.18.0.0/24}, s: {cidr: 172.19.0.0/24}}"
        )
    )
    assert namespace_of(routed, NAMES, "router") == "one_router"
    assert unknown_endpoint(routed, "router").startswith("the router is not an endpoint: use it with `exec` only")


def test_a_function_endpoint_has_no_namespace():
    text = TEXT.replace("web-1, network: web, droplet: a1", "web-1, network: web, droplet: a1, attachment: function")
    topology = parse_topology(text)
    assert "one_endpoint_web-1" not in NAMES.of(topology)
    with pytest.raises(LabError, match=r"^web-1 is a function endpoint: it has no interface"):
        namespace_of(topology, NAMES, "web-1")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("droplet: a1, attachment: tap", "'tap' is not veth or function"),
        ("droplet: p, attachment: function", "p is a VXLAN peer, which runs no functions: choose another droplet"),
    ],
)
def test_other_attachments_and_function_endpoints_on_peers_are_refused(endpoint, reason):
    text = TEXT.replace("web, vpc: red,", "web, vpc: red, encapsulation: vxlan,")
    with pytest.raises(TopologyError, match=reason):
        parse_topology(text.replace("web-1, network: web, droplet: a1", f"web-1, network: web, {endpoint}"))
