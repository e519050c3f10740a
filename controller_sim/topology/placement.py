"""Placement: which droplets bounce for a network and divide for a VPC. Pure; the same seed gives the same answer.

By rendezvous hashing: adding or removing a droplet moves only the roles that it gains or loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s

from controller_sim.topology.model import Members, Topology


@dataclass(frozen=True, slots=True)
class Placement:
    """Droplets' names: `bouncers` by network, `dividers` by VPC."""

    bouncers: dict[str, tuple[str, ...]]
    dividers: dict[str, tuple[str, ...]]


def place(topology: Topology) -> Placement:
    """Return who takes which role."""
    names = tuple(name for name, droplet in topology.droplets.items() if not droplet.peer)
    return Placement(
        bouncers={
            network.name: _choose(network.bouncers, names, f"{topology.seed} bouncer {network.name}")
            for network in topology.networks.values()
        },
        dividers={
            vpc.name: _choose(vpc.dividers, names, f"{topology.seed} divider {vpc.name}")
            for vpc in topology.vpcs.values()
        },
    )


def _choose(wanted: Members, names: tuple[str, ...], role: str) -> tuple[str, ...]:
    if not isinstance(wanted, int):
        return wanted
    ranked = sorted(names, key=lambda name: blake2s(f"{role} {name}".encode()).digest())
    return tuple(sorted(ranked[:wanted]))
