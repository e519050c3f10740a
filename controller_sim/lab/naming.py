"""Resolves names on the command line to endpoints, hosts, droplets and the router, and explains unknown ones.

Pure: a topology in, a name or the text of a LabError out.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from controller_sim.lab.state import LabError
from controller_sim.lab.underlay import Names
from controller_sim.topology.ipam import Assignment
from controller_sim.topology.model import Topology, gateway_of

ON_HOST = "droplet:"
"""What stands before a host's name where an endpoint could stand."""
ROUTER = "router"


def namespace_of(topology: Topology, names: Names, target: str) -> str:
    """Return the namespace of an endpoint, of a host as droplet:HOST, or of the router; LabError when there is none."""
    if target.startswith(ON_HOST):
        host = target.removeprefix(ON_HOST)
        if host not in _all_hosts(topology):
            raise LabError(unknown_host(topology, host, _all_hosts(topology)))
        return names.droplet(host)
    if target in topology.endpoints:
        if target not in topology.attached:
            raise LabError(no_interface(target))
        return names.endpoint(target)
    if target == ROUTER and len(topology.underlay.subnets) > 1:
        return names.router
    raise LabError(unknown_endpoint(topology, target))


def no_interface(endpoint: str) -> str:
    """Return why nothing can be sent by hand from a function endpoint."""
    return f"{endpoint} is a function endpoint: it has no interface and no network namespace, only functions"


def unknown_endpoint(topology: Topology, name: str) -> str:
    """Return why a name is no endpoint's, with what it is instead."""
    known = f"endpoints are {', '.join(sorted(topology.endpoints)) or 'none'}"
    if name == ROUTER:
        if len(topology.underlay.subnets) > 1:
            return f"the router is not an endpoint: use it with `exec` only; {known}"
        return f"there is no router: the underlay has a single subnet; {known}"
    host = name if name in _all_hosts(topology) else _host_of_droplet(topology, name)
    if host is None:
        return f"there is no endpoint {name!r}; {known}, and hosts {', '.join(_all_hosts(topology))} (as droplet:HOST)"
    what = "a host" if host == name else f"a droplet of host {host}"
    return f"{name} is {what}, not an endpoint: with `exec`, write {ON_HOST}{host}; {known}"


def unknown_host(topology: Topology, name: str, known: list[str] | None = None) -> str:
    """Return why no host with an agent (or of those `known`) is called so."""
    known = topology.hosts if known is None else known
    if name in _all_hosts(topology):
        return f"{name} is a VXLAN peer and has no agent; hosts with one are {', '.join(known)}"
    host = _host_of_droplet(topology, name)
    if host is not None:
        return f"{name} is a droplet of host {host}; hosts are {', '.join(known)}"
    return f"there is no host {name!r}; hosts are {', '.join(known)}"


def why_apart(
    topology: Topology, assignments: Mapping[str, Assignment], source: str, destination: str, family: int | None = None
) -> str | None:
    """Return why nothing that one endpoint sends can reach another, None where it can; both must exist.

    Between VPCs the source's own VPC may have another endpoint with that address, which would answer instead.
    """
    if source == destination:
        return f"{source} is both source and destination: packets to itself never leave its namespace"
    mine, theirs = topology.vpc_of(source), topology.vpc_of(destination)
    if mine == theirs:
        return None
    addresses = [one for one in assignments[destination].addresses if family in (None, ip_address(one).version)]
    holder = f"; in {mine.name}, {addresses[0]} is {_holder(topology, assignments, mine.name, addresses[0])}"
    return (
        f"{source} is in VPC {mine.name} and {destination} in VPC {theirs.name}: VPCs are isolated from each other"
        f"{holder if addresses else ''}"
    )


def _holder(topology: Topology, assignments: Mapping[str, Assignment], vpc: str, address: str) -> str:
    for name, assigned in assignments.items():
        if address in assigned.addresses and topology.vpc_of(name).name == vpc:
            return f"{name}'s"
    for network in topology.networks.values():
        if network.vpc == vpc and address in map(gateway_of, network.cidrs):
            return f"the gateway of {network.name}"
    return "unused"


def _all_hosts(topology: Topology) -> list[str]:
    """Return the hosts, those without an agent too."""
    return list(dict.fromkeys(droplet.host for droplet in topology.droplets.values()))


def _host_of_droplet(topology: Topology, name: str) -> str | None:
    droplet = topology.droplets.get(name)
    return droplet.host if droplet is not None else None
