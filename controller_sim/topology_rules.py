"""The rules of a topology file, field by field: from YAML nodes to a checked `Topology`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import TypeVar

from controller_sim.topology import (
    Droplet,
    Endpoint,
    Members,
    Network,
    Substrate,
    Topology,
    Vpc,
    address_in,
    default_substrate_cidr,
    free_server_address,
    gateway_of,
)
from controller_sim.topology_file import Reader
from protocol.addresses import MAX_VNI, parse_cidr, parse_host_address, parse_mac
from protocol.documents import MAX_MEMBERS

MAX_NAME = 31
MIN_MTU, MAX_MTU = 576, 9000
_NAME = re.compile(rf"^[a-z0-9][a-z0-9-]{{0,{MAX_NAME - 1}}}$")
_PATTERN = re.compile(r"^[a-z0-9{][a-z0-9{}-]*$")
_T = TypeVar("_T")


def build(root: Reader) -> Topology | None:
    """Return the topology, or None; mistakes are remembered by the reader."""
    droplets, cidrs = _droplets(root)
    substrate = _substrate(root, droplets, cidrs)
    hosts = _written(root, "droplets")
    vpcs = _vpcs(root, hosts)
    networks = _networks(root, vpcs, hosts)
    endpoints = _endpoints(root, networks, hosts)
    seed = root.number("seed", 0, 2**63 - 1, 0)
    root.finish()
    if substrate is None or root.mistakes:
        return None
    return Topology(substrate, droplets, vpcs, networks, endpoints, seed)


def _written(root: Reader, key: str) -> set[str]:
    """Return the names of a list's objects, those with mistakes too: references to them are no mistakes."""
    node = root.node.get(key)
    if isinstance(node, dict):
        return {str(name) for name in node} | _written_names(node.values())
    return _written_names(node) if isinstance(node, list) else set()


def _written_names(items: Iterable[object]) -> set[str]:
    return {str(item["name"]) for item in items if isinstance(item, dict) and "name" in item}


def _name(reader: Reader) -> str | None:
    name = reader.text("name", "a name")
    if name is not None and not _NAME.match(name):
        reader.wrong(f"{name!r} is no name: lower-case letters, digits and dashes, at most {MAX_NAME}", "name")
        return None
    return name


def _add(reader: Reader, known: dict[str, _T], name: str | None, item: _T) -> None:
    if name is None:
        return
    if name in known:
        reader.wrong(f"{name!r} is there twice", "name")
    known[name] = item


def _parsed(reader: Reader, key: str, parse: Callable[[str], object], wanted: str) -> str | None:
    """Return a needed text that `parse` accepts, or None."""
    text = reader.text(key, wanted)
    if text is None:
        return None
    try:
        parse(text)
    except ValueError as error:
        reader.wrong(str(error), key)
        return None
    return text


def _optional(reader: Reader, key: str, parse: Callable[[str], object], wanted: str) -> str | None:
    """Return a text that `parse` accepts, or None where none is written."""
    if not reader.has(key):
        reader.take(key, str, wanted, None)
        return None
    return _parsed(reader, key, parse, wanted)


def _droplets(root: Reader) -> tuple[dict[str, Droplet], set[str]]:
    droplets: dict[str, Droplet] = {}
    addresses: dict[str, str] = {}
    cidrs: set[str] = set()
    for reader in root.items("droplets", needed=True):
        if not reader.is_map():
            continue
        name = _name(reader)
        text = _parsed(reader, "address", ip_interface, "a substrate address as 172.18.0.11/24")
        reader.finish()
        if text is None:
            continue
        address = str(ip_interface(text).ip)
        if "/" in text:
            cidrs.add(default_substrate_cidr(text))
        if address in addresses:
            reader.wrong(f"{address} is the address of {addresses[address]} already", "address")
        if name is not None:
            addresses[address] = name
        _add(reader, droplets, name, Droplet(name or "", address))
    return droplets, cidrs


def _substrate(root: Reader, droplets: dict[str, Droplet], cidrs: set[str]) -> Substrate | None:
    cidr: str | None = None
    mtu, server = 1500, None
    if root.take("substrate", object, "a map", None) is not None:
        reader = Reader(root.node["substrate"], "substrate", root.line_of("substrate"), root.mistakes)
        if not reader.is_map():
            return None
        mtu = reader.number("mtu", MIN_MTU, MAX_MTU, 1500)
        cidr = _optional(reader, "cidr", parse_cidr, "the droplets' network")
        server = _optional(reader, "server", parse_host_address, "the NATS server's address")
        reader.finish()
        if cidr is None and reader.has("cidr"):
            return None
    if cidr is None and len(cidrs) == 1:
        cidr = next(iter(cidrs))
    if cidr is None:
        if droplets:
            found = ", ".join(sorted(cidrs)) or "none has a prefix length"
            root.wrong(f"droplets are not in one network ({found}): write substrate.cidr", "droplets")
        return None
    return _checked_substrate(root, droplets, cidr, mtu, server)


def _checked_substrate(
    root: Reader, droplets: dict[str, Droplet], cidr: str, mtu: int, server: str | None
) -> Substrate | None:
    for droplet in droplets.values():
        if not address_in(droplet.address, cidr):
            root.wrong(f"{droplet.name}'s address {droplet.address} is not in the substrate {cidr}", "droplets")
    taken = {droplet.address for droplet in droplets.values()}
    if server is None:
        try:
            server = free_server_address(cidr, taken)
        except ValueError as error:
            root.wrong(str(error), "substrate")
            return None
    if server in taken or not address_in(server, cidr):
        root.wrong(f"the server's address {server} is a droplet's, or not in {cidr}", "substrate")
    return Substrate(cidr, mtu, server)


def _members(reader: Reader, key: str, hosts: set[str], low: int) -> Members:
    """Return how many droplets take a role, or which."""
    if not reader.has(key) or not isinstance(reader.node[key], list):
        high = min(MAX_MEMBERS, max(len(hosts), low))
        return reader.number(key, low, high, min(1, high))
    names = reader.names(key)
    for name in names:
        if name not in hosts:
            reader.wrong(f"no droplet is called {name!r}", key)
    if len(set(names)) != len(names):
        reader.wrong("a droplet stands here twice", key)
    if not low <= len(names) <= MAX_MEMBERS:
        reader.wrong(f"from {low} to {MAX_MEMBERS} droplets can be listed", key)
    return tuple(names)


def _vpcs(root: Reader, hosts: set[str]) -> dict[str, Vpc]:
    vpcs: dict[str, Vpc] = {}
    numbers: dict[int, str] = {}
    for reader in root.items("vpcs", needed=True):
        if not reader.is_map():
            continue
        name = _name(reader)
        before = len(reader.mistakes)
        vni = reader.number("vni", 1, MAX_VNI)
        sound = len(reader.mistakes) == before
        cidr = _parsed(reader, "cidr", parse_cidr, "a CIDR as 10.0.0.0/16")
        dividers = _members(reader, "dividers", hosts, 0)
        reader.finish()
        if sound and vni in numbers:
            reader.wrong(f"{vni} is the VNI of {numbers[vni]} already", "vni")
        elif sound:
            numbers[vni] = name or "another"
        if cidr is not None:
            _add(reader, vpcs, name, Vpc(name or "", vni, cidr, dividers))
    return vpcs


def _networks(root: Reader, vpcs: dict[str, Vpc], hosts: set[str]) -> dict[str, Network]:
    known = _written(root, "vpcs")
    networks: dict[str, Network] = {}
    for reader in root.items("networks", needed=True):
        if not reader.is_map():
            continue
        name = _name(reader)
        vpc = reader.text("vpc", "a VPC's name")
        cidr = _parsed(reader, "cidr", parse_cidr, "a CIDR as 10.0.1.0/24")
        bouncers = _members(reader, "bouncers", hosts, 1)
        reader.finish()
        if vpc is not None and vpc not in known:
            reader.wrong(f"no VPC is called {vpc!r}", "vpc")
        elif vpc in vpcs and cidr is not None:
            _check_place(reader, vpcs[vpc], cidr, networks)
            _add(reader, networks, name, Network(name or "", vpc, cidr, bouncers))
    return networks


def _check_place(reader: Reader, vpc: Vpc, cidr: str, networks: dict[str, Network]) -> None:
    mine = ip_network(cidr)
    if not _subnet(mine, ip_network(vpc.cidr)):
        reader.wrong(f"{cidr} is not within the VPC's {vpc.cidr}", "cidr")
    for other in networks.values():
        if other.vpc == vpc.name and mine.overlaps(ip_network(other.cidr)):
            reader.wrong(f"{cidr} overlaps {other.name}'s {other.cidr}", "cidr")


def _subnet(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _endpoints(root: Reader, networks: dict[str, Network], hosts: set[str]) -> dict[str, Endpoint]:
    known = _written(root, "networks")
    endpoints: dict[str, Endpoint] = {}
    used: dict[tuple[str, str], str] = {}
    for reader in root.items("endpoints"):
        if not reader.is_map():
            continue
        before = len(reader.mistakes)
        expanded = _expand(reader, hosts)
        network = reader.text("network", "a network's name")
        if network is not None and network not in known:
            reader.wrong(f"no network is called {network!r}", "network")
        if network not in networks:
            network = None
        address = _endpoint_address(reader, networks.get(network or ""), len(expanded))
        mac = _optional(reader, "mac", parse_mac, "a MAC")
        if mac is not None and len(expanded) > 1:
            reader.wrong("many endpoints cannot share one MAC", "mac")
        reader.finish()
        if network is None or len(reader.mistakes) > before:
            continue
        _claim(reader, used, networks[network].vpc, "address", address, expanded)
        _claim(reader, used, networks[network].vpc, "mac", mac, expanded)
        for name, droplet in expanded:
            _add(reader, endpoints, name, Endpoint(name, network, droplet, address, mac))
    return endpoints


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
        reader.wrong(f"{value} is {used[vpc, value]}'s already", key)
    used[vpc, value] = expanded[0][0] if expanded else "another"


def _endpoint_address(reader: Reader, network: Network | None, count: int) -> str | None:
    address = _optional(reader, "address", parse_host_address, "an address")
    if address is None or network is None:
        return address
    if count > 1:
        reader.wrong("many endpoints cannot share one address", "address")
    if not address_in(address, network.cidr):
        reader.wrong(f"{address} is not in {network.name}'s {network.cidr}", "address")
    elif address == gateway_of(network.cidr):
        reader.wrong(f"{address} is the gateway of {network.name}", "address")
    return address


def _expand(reader: Reader, hosts: set[str]) -> list[tuple[str, str]]:
    """Return (name, droplet) of each endpoint that an entry stands for."""
    if not reader.has("count"):
        reader.take("count", int, "a number", None)
        name = _name(reader)
        droplet = reader.text("droplet", "a droplet's name")
        places = [droplet] if droplet is not None else []
        _check_places(reader, "droplet", places, hosts)
        return [(name, droplet)] if name is not None and droplet is not None else []
    count = reader.number("count", 1, 1_000_000)
    pattern = reader.text("name", "a name with {n}") or ""
    key = "droplets" if reader.has("droplets") else "droplet"
    places = reader.names("droplets") if key == "droplets" else [reader.text("droplet", "a droplet's name") or ""]
    _check_places(reader, key, places, hosts)
    if "{n}" not in pattern or not _PATTERN.match(pattern) or not _NAME.match(pattern.replace("{n}", str(count))):
        reader.wrong(f"{pattern!r} must hold {{n}}, which becomes 1 to {count}, and make a name", "name")
        return []
    if not places:
        reader.wrong("at least one droplet is needed", key)
        return []
    return [(pattern.replace("{n}", str(n + 1)), places[n % len(places)]) for n in range(count)]


def _check_places(reader: Reader, key: str, places: list[str], hosts: set[str]) -> None:
    for place in places:
        if place not in hosts:
            reader.wrong(f"no droplet is called {place!r}", key)
