"""Two hosts with an endpoint each, twice on wires of the same build: with our agents, and with kernel VXLAN + bridge.

The wires are the lab's: an underlay bridge in a namespace of its own, a veth to each host. Owns what is made on them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.wires import command, ethtool
from controller_sim.lab import underlay
from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.lab import Lab
from controller_sim.lab.state import LabError
from controller_sim.topology.file import parse_topology
from controller_sim.topology.model import Topology

TOPOLOGY = Path(__file__).parent / "two_hosts.yaml"
ENDPOINTS = {"a": "h1", "b": "h2"}
OUR_PAIR, KERNEL_PAIR = "ours", "kernel VXLAN + bridge"
VXLAN_OVERHEAD = 50
ADDRESS = {"a": "10.0.1.11", "b": "10.0.1.12"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two endpoints that reach one another: their namespaces, and the second one's address."""

    name: str
    first: str
    second: str
    address: str


@contextmanager
def our_hosts(folder: Path) -> Iterator[Lab]:
    """Bring a lab of two hosts up with real agents and a real nats-server, all realized; take it down at the end."""
    os.environ["DROPLET_LAB_CACHE"] = str(folder)
    lab = Lab(f"bench{os.getpid()}")
    lab.up(TOPOLOGY.read_text(encoding="utf-8"), str(TOPOLOGY))
    try:
        prepare(lab)
        for host in lab.topology().droplets:
            _look_as_seldom_as_by_default(lab.paths.settings(host))
            lab.start_agent(host)
        report = converge(lab)
        if not report.converged:
            raise LabError(f"the lab is not realized: {report.problems[0]}")
        yield lab
    finally:
        lab.down()


def _look_as_seldom_as_by_default(settings: Path) -> None:
    """Let an agent compare all with the kernel in the usual interval: a lab's is short, which a bulk would pay for."""
    kept = [line for line in settings.read_text(encoding="utf-8").splitlines() if not line.startswith("observe =")]
    settings.write_text("\n".join(kept) + "\n", encoding="utf-8")


def our_pair(lab: Lab) -> Pair:
    """Return the lab's two endpoints."""
    return Pair(OUR_PAIR, lab.names.endpoint("a"), lab.names.endpoint("b"), ADDRESS["b"])


@contextmanager
def kernel_hosts() -> Iterator[Pair]:
    """Build the same two hosts with kernel VXLAN and a bridge on each, without agents; remove them at the end."""
    names = underlay.Names(f"benchk{os.getpid()}")
    topology = parse_topology(TOPOLOGY.read_text(encoding="utf-8"), str(TOPOLOGY))
    try:
        underlay.build(names, topology)
        for endpoint, host in ENDPOINTS.items():
            _add_endpoint(names, topology, endpoint, host)
        yield Pair(KERNEL_PAIR, names.endpoint("a"), names.endpoint("b"), ADDRESS["b"])
    finally:
        for namespace in names.existing():
            underlay.remove(namespace)


def _add_endpoint(names: underlay.Names, topology: Topology, endpoint: str, host: str) -> None:
    """Make an endpoint's namespace and lead it into VXLAN to the only other host."""
    underlay.add_endpoint(names, endpoint)
    inside, droplet = names.endpoint(endpoint), names.droplet(host)
    own = topology.droplets[host].address
    other = next(d.address for d in topology.droplets.values() if d.name != host)
    mtu = topology.underlay.mtu - VXLAN_OVERHEAD
    lines = (
        f"link add name tap type veth peer name eth0 mtu {mtu} netns {inside}",
        "link add name br0 type bridge stp_state 0 forward_delay 0",
        f"link add name vx0 type vxlan id 1001 local {own} remote {other} dstport 4789 dev eth0",
        "link set tap master br0 up",
        "link set vx0 master br0 up",
        "link set br0 up",
    )
    command("ip", "-n", droplet, "-batch", "-", stdin="\n".join(lines) + "\n")
    command("ip", "-n", inside, "address", "add", f"{ADDRESS[endpoint]}/24", "dev", "eth0")
    command("ip", "-n", inside, "link", "set", "eth0", "up")


def set_segmentation(pair: Pair, on: bool) -> None:
    """Let the endpoints' stacks send super-packets through the kernel's overlay, or single packets as a wire has."""
    state = "on" if on else "off"
    for namespace in (pair.first, pair.second):
        ethtool(namespace, "-K", "eth0", "gso", state, "tso", state)
