"""The topology file: what it may say, and that every mistake is named by line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

import controller_sim
from controller_sim.topology_file import TopologyError, parse_topology, read_topology

SOUND = """\
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


def test_a_sound_file_becomes_plain_data():
    topology = parse_topology(SOUND)
    assert topology.substrate.cidrs == ("172.18.0.0/24",)
    assert topology.substrate.server == "172.18.0.1"
    assert topology.networks["web"].bouncers == ("h1", "h2")
    assert topology.vpcs["red"].dividers == 1
    assert [(e.name, e.droplet) for e in topology.endpoints.values()] == [
        ("web-1", "h1"),
        ("web-2", "h2"),
        ("web-3", "h1"),
    ]


def test_droplets_may_be_a_list_or_a_map_of_addresses():
    as_list = SOUND.replace(
        "  h1: {address: 172.18.0.11/24}\n  h2: {address: 172.18.0.12/24}",
        "  - {name: h1, address: 172.18.0.11/24}\n  - {name: h2, address: 172.18.0.12/24}",
    )
    short = SOUND.replace("{address: 172.18.0.11/24}", "172.18.0.11/24")
    assert parse_topology(as_list) == parse_topology(short) == parse_topology(SOUND)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_topology_is_sound(path):
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
def test_a_mistake_is_named_by_line_and_field(old, new, line, field):
    assert old in SOUND
    assert (line, field) in mistakes(SOUND.replace(old, new))


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
def test_an_endpoint_gets_no_address_that_is_not_its_to_have(entry, field):
    text = SOUND + f"  - {{name: a, network: web, droplet: h1, {entry}}}\n"
    if field == "endpoints[2].address":
        text += f"  - {{name: b, network: web, droplet: h1, {entry}}}\n"
    assert field in [found for _, found in mistakes(text)]


def test_several_mistakes_are_reported_at_once_in_order_of_lines():
    text = SOUND.replace("vni: 1001", "vni: 0").replace("network: web", "network: no").replace("/24}", "/99}")
    found = mistakes(text)
    assert [line for line, _ in found] == sorted(line for line, _ in found)
    assert {"vpcs[0].vni", "endpoints[0].network", "droplets.h1.address", "droplets.h2.address"} <= {
        f for _, f in found
    }


def test_a_mistake_is_one_line_with_file_line_field_and_reason():
    with pytest.raises(TopologyError, match=r"^cloud\.yaml: line 5: vpcs\[0\]\.vni: 0 is not from 1 to 16777215$"):
        parse_topology(SOUND.replace("vni: 1001", "vni: 0"), "cloud.yaml")


def test_a_name_used_twice_is_named():
    text = SOUND + "  - {name: web-2, network: web, droplet: h1}\n"
    assert mistakes(text) == [(13, "endpoints[1].name")]


@pytest.mark.parametrize("text", ["", "- 1\n", "droplets: [\n", "droplets: 7\n", "a: b: c\n", "droplets: {h1: 3}\n"])
def test_what_is_no_topology_at_all_is_refused_with_a_line(text):
    assert mistakes(text)


def test_two_overlapping_networks_of_a_vpc_are_refused():
    text = SOUND.replace("endpoints:", "  - {name: wide, vpc: red, cidr: 10.0.0.0/20}\nendpoints:")
    assert (11, "networks[1].cidr") in mistakes(text)


def test_the_example_of_the_reference_is_sound():
    document = Path(controller_sim.__file__).parents[1] / "docs" / "topology.md"
    example = document.read_text().partition("```yaml\n")[2].partition("```")[0]
    topology = parse_topology(example)
    assert topology.substrate.server == "172.18.0.100"
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
        ("droplets:\n", "substrate: {cidr: 172.18.0.1/24}\ndroplets:\n", (1, "substrate.cidr")),
    ],
)
def test_what_refers_to_a_wrong_object_is_no_second_mistake(old, new, only):
    assert mistakes(SOUND.replace(old, new, 1)) == [only]


def test_two_wrong_vnis_are_two_mistakes_and_not_the_same_number():
    text = SOUND.replace("vni: 1001", "vni: 0").replace(
        "networks:", "  - {name: blue, vni: 0, cidr: 10.0.0.0/16}\nnetworks:"
    )
    assert mistakes(text) == [(5, "vpcs[0].vni"), (6, "vpcs[1].vni")]
