"""The rules of a topology file, field by field: from YAML nodes to a checked `Topology`.

What is wired stands in `underlay_rules.py`; fields that several objects share in `fields.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, cast

from controller_sim.topology.agent_rules import agents_of
from controller_sim.topology.fields import (
    NAME,
    add,
    choice,
    cidrs_of,
    name_of,
    one_or_list,
    optional,
    repeats_a_family,
)
from controller_sim.topology.function_rules import Files, Known, functions_of
from controller_sim.topology.model import Endpoint, Members, Network, Topology, Vpc, capacity_of, cidr_of, gateway_of
from controller_sim.topology.reader import Reader
from controller_sim.topology.underlay_rules import EDGES, WIRES, droplets_of, underlay_of
from protocol.addresses import MAX_VNI, is_edge, parse_address, parse_cidr, parse_host_address, parse_mac
from protocol.documents import LARGEST_LABEL, MAX_MEMBERS

_PATTERN = re.compile(r"^[a-z0-9{][a-z0-9{}-]*$")


def build(root: Reader, files: Files) -> Topology | None:
    """Return the topology, or None; mistakes are remembered by the reader. `files` reads those that it names."""
    droplets, cidrs = droplets_of(root)
    wired = underlay_of(root, droplets, cidrs)
    known = _written(root, "droplets")
    peers = {name for name, droplet in droplets.items() if droplet.peer}
    vpcs = _vpcs(root, known - peers, peers)
    networks = _networks(root, vpcs, known - peers, peers)
    endpoints = _endpoints(root, networks, known, peers)
    agents = agents_of(root, droplets.values(), networks.values(), wired[0].wires if wired else WIRES[0])
    seed = root.number("seed", 0, 2**63 - 1, 0)
    hosts = list(dict.fromkeys(one.host for one in droplets.values() if not one.peer))
    ids = {"vpcs": _written(root, "vpcs"), "networks": _written(root, "networks"), "endpoints": endpoints}
    vpc_of = {network.name: network.vpc for network in networks.values()}
    functions = functions_of(root, files, agents.functions, Known(hosts, ids, vpc_of))
    root.finish()
    if wired is None or root.mistakes:
        return None
    return Topology(*wired, vpcs, networks, endpoints, seed, agents, functions)


def _written(root: Reader, key: str) -> set[str]:
    """Return the names of a list's objects, those with mistakes too: references to them are no mistakes."""
    node = root.node.get(key)
    if isinstance(node, dict):
        return {str(name) for name in node} | _written_names(node.values())
    return _written_names(node) if isinstance(node, list) else set()


def _written_names(items: Iterable[object]) -> set[str]:
    return {str(item["name"]) for item in items if isinstance(item, dict) and "name" in item}


def _members(reader: Reader, key: str, hosts: set[str], peers: set[str], low: int) -> Members:
    """Return how many droplets take a role, or which."""
    if not reader.has(key) or not isinstance(reader.node[key], list):
        high = min(MAX_MEMBERS, max(len(hosts), low))
        return reader.number(key, low, high, min(1, high))
    names = reader.names(key)
    for name in names:
        if name in peers:
            reader.wrong(
                f"{name} is a VXLAN peer and cannot be a bouncer or divider: choose a droplet with an agent", key
            )
        elif name not in hosts:
            reader.wrong(f"there is no droplet {name!r}", key)
    if len(set(names)) != len(names):
        reader.wrong("a droplet is listed twice", key)
    if not low <= len(names) <= MAX_MEMBERS:
        reader.wrong(f"{len(names)} droplets are listed: list {low} to {MAX_MEMBERS}", key)
    return tuple(names)


def _vpcs(root: Reader, hosts: set[str], peers: set[str]) -> dict[str, Vpc]:
    vpcs: dict[str, Vpc] = {}
    numbers: dict[int, str] = {}
    for reader in root.items("vpcs", needed=True):
        if not reader.is_map():
            continue
        name = name_of(reader)
        before = len(reader.mistakes)
        vni = reader.number("vni", 1, MAX_VNI)
        sound = len(reader.mistakes) == before
        cidrs = cidrs_of(reader, "a CIDR as 10.0.0.0/16, or one of each family")
        dividers = _members(reader, "dividers", hosts, peers, 0)
        reader.finish()
        if sound and vni in numbers:
            reader.wrong(f"{vni} is already the VNI of {numbers[vni]}", "vni")
        elif sound:
            numbers[vni] = name or "another"
        if cidrs is not None:
            add(reader, vpcs, name, Vpc(name or "", vni, cidrs, dividers))
    return vpcs


def _networks(root: Reader, vpcs: dict[str, Vpc], hosts: set[str], peers: set[str]) -> dict[str, Network]:
    known = _written(root, "vpcs")
    networks: dict[str, Network] = {}
    for reader in root.items("networks", needed=True):
        if not reader.is_map():
            continue
        name = name_of(reader)
        vpc = reader.text("vpc", "a VPC's name")
        cidrs = cidrs_of(reader, "a CIDR as 10.0.1.0/24, or one of each family")
        bouncers = _members(reader, "bouncers", hosts, peers, 1)
        encapsulation = cast(Any, choice(reader, "encapsulation", ("geneve", "vxlan")))
        routing = cast(Any, choice(reader, "routing", ("direct", "divider")))
        labels = reader.flag("labels")
        if labels and encapsulation == "vxlan":
            reader.wrong("VXLAN cannot carry labels: choose geneve, or leave labels out", "labels")
        reader.finish()
        if vpc is not None and vpc not in known:
            reader.wrong(f"there is no VPC {vpc!r}", "vpc")
        elif vpc in vpcs and cidrs is not None:
            _check_place(reader, vpcs[vpc], cidrs, networks)
            add(reader, networks, name, Network(name or "", vpc, cidrs, bouncers, encapsulation, routing, labels))
    return networks


def _check_place(reader: Reader, vpc: Vpc, cidrs: tuple[str, ...], networks: dict[str, Network]) -> None:
    for cidr in cidrs:
        mine = ip_network(cidr)
        if not any(_subnet(mine, ip_network(outer)) for outer in vpc.cidrs):
            reader.wrong(f"{cidr} is not within the VPC's {', '.join(vpc.cidrs)}", "cidr")
        for other in networks.values():
            theirs = next((c for c in other.cidrs if mine.overlaps(ip_network(c))), None)
            if other.vpc == vpc.name and theirs is not None:
                reader.wrong(f"{cidr} overlaps {other.name}'s {theirs}", "cidr")


def _subnet(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _endpoints(root: Reader, networks: dict[str, Network], droplets: set[str], peers: set[str]) -> dict[str, Endpoint]:
    known = _written(root, "networks")
    endpoints: dict[str, Endpoint] = {}
    used: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()
    for reader in root.items("endpoints"):
        if not reader.is_map():
            continue
        before = len(reader.mistakes)
        expanded = _expand(reader, droplets)
        name = reader.text("network", "a network's name")
        if name is not None and name not in known:
            reader.wrong(f"there is no network {name!r}", "network")
        network = networks.get(name or "")
        addresses = _endpoint_addresses(reader, network, len(expanded))
        mac = optional(reader, "mac", parse_mac, "a MAC")
        if mac is not None and len(expanded) > 1:
            reader.wrong("endpoints cannot share a MAC: remove it, or set count to 1", "mac")
        dscp, label = reader.number("dscp", 0, 63, 0), reader.number("label", 0, LARGEST_LABEL, 0)
        attachment = cast(Any, choice(reader, "attachment", ("veth", "function")))
        on_peers = [droplet for _, droplet in expanded if droplet in peers]
        _check_peers(reader, network, on_peers)
        if attachment == "function" and on_peers:
            reader.wrong(
                f"{on_peers[0]} is a VXLAN peer, which runs no functions: choose another droplet", "attachment"
            )
        reader.finish()
        if network is None or len(reader.mistakes) > before:
            continue
        for address in addresses:
            _claim(reader, used, network.vpc, "address", address, expanded)
        _claim(reader, used, network.vpc, "mac", mac, expanded)
        _check_capacity(reader, network, counts, len(expanded))
        for own, droplet in expanded:
            one = Endpoint(own, network.name, droplet, addresses, mac, dscp, attachment, label)
            add(reader, endpoints, own, one)
    return endpoints


def _check_peers(reader: Reader, network: Network | None, peers: list[str]) -> None:
    if network is not None and peers and network.encapsulation != "vxlan":
        reader.wrong(f"{peers[0]} is a VXLAN peer: set `encapsulation: vxlan` in network {network.name}", "network")


def _check_capacity(reader: Reader, network: Network, counts: Counter[str], more: int) -> None:
    """Count a network's endpoints; the entry by which they become more than it has addresses for is a mistake."""
    before = counts[network.name]
    counts[network.name] += more
    cidr = min(network.cidrs, key=capacity_of)
    capacity = capacity_of(cidr)
    if before <= capacity < before + more:
        reader.wrong(
            f"network {network.name} ({cidr}) has addresses for {capacity} endpoint{'s' * (capacity != 1)}, and with "
            f"these it has {before + more}: list fewer, or enlarge the network",
            "count" if reader.has("count") else "network",
        )


def _claim(
    reader: Reader,
    used: dict[tuple[str, str], str],
    vpc: str,
    key: str,
    value: str | None,
    expanded: list[tuple[str, str]],
) -> None:
    if value is None:
        return
    if (vpc, value) in used:
        reader.wrong(f"{value} is already used by {used[vpc, value]}", key)
    used[vpc, value] = expanded[0][0] if expanded else "another"


def _endpoint_addresses(reader: Reader, network: Network | None, count: int) -> tuple[str, ...]:
    if not reader.has("address"):
        reader.take("address", object, "an address", None)
        return ()
    addresses = one_or_list(reader, "address", parse_host_address, "an address, or one of each family") or ()
    if network is None:
        return addresses
    if count > 1:
        reader.wrong("endpoints cannot share an address: remove it, or set count to 1", "address")
    if repeats_a_family(addresses):
        reader.wrong("more than one address of a family: give at most one of each", "address")
    for address in addresses:
        cidr = cidr_of(address, network.cidrs)
        if cidr is None:
            reader.wrong(f"{address} is not in {network.name}'s {', '.join(network.cidrs)}", "address")
        elif address == gateway_of(cidr):
            reader.wrong(f"{address} is the gateway of {network.name}", "address")
        elif is_edge(parse_cidr(cidr), parse_address(address)):
            reader.wrong(f"an endpoint cannot have {address}: it is {EDGES} of {cidr}", "address")
    return addresses


def _expand(reader: Reader, hosts: set[str]) -> list[tuple[str, str]]:
    """Return (name, droplet) of each endpoint that an entry stands for."""
    if not reader.has("count"):
        reader.take("count", int, "a number", None)
        name = name_of(reader, "; {n} is only for an entry with `count`")
        droplet = reader.text("droplet", "a droplet's name")
        places = [droplet] if droplet is not None else []
        _check_places(reader, "droplet", places, hosts)
        return [(name, droplet)] if name is not None and droplet is not None else []
    count = reader.number("count", 1, 1_000_000)
    pattern = reader.text("name", "a name with {n}") or ""
    key = "droplets" if reader.has("droplets") else "droplet"
    places = reader.names("droplets") if key == "droplets" else [reader.text("droplet", "a droplet's name") or ""]
    _check_places(reader, key, places, hosts)
    if "{n}" not in pattern or not _PATTERN.match(pattern) or not NAME.match(pattern.replace("{n}", str(count))):
        reader.wrong(f"{pattern!r} must contain {{n}}, which becomes 1 to {count}, and result in valid names", "name")
        return []
    if not places:
        reader.wrong("at least one droplet is needed", key)
        return []
    return [(pattern.replace("{n}", str(n + 1)), places[n % len(places)]) for n in range(count)]


def _check_places(reader: Reader, key: str, places: list[str], hosts: set[str]) -> None:
    for place in places:
        if place not in hosts:
            reader.wrong(f"there is no droplet {place!r}", key)
