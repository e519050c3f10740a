"""The lab's wires: network namespaces, the substrate's bridge, and a veth from it to each droplet.

Everything is in namespaces whose names begin with the lab's: `<lab>_fabric` holds the bridge `br0` and, on its
address, the NATS server; `<lab>_droplet_<host>` has `eth0` on the bridge; `<lab>_endpoint_<name>` belongs to a tenant
and is empty until the agent puts an interface there. A lab's name has no underscore, so that no lab's names begin
another's. Nothing is made in the root namespace.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from ipaddress import ip_network

from controller_sim.namespaces import NAMED, run_in
from controller_sim.topology import Topology


class SubstrateError(RuntimeError):
    """A command refused to build or take down the lab's wires; the text is the command and what it said."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a lab's namespaces."""

    lab: str

    @property
    def fabric(self) -> str:
        """The namespace of the bridge and the NATS server."""
        return f"{self.lab}_fabric"

    def droplet(self, host: str) -> str:
        """Return the namespace of a droplet."""
        return f"{self.lab}_droplet_{host}"

    def endpoint(self, endpoint: str) -> str:
        """Return the namespace of a tenant's endpoint."""
        return f"{self.lab}_endpoint_{endpoint}"

    def existing(self) -> list[str]:
        """Return the lab's namespaces that exist."""
        if not NAMED.is_dir():
            return []
        return sorted(entry.name for entry in NAMED.iterdir() if entry.name.startswith(f"{self.lab}_"))


def _command(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SubstrateError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _batch(namespace: str, *lines: str) -> None:
    _command("ip", "-n", namespace, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def build(names: Names, topology: Topology) -> None:
    """Make the fabric and every droplet's namespace; SubstrateError when something is refused."""
    substrate = topology.substrate
    prefix = ip_network(substrate.cidr).prefixlen
    _command("ip", "netns", "add", names.fabric)
    _batch(
        names.fabric,
        "link set lo up",
        f"link add name br0 mtu {substrate.mtu} type bridge stp_state 0 forward_delay 0",
        f"address add {substrate.server}/{prefix} dev br0",
        "link set br0 up",
    )
    for index, droplet in enumerate(topology.droplets.values()):
        _add_droplet(names, index, droplet.name, f"{droplet.address}/{prefix}", substrate.mtu)


def _add_droplet(names: Names, index: int, host: str, address: str, mtu: int) -> None:
    namespace, port = names.droplet(host), f"port{index}"
    _command("ip", "netns", "add", namespace)
    _batch(
        names.fabric,
        f"link add name {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {namespace}",
        f"link set {port} master br0 up",
    )
    _batch(namespace, "link set lo up", f"address add {address} dev eth0", "link set eth0 up")
    # A redirect to eth0 comes out of the port, which must receive by NAPI: GRO on.
    done = run_in(names.fabric, ["ethtool", "-K", port, "gro", "on"])
    if done.returncode != 0:
        raise SubstrateError(f"ethtool -K {port} gro on: {done.stderr.strip()}")


def add_endpoint(names: Names, endpoint: str) -> None:
    """Make a tenant's namespace with loopback up; one that exists is kept."""
    namespace = names.endpoint(endpoint)
    if (NAMED / namespace).exists():
        return
    _command("ip", "netns", "add", namespace)
    _batch(namespace, "link set lo up")


def remove(namespace: str) -> None:
    """Remove a namespace with its interfaces; absence is no error."""
    if (NAMED / namespace).exists():
        _command("ip", "netns", "delete", namespace)


def pids_in(namespace: str) -> list[int]:
    """Return the processes inside a namespace."""
    if not (NAMED / namespace).exists():
        return []
    return [int(pid) for pid in _command("ip", "netns", "pids", namespace).split()]
