"""The resolved state: the objects in force to which others refer, such as networks. Others stay in documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from agent.core.model.desired_entries import FunctionHistory, FunctionPlace
from agent.core.model.features import Features, FunctionRules, Verdict
from agent.core.model.hooks import Hook
from agent.core.model.local_droplets import IngressAddress, LocalIndexes, ingress_addresses
from agent.core.model.offloads import Sending
from agent.core.model.uplinks import Uplink
from protocol.acknowledgements import Reference
from protocol.addresses import parse_address
from protocol.documents import Droplet, Function, Network, Vpc

NOTHING: Mapping[Any, Any] = {}

Numbers: TypeAlias = Mapping[str, Mapping[Any, int]]
"""Numbers of this host, such as slots, by kind and what has them."""


@dataclass(frozen=True, slots=True)
class HostState:
    """The host that the agent runs on: its name, its uplinks as the kernel shows them, the features of its programs."""

    host: str
    instance: str
    uplinks: tuple[Uplink, ...]
    features: Features = field(default_factory=Features)
    down: frozenset[str] = frozenset()
    """Other hosts' droplets that no longer answer, by id."""
    endpoint_hook: Hook = Hook.XDP
    """Where the programs of endpoints are attached."""
    functions: FunctionRules = field(default_factory=FunctionRules)
    """The functions that the settings accept."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """What is known of functions' programs: see `agent.core.functions.programs`."""
    unchecked: frozenset[str] = frozenset()
    """The keys of verdicts that will be known soon: documents that need them wait."""
    map_bytes: Mapping[str, int] = field(default_factory=dict)
    """What the maps of programs take that an earlier agent checked, by the hash of the program."""
    histories: Mapping[FunctionPlace, FunctionHistory] = field(default_factory=dict)
    """Earlier versions of functions: see `agent.core.functions.versions`."""

    def uplink(self, address: bytes) -> Uplink | None:
        """Return the interface that has a packed address of 4 or 16 bytes."""
        return next((uplink for uplink in self.uplinks if address in uplink.addresses), None)


@dataclass(frozen=True, slots=True)
class ResolvedState:
    """The objects in force to which others may refer, and this host. Immutable: a change creates a new one."""

    host_state: HostState
    objects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The objects by kind and id."""
    ages: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The revision since which each object has been claimed, by kind and id; only of kinds where it matters."""
    numbers: Numbers = field(default_factory=dict)
    """The numbers of this host that objects have, by kind; see `slots` and `local_indexes`."""
    departed: frozenset[str] = frozenset()
    """Endpoints that are no longer wanted here but whose interfaces still exist: they keep their slots."""
    own: Mapping[str, Droplet] = field(default_factory=dict)
    """This host's droplets, by id and in its order."""
    summing: frozenset[str] = frozenset()
    """The droplets of all hosts that send UDP checksums over IPv6, by id."""

    @property
    def droplets(self) -> Mapping[str, Droplet]:
        """The droplets in force, by id."""
        return self.objects.get("droplets", NOTHING)

    @property
    def vpcs(self) -> Mapping[str, Vpc]:
        """The VPCs in force, by id."""
        return self.objects.get("vpcs", NOTHING)

    @property
    def networks(self) -> Mapping[str, Network]:
        """The networks in force, by id."""
        return self.objects.get("networks", NOTHING)

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions in force, by id."""
        return self.objects.get("functions", NOTHING)

    @property
    def slots(self) -> Mapping[str, int]:
        """The slot of each endpoint here: it determines the interface's ifindex and the index of the counters."""
        return self.numbers.get("endpoints", NOTHING)

    def local_slots(self) -> dict[str, int]:
        """Return the slots of the endpoints that are wanted here."""
        return {id_: slot for id_, slot in self.slots.items() if id_ not in self.departed}

    @property
    def local_indexes(self) -> LocalIndexes:
        """The index in `local_droplets` of each address of this host, on each interface on which its frames arrive."""
        return self.numbers.get("droplets", NOTHING)

    @property
    def stage_indexes(self) -> Mapping[tuple[str, int], int]:
        """The index in the jump tables of each function's program, by its id and the number of its stage point."""
        return self.numbers.get("functions", NOTHING)

    def has(self, reference: Reference) -> bool:
        """Return whether an object is in force."""
        return reference.id in self.objects.get(reference.kind, NOTHING)

    def with_numbers(self, kind: str, numbers: Mapping[Any, int]) -> ResolvedState:
        """Return the state with other numbers for the objects of a kind."""
        return replace(self, numbers={**self.numbers, kind: numbers})

    def with_objects(self, kind: str, old: Iterable[str], new: Mapping[str, Any]) -> ResolvedState:
        """Return the state without the objects `old` of a kind, and with those in `new`; both by id."""
        found = dict(self.objects.get(kind, NOTHING))
        for id_ in old:
            found.pop(id_, None)
        return replace(self, objects={**self.objects, kind: {**found, **new}})

    def serving(self, droplets: tuple[str, ...]) -> tuple[str, ...]:
        """Return the bouncers or dividers among `droplets` that are not down, or all of them if all are down."""
        return tuple(id_ for id_ in droplets if id_ not in self.host_state.down) or droplets

    def is_here(self, droplet: str) -> bool:
        """Return whether a droplet is this host's own."""
        return droplet in self.own

    def own_droplet(self) -> Reference:
        """Return the reference of all documents to a droplet of this host: without one, no program runs."""
        return Reference("droplets", f"of host {self.host_state.host}")

    def own_droplets(self) -> list[Droplet]:
        """Return this host's droplets, by id."""
        return list(self.own.values())

    def sending(self) -> Sending:
        """Return how packets of this host's endpoints leave.

        A UDP checksum covers one packet, so GSO packets cannot leave by a droplet that has to send them over IPv6: see
        `summed_droplets`.
        """
        hook = self.host_state.endpoint_hook
        return Sending(hook, hook is Hook.TC and self.summing.isdisjoint(self.own) and not self.summed_droplets())

    def summed_droplets(self) -> list[str]:
        """Return the droplets that endpoints' packets may pass and that send UDP checksums over IPv6, by id.

        Each droplet of this host may have to send packets of each endpoint: to droplets that only it can reach. Of
        others, those in the middle count where packets never learn a direct path.
        """
        return sorted(self.summing & (self.own.keys() | self._always_in_the_middle())) if self.summing else []

    def _always_in_the_middle(self) -> set[str]:
        """Return the bouncers and dividers of networks whose packets never go direct, by id."""
        found: set[str] = set()
        for network in self.networks.values():
            if network.encapsulation == "vxlan" or network.routing == "divider":
                vpc = self.vpcs.get(network.vpc)
                found.update(network.bouncers, vpc.dividers if vpc is not None else ())
        return found

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


def initial_state(host_state: HostState, numbers: Numbers) -> ResolvedState:
    """Return the state without objects; what has `numbers` is in the kernel, but is not wanted yet."""
    return ResolvedState(host_state, numbers=numbers, departed=frozenset(numbers.get("endpoints", ())))
