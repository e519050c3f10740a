"""The rules of a topology file for the agents' settings: hooks, the mode of XDP, ports, families and functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from controller_sim.topology.fields import add, choice, name_of
from controller_sim.topology.function_rules import settings_of
from controller_sim.topology.model import GENEVE_PORT, VXLAN_PORT, Agents, Droplet, Hooks, Network, Wires
from controller_sim.topology.reader import Reader

ATTACH_MODES = ("auto", "native", "generic", "offload")
ENDPOINT_HOOKS = ("auto", "tc", "xdp")
UPLINK_HOOKS = ("auto", "xdp", "tc")
FAMILIES = ("ipv4", "ipv6")


def agents_of(root: Reader, droplets: Iterable[Droplet], networks: Iterable[Network], wires: Wires) -> Agents:
    """Return the agents' settings, which must suit the wires, droplets and networks of the topology."""
    if root.take("agents", object, "a map", None) is None:
        return Agents()
    reader = Reader(root.node["agents"], "agents", root.line_of("agents"), root.mistakes)
    if not reader.is_map():
        return Agents()
    mode = choice(reader, "attach_mode", ATTACH_MODES)
    hooks = _hooks(reader, wires)
    hosts = _host_hooks(reader, droplets, wires)
    section: dict[str, int | tuple[str, ...]] = {}
    if reader.take("data_plane", object, "a map", None) is not None:
        line = reader.line_of("data_plane")
        section = _data_plane(
            Reader(reader.node["data_plane"], "agents.data_plane", line, root.mistakes), droplets, networks
        )
    functions = settings_of(reader)
    reader.finish()
    return Agents(mode, hooks, tuple(hosts.items()), tuple(section.items()), functions)


def _hooks(reader: Reader, wires: Wires) -> Hooks:
    """Return the hooks that a map names, without those that it leaves to their defaults."""
    endpoint = _hook(reader, "endpoint_hook", ENDPOINT_HOOKS)
    uplink = _hook(reader, "uplink_hook", UPLINK_HOOKS)
    if uplink == "xdp" and wires == "virtual":
        reader.wrong(
            "native XDP on a virtual wire would read checksums that their sender has left unfinished: set "
            "`underlay.wires: physical`, or use tc",
            "uplink_hook",
        )
    return Hooks(endpoint, uplink)


def _hook(reader: Reader, key: str, words: tuple[str, ...]) -> str | None:
    word = choice(reader, key, words)
    return word if reader.has(key) else None


def _host_hooks(agents: Reader, droplets: Iterable[Droplet], wires: Wires) -> dict[str, Hooks]:
    """Return the hooks of the hosts that have their own."""
    peers = {droplet.host: droplet.peer for droplet in droplets}
    complete = not any(mistake.field.startswith("droplets") for mistake in agents.mistakes)
    found: dict[str, Hooks] = {}
    for reader in agents.items("hosts"):
        if not reader.is_map():
            continue
        name = name_of(reader)
        hooks = _hooks(reader, wires)
        reader.finish()
        if name is not None and name not in peers and complete:
            reader.wrong(f"there is no host {name!r}: hosts are {', '.join(peers) or 'none'}", "name")
        elif name is not None and peers.get(name):
            reader.wrong(f"{name} is a VXLAN peer and has no agent: choose a host with one", "name")
        add(reader, found, name, hooks)
    return found


def _data_plane(
    reader: Reader, droplets: Iterable[Droplet], networks: Iterable[Network]
) -> dict[str, int | tuple[str, ...]]:
    if not reader.is_map():
        return {}
    before = len(reader.mistakes)
    section: dict[str, int | tuple[str, ...]] = {}
    for key, low in (("geneve_port", 1), ("vxlan_port", 0)):
        if reader.has(key):
            section[key] = reader.number(key, low, 65535)
        reader.take(key, int, "a UDP port", None)
    for key in ("families", "underlay"):
        if reader.has(key) and isinstance(reader.node[key], list):
            section[key] = tuple(reader.names(key))
            if not section[key] or set(section[key]) - set(FAMILIES):  # type: ignore[arg-type]
                reader.wrong(f"expected a list of {' and '.join(FAMILIES)}", key)
        reader.take(key, list, "a list of families", None)
    reader.finish()
    if len(reader.mistakes) == before:
        _check_ports(reader, section, networks)
        inside = {cidr: f"network {network.name} has {cidr}" for network in networks for cidr in network.cidrs}
        _check_turned_on(reader, "families", section, inside)
        outside = {droplet.address: f"{droplet.name} has {droplet.address}" for droplet in droplets}
        _check_turned_on(reader, "underlay", section, outside)
    return section


def _check_ports(reader: Reader, section: Mapping[str, object], networks: Iterable[Network]) -> None:
    geneve, vxlan = section.get("geneve_port", GENEVE_PORT), section.get("vxlan_port", VXLAN_PORT)
    key = "vxlan_port" if "vxlan_port" in section else "geneve_port"
    if geneve == vxlan:
        reader.wrong(f"{vxlan} is the port of both Geneve and VXLAN: choose different ports, or 0 for VXLAN", key)
    wanting = [network.name for network in networks if network.encapsulation == "vxlan"]
    if wanting and not vxlan:
        reader.wrong(
            f"0 turns VXLAN off, but {', '.join(wanting)} has `encapsulation: vxlan`: set a port", "vxlan_port"
        )


def _check_turned_on(reader: Reader, key: str, section: Mapping[str, object], users: Mapping[str, str]) -> None:
    """Hold a list of families against who needs them, by address or CIDR; one of each missing family is named."""
    turned_on = section.get(key, FAMILIES)
    assert isinstance(turned_on, tuple)
    for version, family in zip((4, 6), FAMILIES, strict=True):
        needing = [text for user, text in users.items() if ip_network(user).version == version]
        if needing and family not in turned_on:
            reader.wrong(f"{family} is missing, but {needing[0]}: add it", key)
