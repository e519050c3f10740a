"""The topology file: what it may say, and that every mistake is named by line and field."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import controller_sim
from agent.core.model.overhead import MIN_MTU, overhead
from controller_sim.control.compiler import compile_documents
from controller_sim.topology.file import TopologyError, parse_topology, read_topology
from controller_sim.topology.ipam import allocate
from controller_sim.topology.model import capacity_of, gateway_of
from controller_sim.topology.overhead import OVERHEAD, RETURN_TO_SENDER, least_for_agent
from controller_sim.topology.placement import place

VALID = """\
droplets:
  h1: {address: 172.18.0.11/24}
  h2: {address: 172.18.0.12/24}
vpcs:
  - {name: red, vni: 1001, cidr: 10.0.0.0/16}
networks:
  - name: web
    vpc: red
    cidr: 10.0.1.0/24
    bouncers: [h1, h2]
endpoints:
  - {name: "web-{n}", network: web, count: 3, droplets: [h1, h2]}
"""
SHIPPED = sorted((Path(controller_sim.__file__).parent / "topologies").glob("*.yaml"))


def mistakes(text: str) -> list[tuple[int, str]]:
    with pytest.raises(TopologyError) as raised:
        parse_topology(text, "cloud.yaml")
    return [(mistake.line, mistake.field) for mistake in raised.value.mistakes]


def test_a_valid_file_becomes_plain_data():
    topology = parse_topology(VALID)
    assert topology.underlay.cidrs == ("172.18.0.0/24",)
    assert topology.underlay.server == "172.18.0.1"
    assert topology.networks["web"].bouncers == ("h1", "h2")
    assert topology.vpcs["red"].dividers == 1
    assert [(e.name, e.droplet) for e in topology.endpoints.values()] == [
        ("web-1", "h1"),
        ("web-2", "h2"),
        ("web-3", "h1"),
    ]


def test_droplets_may_be_a_list_or_a_map_of_addresses():
    as_list = VALID.replace(
        "  h1: {address: 172.18.0.11/24}\n  h2: {address: 172.18.0.12/24}",
        "  - {name: h1, address: 172.18.0.11/24}\n  - {name: h2, address: 172.18.0.12/24}",
    )
    short = VALID.replace("{address: 172.18.0.11/24}", "172.18.0.11/24")
    assert parse_topology(as_list) == parse_topology(short) == parse_topology(VALID)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_topology_is_valid(path):
    assert read_topology(path).endpoints


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("172.18.0.12/24}", "172.18.0.1x/24}", 3, "droplets.h2.address"),
        ("172.18.0.12/24}", "172.18.0.11/24}", 3, "droplets.h2.address"),
        ("172.18.0.12/24}", "172.18.9.12/24}", 1, "droplets"),
        ("h2: {address: 172.18.0.12/24}", "h2: {address: 172.18.0.12/24, speed: 9}", 3, "droplets.h2.speed"),
        ("h2: {address: 172.18.0.12/24}", "h2: {}", 3, "droplets.h2.address"),
        ("vni: 1001", "vni: 16777216", 5, "vpcs[0].vni"),
        ("vni: 1001", "vni: many", 5, "vpcs[0].vni"),
        ("vni: 1001", "vni: true", 5, "vpcs[0].vni"),
        ("10.0.0.0/16", "10.0.0.1/16", 5, "vpcs[0].cidr"),
        ("10.0.0.0/16", "10.9.0.0/16", 9, "networks[0].cidr"),
        ("vpc: red", "vpc: blue", 8, "networks[0].vpc"),
        ("[h1, h2]\nend", "[h1, h7]\nend", 10, "networks[0].bouncers"),
        ("[h1, h2]\nend", "[h1, h1]\nend", 10, "networks[0].bouncers"),
        ("[h1, h2]\nend", "3\nend", 10, "networks[0].bouncers"),
        ("network: web", "network: wob", 12, "endpoints[0].network"),
        ("[h1, h2]}", "[h1, h9]}", 12, "endpoints[0].droplets"),
        ('"web-{n}"', '"web"', 12, "endpoints[0].name"),
        ("count: 3", "count: 0", 12, "endpoints[0].count"),
        ("count: 3", "count: 3, address: 10.0.1.9", 12, "endpoints[0].address"),
        ("count: 3", "count: 3, speed: 10.0.1.9", 12, "endpoints[0].speed"),
        ("name: red", "name: Red", 5, "vpcs[0].name"),
        ("endpoints:", "endpoint:", 11, "endpoint"),
    ],
)
def test_an_error_names_line_and_field(old, new, line, field):
    assert old in VALID
    assert (line, field) in mistakes(VALID.replace(old, new))


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("address: 10.0.2.9", "endpoints[1].address"),
        ("address: 10.0.1.1", "endpoints[1].address"),
        ("address: 10.0.1.300", "endpoints[1].address"),
        ("mac: 03:00:00:00:00:01", "endpoints[1].mac"),
        ("address: 10.0.1.7", "endpoints[2].address"),
    ],
)
def test_an_endpoint_address_outside_its_network_or_reserved_is_refused(entry, field):
    text = VALID + f"  - {{name: a, network: web, droplet: h1, {entry}}}\n"
    if field == "endpoints[2].address":
        text += f"  - {{name: b, network: web, droplet: h1, {entry}}}\n"
    assert field in [found for _, found in mistakes(text)]


def test_a_network_with_too_few_addresses_is_an_error_beside_the_others():
    full = VALID.replace("count: 3", "count: 253")
    assert mistakes(full + "  - {name: b, network: web, droplet: h1}\n") == [(13, "endpoints[1].network")]
    assert len(allocate(parse_topology(full))) == 253
    with pytest.raises(TopologyError) as caught:
        parse_topology(VALID.replace("count: 3", "count: 300").replace("vni: 1001", "vni: 0"))
    assert [mistake.field for mistake in caught.value.mistakes] == ["vpcs[0].vni", "endpoints[0].count"]
    assert str(caught.value.mistakes[1]) == (
        "line 12: endpoints[0].count: network web (10.0.1.0/24) has addresses for 253 endpoints, and with these it has "
        "300: list fewer, or enlarge the network"
    )


@given(st.sampled_from(("10.0.1.0/{}", "fd10::/{}")), st.integers(min_value=0, max_value=5))
def test_a_network_has_addresses_for_as_many_endpoints_as_allocation_finds(cidr, bits):
    cidr = cidr.format((128 if ":" in cidr else 32) - bits)
    hosts = {str(host) for host in ip_network(cidr).hosts()}
    assert capacity_of(cidr) == len(hosts - {gateway_of(cidr)})


def test_several_errors_are_reported_together_in_order_of_lines():
    text = VALID.replace("vni: 1001", "vni: 0").replace("network: web", "network: no").replace("/24}", "/99}")
    found = mistakes(text)
    assert [line for line, _ in found] == sorted(line for line, _ in found)
    assert {"vpcs[0].vni", "endpoints[0].network", "droplets.h1.address", "droplets.h2.address"} <= {
        f for _, f in found
    }


def test_an_error_is_one_line_with_file_line_field_and_reason():
    with pytest.raises(TopologyError, match=r"^cloud\.yaml: line 5: vpcs\[0\]\.vni: 0 is not from 1 to 16777215$"):
        parse_topology(VALID.replace("vni: 1001", "vni: 0"), "cloud.yaml")


def test_a_name_used_twice_is_named():
    text = VALID + "  - {name: web-2, network: web, droplet: h1}\n"
    assert mistakes(text) == [(13, "endpoints[1].name")]


@pytest.mark.parametrize("text", ["", "- 1\n", "droplets: [\n", "droplets: 7\n", "a: b: c\n", "droplets: {h1: 3}\n"])
def test_a_file_that_is_no_topology_is_refused_with_a_line_number(text):
    assert mistakes(text)


@pytest.mark.parametrize(
    ("name", "ends"), [('"ep-{n}"', "; {n} is only for an entry with `count`"), ("Ep", "at most 31")]
)
def test_a_name_with_a_number_to_fill_in_needs_a_count(name, ends):
    with pytest.raises(TopologyError) as raised:
        parse_topology(VALID + f"  - {{name: {name}, network: web, droplet: h1}}\n")
    assert str(raised.value).endswith(ends)


def test_two_overlapping_networks_of_a_vpc_are_refused():
    text = VALID.replace("endpoints:", "  - {name: wide, vpc: red, cidr: 10.0.0.0/20}\nendpoints:")
    assert (11, "networks[1].cidr") in mistakes(text)


def test_the_example_of_the_reference_is_valid():
    document = Path(controller_sim.__file__).parents[1] / "docs" / "topology.md"
    example = document.read_text().partition("```yaml\n")[2].partition("```")[0]
    topology = parse_topology(example)
    assert topology.underlay.server == "172.18.0.100"
    assert [(e.name, e.droplet) for e in topology.endpoints.values() if e.network == "web"] == [
        ("web-1", "h1"),
        ("web-2", "h2"),
        ("web-3", "h1"),
    ]
    assert topology.endpoints["data-1"].addresses == ("10.0.2.50",)


@pytest.mark.parametrize(
    ("old", "new", "only"),
    [
        ("172.18.0.12/24}", "172.18.0.1x/24}", (3, "droplets.h2.address")),
        ("cidr: 10.0.0.0/16", "cidr: 10.0.0.1/16", (5, "vpcs[0].cidr")),
        ("cidr: 10.0.1.0/24", "cidr: 10.0.1.1/24", (9, "networks[0].cidr")),
        ("vpc: red", "vpc: blue", (8, "networks[0].vpc")),
        ("droplets:\n", "underlay: {cidr: 172.18.0.1/24}\ndroplets:\n", (1, "underlay.cidr")),
    ],
)
def test_a_reference_to_an_invalid_object_is_no_second_error(old, new, only):
    assert mistakes(VALID.replace(old, new, 1)) == [only]


def test_two_invalid_vnis_are_two_errors_and_no_duplicate():
    text = VALID.replace("vni: 1001", "vni: 0").replace(
        "networks:", "  - {name: blue, vni: 0, cidr: 10.0.0.0/16}\nnetworks:"
    )
    assert mistakes(text) == [(5, "vpcs[0].vni"), (6, "vpcs[1].vni")]


ROUTED = """\
underlay:
  mtu: 1600
  subnets:
    north: {cidr: [172.18.1.0/24, "fd18:0:0:1::/64"]}
    south: {cidr: 172.18.2.0/24, mtu: 1500, router_mtu: 1400}
droplets:
  a1: {host: a, address: 172.18.1.11}
  a2: {host: a, address: 172.18.2.11, queues: 2}
  b: {address: "fd18:0:0:1::12", udp_checksum: zero, link_mtu: 1450}
  p: {address: 172.18.2.14, peer: vxlan}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [b], encapsulation: vxlan}
  - {name: data, vpc: red, cidr: "fd10:0:0:2::/64", routing: divider, labels: true}
endpoints:
  - {name: web-1, network: web, droplet: a2, address: ["fd10:0:0:1::9", 10.0.1.9], dscp: 46, label: 4294967295}
  - {name: bare-1, network: web, droplet: p}
agents: {attach_mode: generic, data_plane: {geneve_port: 7081, families: [ipv4, ipv6]}}
"""


def test_subnets_interfaces_peers_and_agents_become_plain_data():
    topology = parse_topology(ROUTED)
    assert [(one.name, one.mtu, one.router_mtu) for one in topology.underlay.subnets] == [
        ("north", 1600, 1600),
        ("south", 1500, 1400),
    ]
    assert topology.hosts == ["a", "b"]
    assert topology.interfaces_of("a") == ["eth0", "eth1"]
    assert topology.host_of("web-1") == "a"
    assert [one.name for one in topology.peers] == ["p"]
    assert (topology.droplets["a2"].queues, topology.droplets["a2"].subnet) == (2, "south")
    assert (topology.droplets["b"].udp_checksum, topology.droplets["b"].link_mtu) == ("zero", 1450)
    assert topology.networks["web"].encapsulation == "vxlan"
    assert topology.networks["data"].routing == "divider"
    assert topology.networks["data"].labels
    assert not topology.networks["web"].labels
    assert topology.endpoints["web-1"].addresses == ("fd10:0:0:1::9", "10.0.1.9")
    assert (topology.endpoints["web-1"].dscp, topology.endpoints["web-1"].label) == (46, 4294967295)
    assert topology.agents.attach_mode == "generic"
    assert dict(topology.agents.data_plane) == {"geneve_port": 7081, "families": ("ipv4", "ipv6")}


def test_labels_and_who_asks_for_them_are_in_the_documents_of_every_host():
    text = ROUTED.replace("label: 4294967295}", "label: 7}").replace("bouncers: [b]", "bouncers: [a1, b]")
    topology = parse_topology(text)
    documents = compile_documents(topology, allocate(topology), place(topology), str)
    for host, name in (("a", "endpoint.web-1"), ("b", "network.web.p")):
        labels = {endpoint.id: endpoint.label for endpoint in documents[host][name].endpoints}
        assert labels["web-1"] == 7
    found = {(one.id, one.labels) for host in topology.hosts for one in documents[host]["vpc.red"].networks}
    assert found == {("web", False), ("data", True)}


def test_the_server_has_an_address_of_each_family_of_its_subnet_and_a_host_reaches_it_by_its_own():
    topology = parse_topology(ROUTED)
    assert topology.underlay.servers == ("172.18.1.2", "fd18:0:0:1::2")
    assert topology.server_for("a") == "172.18.1.2"
    assert topology.server_for("b") == "fd18:0:0:1::2"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('cidr: [10.0.0.0/16, "fd10::/48"]', "cidr: [10.0.0.0/16, 10.1.0.0/16]", "vpcs[0].cidr"),
        ('cidr: [10.0.0.0/16, "fd10::/48"]', "cidr: []", "vpcs[0].cidr"),
        ('cidr: "fd10:0:0:2::/64"', 'cidr: "fd11::/64"', "networks[1].cidr"),
        ('"fd10:0:0:1::9", 10.0.1.9', "10.0.1.8, 10.0.1.9", "endpoints[0].address"),
        ('"fd10:0:0:1::9", 10.0.1.9', '"fd10:0:0:1::1"', "endpoints[0].address"),
        ("dscp: 46", "dscp: 64", "endpoints[0].dscp"),
        ("label: 4294967295", "label: 4294967296", "endpoints[0].label"),
        ("labels: true", "labels: 1", "networks[1].labels"),
        ("encapsulation: vxlan", "encapsulation: vxlan, labels: true", "networks[0].labels"),
        ("encapsulation: vxlan", "encapsulation: gre", "networks[0].encapsulation"),
        (", encapsulation: vxlan", "", "endpoints[1].network"),
        ("routing: divider", "routing: sideways", "networks[1].routing"),
        ("bouncers: [b]", "bouncers: [p]", "networks[0].bouncers"),
        ("peer: vxlan", "peer: gre", "droplets.p.peer"),
        ("p: {address", "p: {host: a, address", "droplets.p.peer"),
        ("queues: 2", "queues: 17", "droplets.a2.queues"),
        ("queues: 2", "queues: 2, interface: eth0", "droplets.a2.interface"),
        ("queues: 2", "queues: 2, interface: wlan0", "droplets.a2.interface"),
        ("udp_checksum: zero", "udp_checksum: none", "droplets.b.udp_checksum"),
        ("queues: 2", "queues: 2, udp_checksum: zero", "droplets.a2.udp_checksum"),
        ("address: 172.18.2.11", "address: 172.18.2.1", "droplets.a2.address"),
        ("address: 172.18.2.11", "address: 172.18.3.11", "droplets.a2.address"),
        ("cidr: 172.18.2.0/24,", "cidr: 172.18.1.0/25,", "underlay.subnets.south.cidr"),
        ("router_mtu: 1400", "router_mtu: 14", "underlay.subnets.south.router_mtu"),
        ("  mtu: 1600", "  cidr: 172.18.0.0/16\n  mtu: 1600", "underlay.cidr"),
        ("  mtu: 1600", "  mtu: 1600\n  server: 172.18.1.1", "underlay"),
        ("  mtu: 1600", "  mtu: 1600\n  server: [172.18.2.100]", "droplets"),
        ("  mtu: 1600", "  mtu: 1200", "underlay"),
        ("  mtu: 1600", "  mtu: 1373", "underlay"),
        ("mtu: 1500, router_mtu: 1400", "mtu: 1341, router_mtu: 1300", "underlay"),
        ("address: 172.18.2.11", "address: 172.18.2.255", "droplets.a2.address"),
        ("address: 172.18.2.11", "address: 172.18.2.0", "droplets.a2.address"),
        ("  mtu: 1600", "  mtu: 1600\n  server: 172.18.1.255", "underlay"),
        ('"fd10:0:0:1::9", 10.0.1.9', "10.0.1.255", "endpoints[0].address"),
        ("geneve_port: 7081", "geneve_port: 4789", "agents.data_plane.geneve_port"),
        ("geneve_port: 7081", "vxlan_port: 6081", "agents.data_plane.vxlan_port"),
        ("geneve_port: 7081", "vxlan_port: 0", "agents.data_plane.vxlan_port"),
        ("families: [ipv4, ipv6]", "families: [ipv6]", "agents.data_plane.families"),
        ("families: [ipv4, ipv6]", "families: [ipv4]", "agents.data_plane.families"),
        ("families: [ipv4, ipv6]", "underlay: [ipv6]", "agents.data_plane.underlay"),
        ("families: [ipv4, ipv6]", "underlay: [ipv4]", "agents.data_plane.underlay"),
        ("attach_mode: generic", "attach_mode: fast", "agents.attach_mode"),
        ("geneve_port: 7081", "geneve_port: 0", "agents.data_plane.geneve_port"),
        ("families: [ipv4, ipv6]", "families: [ipx]", "agents.data_plane.families"),
        ("geneve_port: 7081", "port: 7081", "agents.data_plane.port"),
    ],
)
def test_an_error_in_the_underlay_or_in_a_family_names_its_field(old, new, field):
    assert old in ROUTED
    assert field in {found for _, found in mistakes(ROUTED.replace(old, new, 1))}


def messages_of(text: str) -> list[str]:
    with pytest.raises(TopologyError) as raised:
        parse_topology(text)
    return [mistake.message for mistake in raised.value.mistakes]


def test_a_renamed_field_is_named_with_its_new_name() -> None:
    assert "it was renamed: write underlay" in messages_of(VALID + "substrate: {cidr: 172.18.0.0/24}\n")


def test_the_broadcast_and_the_network_address_are_no_droplets_whether_the_prefix_is_written_or_not():
    assert (3, "droplets.h2.address") in mistakes(VALID.replace("172.18.0.12/24", "172.18.0.255/24"))
    bare = "underlay: {cidr: 172.18.0.0/24}\n" + VALID.replace("172.18.0.11/24", "172.18.0.0").replace("/24}", "}")
    assert (3, "droplets.h1.address") in mistakes(bare)


def test_the_least_mtu_is_that_of_the_agents():
    for version, family in ((4, "ipv4"), (6, "ipv6")):
        assert OVERHEAD[version] + RETURN_TO_SENDER[version] == overhead(family)
        assert least_for_agent(version) == MIN_MTU["ipv6"] + overhead(family)


@pytest.mark.parametrize(("cidr", "least"), [("172.18.0.{}/24", 1342), ("fd18::{}/64", 1374)])
def test_the_smallest_mtu_for_agents_is_valid_and_one_byte_less_is_one_error(cidr, least):
    text = VALID.replace("172.18.0.11/24", f'"{cidr.format(11)}"').replace("172.18.0.12/24", f'"{cidr.format(12)}"')
    assert parse_topology(f"underlay: {{mtu: {least}}}\n{text}").underlay.mtu == least
    (said,) = messages_of(f"underlay: {{mtu: {least - 1}}}\n{text}")
    assert f"the MTU is {least - 1}, and h1, h2 must have {least} or more" in said


def test_the_mtu_of_a_router_or_link_may_be_smaller_than_agents_need():
    narrow = ROUTED.replace("router_mtu: 1400", "router_mtu: 1300").replace("link_mtu: 1450", "link_mtu: 1300")
    assert parse_topology(narrow).underlay.subnets[1].router_mtu == 1300


def test_a_small_mtu_and_all_other_errors_of_the_underlay_are_reported_together():
    text = ROUTED.replace("  mtu: 1600", "  mtu: 1000\n  speed: 9\n  server: 172.18.7.7").replace("vni: 1001", "vni: 0")
    fields = {field for _, field in mistakes(text)}
    assert {"underlay", "underlay.speed", "vpcs[0].vni"} <= fields
    said = "\n".join(messages_of(text))
    assert "the MTU of north is 1000, and a1 must have 1342" in said
    assert "b must have 1374" in said
    assert "172.18.7.7" in said


def test_a_vxlan_peer_as_bouncer_or_divider_is_an_error():
    assert messages_of(ROUTED.replace("bouncers: [b]", "bouncers: [p]")) == [
        "p is a VXLAN peer and cannot be a bouncer or divider: choose a droplet with an agent"
    ]
    divided = ROUTED.replace('"fd10::/48"]}', '"fd10::/48"], dividers: [p]}')
    assert messages_of(divided) == [
        "p is a VXLAN peer and cannot be a bouncer or divider: choose a droplet with an agent"
    ]


def test_a_disabled_family_names_the_objects_that_need_it():
    assert messages_of(ROUTED.replace("families: [ipv4, ipv6]", "families: [ipv6], underlay: [ipv6]")) == [
        "ipv4 is missing, but network web has 10.0.1.0/24: add it",
        "ipv4 is missing, but a1 has 172.18.1.11: add it",
    ]
