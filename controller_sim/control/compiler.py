"""Compiles a topology into the documents of every host. Pure.

Each host gets the underlay (`underlay`: all droplets); each VPC in which it has an endpoint or a role (`vpc.<id>`,
with the networks that it needs); its own endpoints (`endpoint.<id>`, one document each, so that nothing else ever
touches a tenant's interface) and functions (`function.<id>`); and, where it bounces a network, all endpoints of other
hosts (`network.<id>.<part>`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2s
from typing import TypeAlias

from msgspec import structs

from controller_sim.topology import model as t
from controller_sim.topology.ipam import Assignment
from controller_sim.topology.placement import Placement
from protocol.documents import Attachment, Document, Droplet, Endpoint, Network, Vpc

MAX_ENDPOINTS = 5000
"""Endpoints of one document: about 450 kB of MessagePack."""

Documents: TypeAlias = dict[str, dict[str, Document]]
"""Host, document's name, document."""


def compile_documents(
    topology: t.Topology,
    assignments: Mapping[str, Assignment],
    placement: Placement,
    namespace_of: Callable[[str], str],
    *,
    max_endpoints: int = MAX_ENDPOINTS,
) -> Documents:
    """Return all documents. `namespace_of` says in which network namespace an endpoint's interface appears."""

    def attachment_of(name: str) -> Attachment:
        if topology.endpoints[name].attachment == "function":
            return Attachment(kind="function")
        return Attachment(namespace_of(name))

    by_network: dict[str, list[Endpoint]] = {name: [] for name in topology.networks}
    for name, endpoint in topology.endpoints.items():
        by_network[endpoint.network].append(_endpoint(endpoint, assignments[name]))
    underlay = Document(
        droplets=tuple(Droplet(d.name, d.host, d.address, d.udp_checksum) for d in topology.droplets.values())
    )
    return {
        host: {
            "underlay": underlay,
            **_host_documents(topology, placement, by_network, host, attachment_of, max_endpoints),
        }
        for host in topology.hosts
    }


def _endpoint(endpoint: t.Endpoint, assignment: Assignment) -> Endpoint:
    return Endpoint(
        endpoint.name,
        endpoint.network,
        endpoint.droplet,
        assignment.addresses,
        assignment.mac,
        dscp=endpoint.dscp,
        label=endpoint.label,
    )


def _host_documents(
    topology: t.Topology,
    placement: Placement,
    by_network: Mapping[str, list[Endpoint]],
    host: str,
    attachment_of: Callable[[str], Attachment],
    max_endpoints: int,
) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    own = {droplet.name for droplet in topology.droplets_of(host)}
    for vpc in topology.vpcs.values():
        known = _networks_known(topology, placement, by_network, own, vpc)
        if known or own & set(placement.dividers[vpc.name]):
            documents[f"vpc.{vpc.name}"] = _vpc_document(vpc, known, placement)
        for network in known:
            local = [item for item in by_network[network.name] if item.droplet in own]
            documents |= _local_documents(local, attachment_of)
            if own & set(placement.bouncers[network.name]):
                remote = [item for item in by_network[network.name] if item.droplet not in own]
                documents |= cut(f"network.{network.name}", remote, max_endpoints)
    return documents | _function_documents(topology, host, documents)


def _function_documents(topology: t.Topology, host: str, others: Mapping[str, Document]) -> dict[str, Document]:
    """Return the functions of a host: those that name it, and those that name none if it knows what they refer to."""
    vpcs = {one.id for document in others.values() for one in document.vpcs}
    networks = {one.id for document in others.values() for one in document.networks}

    def knows(one: t.Function) -> bool:
        referred = {one.vpc, *one.scope.get("vpcs", ())} - {""}
        return referred <= vpcs and networks.issuperset(one.scope.get("networks", ()))

    return {
        f"function.{one.name}": Document(functions=(one.document(),))
        for one in topology.functions.values()
        if (host in one.hosts if one.hosts else knows(one))
    }


def _networks_known(
    topology: t.Topology, placement: Placement, by_network: Mapping[str, list[Endpoint]], own: set[str], vpc: t.Vpc
) -> list[t.Network]:
    divides = bool(own & set(placement.dividers[vpc.name]))
    return [
        network
        for network in topology.networks.values()
        if network.vpc == vpc.name
        and (
            divides
            or own & set(placement.bouncers[network.name])
            or any(endpoint.droplet in own for endpoint in by_network[network.name])
        )
    ]


def _vpc_document(vpc: t.Vpc, networks: Iterable[t.Network], placement: Placement) -> Document:
    return Document(
        vpcs=(Vpc(vpc.name, vpc.vni, vpc.cidrs, placement.dividers[vpc.name]),),
        networks=tuple(
            Network(
                network.name,
                vpc.name,
                network.cidrs,
                placement.bouncers[network.name],
                encapsulation=network.encapsulation,
                routing=network.routing,
                labels=network.labels,
            )
            for network in networks
        ),
    )


def _local_documents(endpoints: Iterable[Endpoint], attachment_of: Callable[[str], Attachment]) -> dict[str, Document]:
    return {
        f"endpoint.{item.id}": Document(
            endpoints=(structs.replace(item, attachment=attachment_of(item.id)),),
        )
        for item in endpoints
    }


def cut(name: str, endpoints: Iterable[Endpoint], size: int) -> dict[str, Document]:
    """Cut endpoints into documents of at most `size`, by the leading bits of each id's hash.

    A part that grows too large splits in two, named by one bit more (`.p0` and `.p1` of `.p`); no other part changes,
    and adding or removing one endpoint changes one document.
    """
    hashed = [(int.from_bytes(blake2s(e.id.encode(), digest_size=8).digest(), "big"), e) for e in endpoints]
    documents: dict[str, Document] = {}
    stack = [("", hashed)]
    while stack:
        bits, part = stack.pop()
        if len(part) > size and len(bits) < 63:
            halves: tuple[list[tuple[int, Endpoint]], ...] = ([], [])
            for item in part:
                halves[item[0] >> (63 - len(bits)) & 1].append(item)
            stack += [(f"{bits}{bit}", half) for bit, half in enumerate(halves)]
        elif part:
            documents[f"{name}.p{bits}"] = Document(endpoints=tuple(e for _, e in sorted(part, key=lambda i: i[1].id)))
    return documents
