"""Droplets: addresses of hosts in the underlay. Those of this host terminate its tunnels."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from hashlib import blake2s

from agent.core.functions.chains import Chains, host_droplet, with_host_chains
from agent.core.kinds.families import family_is_off
from agent.core.kinds.kind import NO_ERRORS, Assignment, Choice, Column, KernelNumbers, Kind, key_of
from agent.core.kinds.senders import senders
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.features import family_of
from agent.core.model.local_droplets import LocalIndexes, assign_indexes, indexes_of, no_free_index
from agent.core.model.map_layout import DROPLET, DROPLET_ZERO_CHECKSUM, LOCAL_DROPLET, U32, MapName, mapped
from agent.core.model.resolved_state import ResolvedState
from agent.core.model.uplinks import Uplink
from protocol.acknowledgements import Reference
from protocol.addresses import format_address, parse_address
from protocol.documents import Droplet
from protocol.errors import ErrorCode, FieldError


def host_number(host: str) -> int:
    """Return the number by which the programs see that droplets belong to one host. Collisions are rare."""
    return int.from_bytes(blake2s(host.encode(), digest_size=4).digest())


class Droplets(Kind[Droplet]):
    """Other hosts' droplets fill `droplets`; this host's own have entries in `local_droplets`, with an index each."""

    name = "droplets"
    singular = "droplet"
    keys = (key_of("droplet", "id"), key_of("underlay address", "address"))
    maps = (MapName.LOCAL_DROPLETS, MapName.DROPLETS)
    columns = (
        Column[Droplet]("DROPLET", lambda one: one.id),
        Column[Droplet]("OF HOST", lambda one: one.host),
        Column[Droplet]("ADDRESS", lambda one: one.address),
        Column[Droplet]("UDP CHECKSUM", lambda one: one.udp_checksum, usual="full"),
    )

    def replace(self, resolved: ResolvedState, old: Sequence[Droplet], new: Sequence[Droplet]) -> ResolvedState:
        """Return the resolved state with the droplets, and this host's own among them, by id and in its order."""
        own = dict(resolved.own)
        for droplet in old:
            own.pop(droplet.id, None)
        own.update((droplet.id, droplet) for droplet in new if droplet.host == resolved.host_state.host)
        summing = resolved.summing.difference(droplet.id for droplet in old) | set(_summing(new))
        return replace(super().replace(resolved, old, new), own=dict(sorted(own.items())), summing=summing)

    def dependents(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield what this host's endpoints depend on if it changes how they send."""
        del ids
        return senders(states)

    def rendered_in(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield the droplets that the host's own chains are rendered with, if it is another one now."""
        del ids
        new, old = states
        return with_host_chains(states) if host_droplet(new) != host_droplet(old) else iter(())

    def validate(
        self, objects: Sequence[Droplet], resolved: ResolvedState, *, was_in_force: bool
    ) -> Iterator[FieldError]:
        """Yield the own droplets without an interface, and those of a family that is off."""
        del was_in_force
        for index, droplet in enumerate(objects):
            if droplet.host == resolved.host_state.host and resolved.uplink_of(droplet) is None:
                message = (
                    f"no interface of this host has {droplet.address} ({_described(resolved.host_state.uplinks)}): "
                    f"add it to one, name its interface in interfaces, or correct the document"
                )
                yield FieldError(f"droplets[{index}].address", ErrorCode.OUT_OF_RANGE, message)
        for index, droplet in enumerate(objects):
            family = family_of(parse_address(droplet.address))
            if family not in resolved.host_state.features.underlay:
                message = f"{droplet.address}: {family_is_off(family, 'data_plane.underlay')}"
                yield FieldError(f"droplets[{index}].address", ErrorCode.DISABLED, message)

    def numbers_in(self, kernel: KernelNumbers) -> LocalIndexes:
        """Return the indexes that entries of `local_droplets` occupy."""
        return indexes_of(kernel.maps[MapName.LOCAL_DROPLETS])

    def assign(
        self, choices: Iterable[Choice[Droplet]], old: ResolvedState, resolved: ResolvedState, *, removing: bool
    ) -> Assignment:
        """Assign indexes in `local_droplets` to every droplet of this host."""
        wanted = {arrival: id_ for id_, one in resolved.own.items() for arrival in resolved.ingress_addresses(one)}
        if wanted.keys() == old.local_indexes.keys():
            return Assignment(resolved, NO_ERRORS)
        local_indexes, unplaced = assign_indexes(old.local_indexes, wanted, keep=not removing)
        without = {wanted[arrival] for arrival in unplaced}
        errors: dict[str, FieldError] = {}
        for choice in choices if without else ():
            for index, droplet in enumerate(choice.now):
                if droplet.id in without:
                    path = f"droplets[{index}].id"
                    errors[choice.document] = FieldError(path, ErrorCode.OUT_OF_RANGE, no_free_index(droplet.id))
        return Assignment(resolved.with_numbers(self.name, local_indexes), errors)

    def render(self, objects: Sequence[Droplet], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Add one entry for each droplet elsewhere, and one for each interface on which an own one's frames arrive.

        This host's first one also has the entry of its chains of functions.
        """
        del revision
        for droplet in objects:
            if resolved.is_here(droplet.id):
                _render_own(droplet, resolved, into)
                if droplet.id == host_droplet(resolved) and (entry := Chains(resolved).host_entry()) is not None:
                    into.map(MapName.HOST_STAGES)[U32.pack(0)] = entry
                continue
            value = DROPLET.pack(_flags(droplet), host_number(droplet.host))
            into.map(MapName.DROPLETS)[mapped(parse_address(droplet.address))] = value


def _summing(droplets: Iterable[Droplet]) -> Iterator[str]:
    """Yield the ids of droplets that send UDP checksums over IPv6."""
    for droplet in droplets:
        if droplet.udp_checksum != "zero" and family_of(parse_address(droplet.address)) == "ipv6":
            yield droplet.id


def _described(uplinks: tuple[Uplink, ...]) -> str:
    """Name the interfaces with their addresses."""
    with_addresses = (
        f"{uplink.name} has {', '.join(map(format_address, uplink.addresses)) or 'none'}" for uplink in uplinks
    )
    return "; ".join(with_addresses) or "it has no uplink"


def _render_own(droplet: Droplet, resolved: ResolvedState, into: DesiredEntries) -> None:
    uplink = resolved.uplink_of(droplet)
    assert uplink is not None, "validated before"
    vlan = int.from_bytes(uplink.vlan.to_bytes(2, "big"), sys.byteorder)
    for arrival in resolved.ingress_addresses(droplet):
        into.map(MapName.LOCAL_DROPLETS)[U32.pack(resolved.local_indexes[arrival])] = LOCAL_DROPLET.pack(
            arrival.address, uplink.ifindex, arrival.ifindex, uplink.egress, uplink.mac, vlan, _flags(droplet)
        )
    into.transit |= {uplink.carrier}


def _flags(droplet: Droplet) -> int:
    return DROPLET_ZERO_CHECKSUM if droplet.udp_checksum == "zero" else 0


DROPLETS = Droplets()
