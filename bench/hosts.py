"""Two hosts with three endpoints, several times on one machine: with our agents, and with kernel VXLAN and a bridge.

The wires are the lab's: an underlay bridge in a namespace of its own, a veth to each host. A setup is data, so that
another combination of hooks and wires is one more line in `bench/traffic.py`. Owns what is made on the wires.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from bench.wires import command, ethtool
from controller_sim.lab import underlay
from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.lab import Lab
from controller_sim.lab.state import LabError
from controller_sim.topology.file import parse_topology
from controller_sim.topology.model import Topology, Wires

TOPOLOGY = Path(__file__).parent / "two_hosts.yaml"
VXLAN_OVERHEAD = 50
PATIENCE = 120.0
"""Seconds until all is realized: the first agents compile the programs."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How both hosts are built. `agents` are their settings in a topology; None for kernel VXLAN with a bridge."""

    name: str
    wires: Wires
    agents: str | None = None

    @property
    def topology(self) -> str:
        """The text of the topology."""
        base = TOPOLOGY.read_text(encoding="utf-8")
        return f"{base}underlay: {{wires: {self.wires}}}\nagents: {{{self.agents or ''}}}\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two endpoints that reach one another: their namespaces, and the second one's addresses."""

    name: str
    first: str
    second: str
    addresses: tuple[str, ...]

    def address(self, family: int = 4) -> str:
        """Return the second endpoint's address of a family (4 or 6)."""
        return next(address for address in self.addresses if ip_address(address).version == family)


class Pairs(NamedTuple):
    """A setup's endpoints: two on two hosts, and two on one."""

    two_hosts: Pair
    one_host: Pair


@contextmanager
def built(setup: Setup, letter: str, cache: Path) -> Iterator[Pairs]:
    """Build a setup and remove it at the end; `letter` sets its namespaces apart from those of other setups."""
    if setup.agents is None:
        with kernel_hosts(setup, letter) as pairs:
            yield pairs
    else:
        with our_hosts(setup, letter, cache) as lab:
            yield pairs_of(setup, lab.names)


def pairs_of(setup: Setup, names: underlay.Names) -> Pairs:
    """Return the endpoints of a setup that is built in these namespaces."""
    endpoints = parse_topology(setup.topology, str(TOPOLOGY)).endpoints
    first, *others = (names.endpoint(name) for name in "abc")
    two_hosts, one_host = (
        Pair(setup.name, first, namespace, endpoints[name].addresses)
        for namespace, name in zip(others, "bc", strict=True)
    )
    return Pairs(two_hosts, one_host)


@contextmanager
def our_hosts(setup: Setup, letter: str, cache: Path) -> Iterator[Lab]:
    """Bring a lab of two hosts up with real agents and a real nats-server, all realized; take it down at the end."""
    os.environ["DROPLET_LAB_CACHE"] = str(cache)
    lab = Lab(f"bench{os.getpid()}{letter}")
    lab.up(setup.topology, str(TOPOLOGY))
    try:
        prepare(lab)
        for host in lab.topology().droplets:
            _look_as_seldom_as_by_default(lab.paths.settings(host))
            lab.start_agent(host)
        report = converge(lab, timeout=PATIENCE)
        if not report.converged:
            raise LabError(f"the lab is not realized: {report.problems[0]}")
        yield lab
    finally:
        lab.down()
        _remove_all(lab.names)  # also of endpoints that a measurement added, which the lab does not know


def _remove_all(names: underlay.Names) -> None:
    for namespace in names.existing():
        underlay.remove(namespace)


def _look_as_seldom_as_by_default(settings: Path) -> None:
    """Let an agent compare all with the kernel in the usual interval: a lab's is short, which a bulk would pay for."""
    kept = [line for line in settings.read_text(encoding="utf-8").splitlines() if not line.startswith("observe =")]
    settings.write_text("\n".join(kept) + "\n", encoding="utf-8")


@contextmanager
def kernel_hosts(setup: Setup, letter: str) -> Iterator[Pairs]:
    """Build the same two hosts with kernel VXLAN and a bridge on each, without agents; remove them at the end."""
    names = underlay.Names(f"bench{os.getpid()}{letter}")
    topology = parse_topology(setup.topology, str(TOPOLOGY))
    try:
        underlay.build(names, topology)
        for host in topology.droplets:
            _add_overlay(names, topology, host)
        for endpoint in topology.endpoints:
            _add_endpoint(names, topology, endpoint)
        yield pairs_of(setup, names)
    finally:
        _remove_all(names)


def _add_overlay(names: underlay.Names, topology: Topology, host: str) -> None:
    """Make a host's bridge, and VXLAN to the only other host."""
    own = topology.droplets[host].address
    other = next(d.address for d in topology.droplets.values() if d.name != host)
    underlay.batch(
        names.droplet(host),
        "link add name br0 type bridge stp_state 0 forward_delay 0",
        f"link add name vx0 type vxlan id 1001 local {own} remote {other} dstport 4789 dev eth0",
        "link set vx0 master br0 up",
        "link set br0 up",
    )


def _add_endpoint(names: underlay.Names, topology: Topology, endpoint: str) -> None:
    """Make an endpoint's namespace and connect it to its host's bridge."""
    underlay.add_endpoint(names, endpoint)
    inside, droplet = names.endpoint(endpoint), names.droplet(topology.host_of(endpoint))
    mtu = topology.underlay.mtu - VXLAN_OVERHEAD
    underlay.batch(
        droplet,
        f"link add name tap-{endpoint} type veth peer name eth0 mtu {mtu} netns {inside}",
        f"link set tap-{endpoint} master br0 up",
    )
    for address in topology.endpoints[endpoint].addresses:
        prefix = "24" if ip_address(address).version == 4 else "64 nodad"
        command("ip", "-n", inside, *f"address add {address}/{prefix} dev eth0".split())
    command("ip", "-n", inside, "link", "set", "eth0", "up")


def set_segmentation(pair: Pair, on: bool) -> None:
    """Let the endpoints' stacks send GSO packets through the kernel's overlay, or single packets as a wire has."""
    state = "on" if on else "off"
    for namespace in (pair.first, pair.second):
        ethtool(namespace, "-K", "eth0", "gso", state, "tso", state)
