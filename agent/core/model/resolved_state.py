"""The resolved state: droplets, VPCs and networks in force, to which others refer. Endpoints stay in documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agent.core.model.features import Features
from agent.core.model.local_droplets import IngressAddress, LocalIndexes, ingress_addresses
from agent.core.model.uplinks import Uplink
from protocol.acknowledgements import Reference
from protocol.addresses import parse_address
from protocol.documents import Document, Droplet, Network, Vpc


@dataclass(frozen=True, slots=True)
class HostState:
    """The host that the agent runs on: its name, its uplinks as the kernel shows them, the features of its programs."""

    host: str
    instance: str
    uplinks: tuple[Uplink, ...]
    features: Features = field(default_factory=Features)
    down: frozenset[str] = frozenset()
    """Other hosts' droplets that no longer answer, by id."""

    def uplink(self, address: bytes) -> Uplink | None:
        """Return the interface that has a packed address of 4 or 16 bytes."""
        return next((uplink for uplink in self.uplinks if address in uplink.addresses), None)


@dataclass(frozen=True, slots=True)
class ResolvedState:
    """The droplets, VPCs and networks in force, to which references resolve. Immutable: a change creates a new one."""

    host_state: HostState
    droplets: Mapping[str, Droplet] = field(default_factory=dict)
    vpcs: Mapping[str, Vpc] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    ages: Mapping[str, int] = field(default_factory=dict)
    """The revision since which each network has been claimed: if two overlap, the younger one is invalid."""
    slots: Mapping[str, int] = field(default_factory=dict)
    """The slot of each endpoint on this host: it determines the interface's ifindex and the index of the counters."""
    departed: frozenset[str] = frozenset()
    """Endpoints that are no longer wanted here but whose interfaces still exist: they keep their slots."""
    local_indexes: LocalIndexes = field(default_factory=dict)
    """The index in `local_droplets` of each address of this host, on each interface on which its frames arrive."""
    own: Mapping[str, Droplet] = field(default_factory=dict)
    """This host's droplets, by id and in its order."""

    def has(self, reference: Reference) -> bool:
        """Return whether an object is in force."""
        known: Mapping[str, object] = getattr(self, reference.kind)
        return reference.id in known

    def serving(self, droplets: tuple[str, ...]) -> tuple[str, ...]:
        """Return the bouncers or dividers among `droplets` that are not down, or all of them if all are down."""
        return tuple(id_ for id_ in droplets if id_ not in self.host_state.down) or droplets

    def is_here(self, droplet: str) -> bool:
        """Return whether a droplet is this host's own."""
        return droplet in self.own

    def own_droplets(self) -> list[Droplet]:
        """Return this host's droplets, by id."""
        return list(self.own.values())

    def uplink_of(self, droplet: Droplet) -> Uplink | None:
        """Return the interface that has an own droplet's address, None if none has it."""
        return self.host_state.uplink(parse_address(droplet.address))

    def ingress_addresses(self, droplet: Droplet) -> list[IngressAddress]:
        """Return the entries of `local_droplets` that an own droplet needs; it sends by the first one."""
        uplink = self.uplink_of(droplet)
        return ingress_addresses(parse_address(droplet.address), uplink.ingress) if uplink else []

    def carriers(self) -> frozenset[int]:
        """Return the interfaces to which transit XDP has to be attached, by ifindex."""
        uplinks = (self.uplink_of(droplet) for droplet in self.own.values())
        return frozenset(uplink.carrier for uplink in uplinks if uplink)

    def with_documents(self, old: Iterable[Document], new: Iterable[Document]) -> ResolvedState:
        """Return the state without the objects of `old` and with those of `new`."""
        droplets, vpcs, networks = dict(self.droplets), dict(self.vpcs), dict(self.networks)
        own = dict(self.own)
        for document in old:
            for droplet in document.droplets:
                droplets.pop(droplet.id, None)
                own.pop(droplet.id, None)
            for vpc in document.vpcs:
                vpcs.pop(vpc.id, None)
            for network in document.networks:
                networks.pop(network.id, None)
        for document in new:
            droplets.update((droplet.id, droplet) for droplet in document.droplets)
            own.update((droplet.id, droplet) for droplet in document.droplets if droplet.host == self.host_state.host)
            vpcs.update((vpc.id, vpc) for vpc in document.vpcs)
            networks.update((network.id, network) for network in document.networks)
        return replace(self, droplets=droplets, vpcs=vpcs, networks=networks, own=dict(sorted(own.items())))


def provides(document: Document) -> set[Reference]:
    """Return the objects of a document that other documents may refer to."""
    return {
        *(Reference("droplets", droplet.id) for droplet in document.droplets),
        *(Reference("vpcs", vpc.id) for vpc in document.vpcs),
        *(Reference("networks", network.id) for network in document.networks),
    }


def needs(document: Document) -> frozenset[Reference]:
    """Return the objects that a document refers to, its own included."""
    droplets: set[str] = {endpoint.droplet for endpoint in document.endpoints}
    networks = {endpoint.network for endpoint in document.endpoints}
    for vpc in document.vpcs:
        droplets.update(vpc.dividers)
    for network in document.networks:
        droplets.update(network.bouncers)
    return frozenset(
        [
            *(Reference("droplets", id_) for id_ in droplets),
            *(Reference("networks", id_) for id_ in networks),
            *(Reference("vpcs", network.vpc) for network in document.networks),
        ]
    )


def changed_objects(old: Document | None, new: Document | None) -> set[Reference]:
    """Return the referable objects that are added, removed or changed between two revisions of one document."""
    before = _objects(old) if old else {}
    after = _objects(new) if new else {}
    return {reference for reference in before.keys() | after.keys() if before.get(reference) != after.get(reference)}


def _objects(document: Document) -> dict[Reference, object]:
    return {
        **{Reference("droplets", droplet.id): droplet for droplet in document.droplets},
        **{Reference("vpcs", vpc.id): vpc for vpc in document.vpcs},
        **{Reference("networks", network.id): network for network in document.networks},
    }
