"""The rules of a topology file for what is wired: underlay and droplets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, cast

from controller_sim.topology.fields import (
    NAME,
    add,
    choice,
    cidrs_of,
    name_of,
    one_or_list,
    optional,
    parsed,
    repeats_a_family,
)
from controller_sim.topology.model import (
    Droplet,
    Subnet,
    Underlay,
    Wires,
    cidr_of,
    free_server_address,
)
from controller_sim.topology.model import gateway_of as router_in
from controller_sim.topology.overhead import IPV6_LEAST, least_for_agent
from controller_sim.topology.reader import Reader
from protocol.addresses import is_edge, parse_address, parse_cidr, parse_host_address

MIN_MTU, MAX_MTU = 576, 9000
MAX_QUEUES = 16
WIRES: tuple[Wires, ...] = ("physical", "virtual")
EDGES = "the first or, over IPv4, the last address"
FLAT = "underlay"
"""The name of the only subnet of an underlay that names none."""


def droplets_of(root: Reader) -> tuple[dict[str, Droplet], set[str]]:
    """Return the droplets, without their subnets, and the CIDRs that are written with their addresses."""
    droplets: dict[str, Droplet] = {}
    addresses: dict[str, str] = {}
    cidrs: set[str] = set()
    for reader in root.items("droplets", needed=True):
        if not reader.is_map():
            continue
        name = name_of(reader)
        text = parsed(reader, "address", ip_interface, "an underlay address as 172.18.0.11/24")
        droplet = _droplet(reader, name or "", text, droplets)
        reader.finish()
        if text is None:
            continue
        if "/" in text:
            cidrs.add(str(ip_interface(text).network))
        if droplet.address in addresses:
            reader.wrong(f"{droplet.address} is already the address of {addresses[droplet.address]}", "address")
        if name is not None:
            addresses[droplet.address] = name
        add(reader, droplets, name, droplet)
    return droplets, cidrs


def _droplet(reader: Reader, name: str, text: str | None, before: dict[str, Droplet]) -> Droplet:
    host = optional(reader, "host", _host, "a host's name") or name
    others = [droplet for droplet in before.values() if droplet.host == host]
    free = f"eth{len({droplet.interface for droplet in others})}"
    droplet = Droplet(
        name=name,
        address=str(ip_interface(text).ip) if text is not None else "",
        host=host,
        interface=optional(reader, "interface", _interface, "eth0, eth1 and so on") or free,
        queues=reader.number("queues", 1, MAX_QUEUES, 1),
        link_mtu=reader.number("link_mtu", MIN_MTU, MAX_MTU) if reader.has("link_mtu") else None,
        udp_checksum=cast(Any, choice(reader, "udp_checksum", ("full", "zero"))),
        peer=reader.text("peer", "vxlan", None) is not None,
    )
    reader.take("link_mtu", int, "bytes", None)
    if droplet.udp_checksum == "zero" and "." in droplet.address:
        reader.wrong(
            "zero is for droplets with an IPv6 address only: over IPv4 there is never a checksum", "udp_checksum"
        )
    if droplet.peer and reader.node["peer"] != "vxlan":
        reader.wrong(f"{reader.node['peer']!r} is not a kind of peer: the only one is vxlan", "peer")
    if others and (droplet.peer or any(other.peer for other in others)):
        reader.wrong("a VXLAN peer's host can have one droplet only", "peer" if droplet.peer else "host")
    _check_sharing(reader, droplet, others)
    return droplet


def _host(text: str) -> None:
    if not NAME.match(text):
        raise ValueError(f"{text!r} is not a valid name: use lower-case letters, digits and dashes")


def _interface(text: str) -> None:
    if not (text.startswith("eth") and text[3:].isascii() and text[3:].isdigit() and len(text) <= 5):
        raise ValueError(f"{text!r} is not an interface name: use eth0, eth1 and so on")


def _check_sharing(reader: Reader, droplet: Droplet, others: Iterable[Droplet]) -> None:
    """Two droplets may be one interface's when they are of different families, and of the same wire."""
    for other in others:
        if other.interface != droplet.interface or not droplet.address or not other.address:
            continue
        if repeats_a_family((droplet.address, other.address)):
            reader.wrong(
                f"{droplet.interface} of {droplet.host} already has {other.name}, of the same family: choose another",
                "interface",
            )
        if (droplet.queues, droplet.link_mtu) != (other.queues, other.link_mtu):
            reader.wrong(f"{other.name} is on the same interface: give both the same queues and link_mtu", "interface")


def underlay_of(
    root: Reader, droplets: dict[str, Droplet], cidrs: set[str]
) -> tuple[Underlay, dict[str, Droplet]] | None:
    """Return the underlay, and the droplets with their subnets; None where a mistake is in the way."""
    misplaced = False
    mtu = 1500
    wires = WIRES[0]
    servers: tuple[str, ...] = ()
    subnets: list[Subnet] = []
    if root.take("underlay", object, "a map", None) is not None:
        reader = Reader(root.node["underlay"], "underlay", root.line_of("underlay"), root.mistakes)
        if not reader.is_map():
            return None
        mtu = _mtu(reader, "mtu", 1500)
        wires = cast(Wires, choice(reader, "wires", WIRES))
        servers = _servers(reader)
        before = len(root.mistakes)
        subnets = _subnets(reader, mtu)
        if reader.has("cidr"):
            flat = cidrs_of(reader, "the droplets' network, one of each family")
            if subnets:
                reader.wrong("the subnets have the CIDRs: remove cidr, or subnets", "cidr")
            subnets = [Subnet(FLAT, flat, mtu, mtu)] if flat is not None else []
        reader.take("cidr", object, "the droplets' network", None)
        misplaced = len(root.mistakes) > before
        reader.finish()
    if misplaced:
        return None  # droplets would seem to be in no subnet
    if not subnets and cidrs and not repeats_a_family(cidrs):
        subnets = [Subnet(FLAT, tuple(sorted(cidrs)), mtu, mtu)]
    if not subnets:
        if droplets:
            found = ", ".join(sorted(cidrs)) or "none has a prefix length"
            root.wrong(f"the droplets are not in one network ({found}): set underlay.cidr", "droplets")
        return None
    checked, placed = _checked(root, droplets, tuple(subnets), servers)
    return replace(checked, wires=wires), placed


def _mtu(reader: Reader, key: str, default: int) -> int:
    """Return an MTU, or the default if it is invalid, so that no later check reports it again."""
    before = len(reader.mistakes)
    found = reader.number(key, MIN_MTU, MAX_MTU, default)
    return found if len(reader.mistakes) == before else default


def _servers(reader: Reader) -> tuple[str, ...]:
    if not reader.has("server"):
        reader.take("server", object, "the NATS server's address", None)
        return ()
    found = one_or_list(reader, "server", parse_host_address, "the NATS server's address") or ()
    if repeats_a_family(found):
        reader.wrong("more than one address of a family: give at most one of each", "server")
    return found


def _subnets(root: Reader, mtu: int) -> list[Subnet]:
    subnets: dict[str, Subnet] = {}
    for reader in root.items("subnets"):
        if not reader.is_map():
            continue
        name = name_of(reader)
        cidrs = cidrs_of(reader, "the subnet's network, one of each family")
        own = _mtu(reader, "mtu", mtu)
        subnet = Subnet(name or "", cidrs or (), own, _mtu(reader, "router_mtu", own))
        reader.finish()
        for other in subnets.values():
            if any(ip_network(a).overlaps(ip_network(b)) for a in subnet.cidrs for b in other.cidrs):
                reader.wrong(f"it overlaps {other.name}", "cidr")
        add(reader, subnets, name, subnet)
    return list(subnets.values())


def _checked(
    root: Reader, droplets: dict[str, Droplet], subnets: tuple[Subnet, ...], servers: tuple[str, ...]
) -> tuple[Underlay, dict[str, Droplet]]:
    placed = {name: _placed(root, droplet, subnets) for name, droplet in droplets.items()}
    routers = {router_in(cidr) for subnet in subnets for cidr in subnet.cidrs} if len(subnets) > 1 else set()
    taken = {droplet.address for droplet in placed.values()} | routers
    for droplet in placed.values():
        if droplet.address in routers:
            _entry_of(root, droplet).wrong(f"{droplet.address} is the address of the router", "address")
    where = subnets[0]
    if servers:
        where = next((subnet for subnet in subnets if cidr_of(servers[0], subnet.cidrs)), where)
    for server in servers:
        cidr = cidr_of(server, where.cidrs)
        if server in taken or cidr is None:
            text = ", ".join(where.cidrs)
            root.wrong(
                f"the server's address {server} is used by a droplet or the router, or is outside {text}", "underlay"
            )
        elif is_edge(parse_cidr(cidr), parse_address(server)):
            root.wrong(f"the server's address cannot be {server}: it is {EDGES} of {cidr}", "underlay")
    servers = servers or _free_servers(root, where, taken)
    _check_families(root, placed, servers)
    _check_mtus(root, placed.values(), subnets)
    return Underlay(subnets, servers), placed


def _placed(root: Reader, droplet: Droplet, subnets: tuple[Subnet, ...]) -> Droplet:
    found = next((subnet for subnet in subnets if cidr_of(droplet.address, subnet.cidrs)), None)
    if found is None:
        text = ", ".join(cidr for subnet in subnets for cidr in subnet.cidrs)
        _entry_of(root, droplet).wrong(f"{droplet.address} is outside the underlay {text}", "address")
        return droplet
    cidr = cidr_of(droplet.address, found.cidrs) or ""
    if is_edge(parse_cidr(cidr), parse_address(droplet.address)):
        _entry_of(root, droplet).wrong(f"a host cannot have {droplet.address}: it is {EDGES} of {cidr}", "address")
    return replace(droplet, subnet=found.name)


def _entry_of(root: Reader, droplet: Droplet) -> Reader:
    """Return where a droplet stands in the file."""
    entries = root.items("droplets")
    return next(entry for entry in entries if isinstance(entry.node, dict) and entry.node.get("name") == droplet.name)


def _check_mtus(root: Reader, droplets: Iterable[Droplet], subnets: Iterable[Subnet]) -> None:
    """Hold the MTU of hosts' interfaces against what agents and IPv6 need; the router and the wire may carry less."""
    needed: dict[tuple[str, int], list[str]] = {}
    for droplet in droplets:
        version = ip_address(droplet.address).version
        least = IPV6_LEAST if version == 6 else 0
        needed.setdefault((droplet.subnet, least if droplet.peer else least_for_agent(version)), []).append(
            droplet.name
        )
    for subnet in subnets:
        for (name, least), users in needed.items():
            if name == subnet.name and subnet.mtu < least:
                where = "" if subnet.name == FLAT else f" of {subnet.name}"
                text = f"the MTU{where} is {subnet.mtu}, and {', '.join(users)} must have {least} or more"
                root.wrong(f"{text}, so that endpoints have {IPV6_LEAST}", "underlay")


def _free_servers(root: Reader, subnet: Subnet, taken: set[str]) -> tuple[str, ...]:
    found = []
    for cidr in subnet.cidrs:
        try:
            found.append(free_server_address(cidr, taken))
        except ValueError as error:
            root.wrong(str(error), "underlay")
    return tuple(found)


def _check_families(root: Reader, droplets: dict[str, Droplet], servers: tuple[str, ...]) -> None:
    served = {ip_address(server).version for server in servers}
    versions: dict[str, set[int]] = {}
    for droplet in droplets.values():
        if not droplet.peer and droplet.address:
            versions.setdefault(droplet.host, set()).add(ip_address(droplet.address).version)
    for host, own in versions.items():
        if not own & served:
            root.wrong(f"{host} has no address of the server's family ({', '.join(servers)})", "droplets")
