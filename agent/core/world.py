"""The objects that others refer to, as they are in force: droplets, VPCs, networks. Endpoints stay in documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from protocol.acknowledgements import Reference
from protocol.documents import Document, Droplet, Network, Vpc


@dataclass(frozen=True, slots=True)
class Here:
    """The host that the agent runs on: its name, and the droplet's interface as the kernel shows it."""

    host: str
    instance: str
    ifindex: int
    mac: bytes
    mtu: int
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class World:
    """What references resolve to. A value: a change makes a new one."""

    here: Here
    droplets: Mapping[str, Droplet] = field(default_factory=dict)
    vpcs: Mapping[str, Vpc] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    ages: Mapping[str, int] = field(default_factory=dict)
    """The revision from which on each network was claimed: of two that overlap, the younger one is wrong."""
    slots: Mapping[str, int] = field(default_factory=dict)
    """The number of each endpoint that lives here: it chooses the interface's index and the counters' place."""

    def has(self, reference: Reference) -> bool:
        """Say whether an object is in force."""
        known: Mapping[str, object] = getattr(self, reference.kind)
        return reference.id in known

    def is_here(self, droplet: str) -> bool:
        """Say whether a droplet is this host's own."""
        found = self.droplets.get(droplet)
        return found is not None and found.host == self.here.host

    def own_droplets(self) -> list[Droplet]:
        """Return this host's droplets, by id."""
        own = (droplet for droplet in self.droplets.values() if droplet.host == self.here.host)
        return sorted(own, key=lambda droplet: droplet.id)

    def exchanged(self, old: Iterable[Document], new: Iterable[Document]) -> World:
        """Return the world without the objects of `old` and with those of `new`."""
        droplets, vpcs, networks = dict(self.droplets), dict(self.vpcs), dict(self.networks)
        for document in old:
            for droplet in document.droplets:
                droplets.pop(droplet.id, None)
            for vpc in document.vpcs:
                vpcs.pop(vpc.id, None)
            for network in document.networks:
                networks.pop(network.id, None)
        for document in new:
            droplets.update((droplet.id, droplet) for droplet in document.droplets)
            vpcs.update((vpc.id, vpc) for vpc in document.vpcs)
            networks.update((network.id, network) for network in document.networks)
        return replace(self, droplets=droplets, vpcs=vpcs, networks=networks)


def provides(document: Document) -> set[Reference]:
    """Return the objects of a document that others may refer to."""
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


def differing(old: Document | None, new: Document | None) -> set[Reference]:
    """Return the referable objects that come, go or change between two contents of one document."""
    before = _objects(old) if old else {}
    after = _objects(new) if new else {}
    return {reference for reference in before.keys() | after.keys() if before.get(reference) != after.get(reference)}


def _objects(document: Document) -> dict[Reference, object]:
    return {
        **{Reference("droplets", droplet.id): droplet for droplet in document.droplets},
        **{Reference("vpcs", vpc.id): vpc for vpc in document.vpcs},
        **{Reference("networks", network.id): network for network in document.networks},
    }
