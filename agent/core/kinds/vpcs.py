"""VPCs: tenants' address spaces, with their dividers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set

from agent.core.functions.chains import Chains, with_host_chains
from agent.core.kinds.families import cidr_errors
from agent.core.kinds.kind import Column, Key, Kind, key_of
from agent.core.kinds.members import addresses_of, is_one_here
from agent.core.kinds.senders import senders
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.map_layout import U32, VPC_LOCAL_DIVIDER, MapName, vpc_value
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference
from protocol.documents import Vpc
from protocol.errors import FieldError


class Vpcs(Kind[Vpc]):
    """A VPC is one entry of `vpcs`, by its VNI."""

    name = "vpcs"
    singular = "vpc"
    keys = (key_of("vpc", "id"), Key[Vpc]("vni", "vni", lambda vpcs: [str(vpc.vni) for vpc in vpcs]))
    maps = (MapName.VPCS,)
    columns = (
        Column[Vpc]("VPC", lambda one: one.id),
        Column[Vpc]("VNI", lambda one: str(one.vni)),
        Column[Vpc]("CIDRS", lambda one: " ".join(one.cidrs)),
        Column[Vpc]("DIVIDERS", lambda one: " ".join(one.dividers) or "-"),
    )

    def references(self, objects: Sequence[Vpc]) -> Mapping[str, Set[str]]:
        """Return the dividers."""
        return {"droplets": {id_ for vpc in objects for id_ in vpc.dividers}}

    def dependents(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield the networks of the VPCs: the entries of their endpoints hold the VNI; and `senders`."""
        yield from (Reference("networks", one.id) for one in states[0].networks.values() if one.vpc in ids)
        yield from senders(states)

    def rendered_in(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield the droplet whose entry tells which VPCs have chains of functions."""
        del ids
        return with_host_chains(states)

    def served_by(self, droplets: Collection[str], resolved: ResolvedState) -> Iterator[str]:
        """Yield the VPCs that these droplets divide."""
        return (vpc.id for vpc in resolved.vpcs.values() if not set(vpc.dividers).isdisjoint(droplets))

    def validate(self, objects: Sequence[Vpc], resolved: ResolvedState, *, was_in_force: bool) -> Iterator[FieldError]:
        """Yield the CIDRs of a family that is off."""
        del was_in_force
        for index, vpc in enumerate(objects):
            yield from cidr_errors(f"vpcs[{index}]", vpc.cidrs, resolved.host_state.features)

    def render(self, objects: Sequence[Vpc], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Add one entry for each VPC, and one with its chains of functions if it has any."""
        del revision
        entries, chains = into.map(MapName.VPCS), Chains(resolved)
        for vpc in objects:
            flags = VPC_LOCAL_DIVIDER if is_one_here(vpc.dividers, resolved) else 0
            entries[U32.pack(vpc.vni)] = vpc_value(flags, addresses_of(vpc.dividers, resolved))
            if (stages := chains.vpc_entry(vpc.id)) is not None:
                into.map(MapName.VPC_STAGES)[U32.pack(vpc.vni)] = stages


VPCS = Vpcs()
