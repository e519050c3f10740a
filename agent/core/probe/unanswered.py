"""Faults of a host whose probes were never answered, and the droplets that should answer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from agent.core.model.resolved_state import ResolvedState
from protocol.addresses import format_address, parse_address
from protocol.status import Fault

KIND = "no_probe_answered"


class Uplink(NamedTuple):
    """The interface by which probes leave; `hint` names a possible cause there, if one is known."""

    interface: str
    hint: str = ""


def answering(resolved: ResolvedState) -> frozenset[bytes]:
    """Return the packed addresses of other hosts' droplets that speak Geneve, and therefore answer probes.

    Bouncers and dividers are always agents. If there is a VXLAN network, any other droplet may be a peer that supports
    only VXLAN and never answers.
    """
    others = {id_: one for id_, one in resolved.droplets.items() if not resolved.is_here(id_)}
    if any(network.encapsulation == "vxlan" for network in resolved.networks.values()):
        serving = {id_ for network in resolved.networks.values() for id_ in network.bouncers}
        serving |= {id_ for vpc in resolved.vpcs.values() for id_ in vpc.dividers}
        others = {id_: one for id_, one in others.items() if id_ in serving}
    return frozenset(parse_address(one.address) for one in others.values())


def faults(asked: Mapping[bytes, Collection[bytes]], uplinks: Mapping[bytes, Uplink], port: int) -> list[Fault]:
    """Return a fault for each own address (packed) whose probes were never answered; `uplinks` by own address."""
    found = []
    for source, peers in sorted(asked.items()):
        uplink, address = uplinks.get(source, Uplink("no interface")), format_address(source)
        first = format_address(min(peers))
        others = f" nor any of {len(peers) - 1} others" if len(peers) > 1 else ""
        detail = f"no droplet has ever answered a probe from {address}: not {first}{others}"
        remedy = (
            f"do the agents of the other hosts run, and does UDP port {port} pass between the hosts both ways "
            "(firewalls, VLANs)? Are both ends of each wire able to receive redirected frames: with a veth, is GRO on "
            "at the other end (ethtool -K <peer> gro on), here and there?"
        )
        found.append(Fault(KIND, f"{uplink.interface} {address}", detail, f"{uplink.hint}{remedy}"))
    return found
