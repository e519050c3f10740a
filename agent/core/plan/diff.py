"""Compares the kernel with the desired entries, piece by piece: differences by document, and unexpected entries.

Pure, and the only place where entries and interfaces are compared. The caller decides what runs between two pieces; if
that may have changed anything, the caller observes the few suspects again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from agent.core.model.desired_entries import DesiredEntries, Function, FunctionPlace, Veth
from agent.core.model.map_layout import MapName
from agent.core.model.offloads import GSO_MAX_SIZE, cuts_too_late, describe_offload, wrong_offloads
from agent.core.plan.observed import Observed, ObservedFunction, ObservedPeer, ObservedVeth
from protocol.addresses import format_mac
from protocol.documents import FunctionProgram

NO_PROGRAM = FunctionProgram()


class Suspects(NamedTuple):
    """Entries, by map and key, endpoints whose interfaces may be wrong, and functions whose programs may be."""

    keys: Mapping[MapName, Collection[bytes]]
    endpoints: Collection[str]
    functions: Collection[FunctionPlace] = ()


class KernelDiff:
    """One observation of the kernel, and the differences found so far."""

    def __init__(self, observed: Observed) -> None:
        """Take over the observed maps: entries that are wanted are removed from them, so that nothing is copied."""
        self.observed = observed
        self.wanted: dict[str, DesiredEntries] = {}
        """Desired entries that the kernel lacks or holds differently, by document."""
        self.differs: dict[str, tuple[str, ...]] = {}
        """The differences of endpoints' interfaces and of functions (see `function_name`), in words."""
        self._found = DesiredEntries()
        """The observed entries in place of the desired ones."""
        self._unexpected_veths = dict(observed.veths)
        self._unexpected_functions = dict(observed.functions)
        self._transit: frozenset[int] = frozenset()

    def add(self, name: str, part: DesiredEntries) -> None:
        """Compare a part of a document's desired entries with the observation. Each entry may be added once."""
        for map_name, entries in part.entries.items():
            take_out = self.observed.maps.get(map_name, {}).pop
            differing = [(k, v, have) for k, v in entries.items() if (have := take_out(k, None)) != v]
            if differing:
                self._wanted_by(name).map(map_name).update((k, v) for k, v, _ in differing)
                self._found.map(map_name).update((k, have) for k, _, have in differing if have is not None)
        for id_, veth in part.veths.items():
            seen = self._unexpected_veths.pop(id_, None)
            differs = tuple(differences(seen, veth)) if seen is not None else ()
            if seen is not None and not differs:
                continue
            self.differs[id_] = differs
            self._wanted_by(name).veths[id_] = veth
            if seen is not None:
                self._found.veths[id_] = _as_planned(seen)
        self._add_functions(name, part.functions)
        self._transit |= part.transit

    def _add_functions(self, name: str, functions: Mapping[FunctionPlace, Function]) -> None:
        for place, function in functions.items():
            seen = self._unexpected_functions.pop(place, None)
            differs = tuple(function_differences(seen, function)) if seen is not None else ()
            if seen is not None and not differs:
                continue
            self.differs[function_name(place)] = differs
            self._wanted_by(name).functions[place] = function
            if seen is not None:
                self._found.functions[place] = _function_as_planned(seen)

    def _wanted_by(self, name: str) -> DesiredEntries:
        return self.wanted.setdefault(name, DesiredEntries())

    def discard(self, names: Collection[str]) -> None:
        """Forget the differences of some documents."""
        for name in names:
            self.wanted.pop(name, None)

    @property
    def has_unexpected(self) -> bool:
        """Whether anything was observed that no document added so far wants."""
        return bool(self._unexpected_veths or self._unexpected_functions) or any(self.observed.maps.values())

    @property
    def is_empty(self) -> bool:
        """Whether the kernel holds what is wanted, and nothing else of ours."""
        return not self.wanted and not self.has_unexpected and self._transit == _attached(self.observed)

    def suspects(self) -> Suspects:
        """Return everything that differs, to be observed again."""
        keys: dict[MapName, set[bytes]] = {name: set(entries) for name, entries in self.observed.maps.items()}
        endpoints, functions = set(self._unexpected_veths), set(self._unexpected_functions)
        for part in self.wanted.values():
            endpoints |= part.veths.keys()
            functions |= part.functions.keys()
            for name, entries in part.entries.items():
                keys.setdefault(name, set()).update(entries)
        return Suspects({name: found for name, found in keys.items() if found}, endpoints, functions)

    def before_and_after(self) -> tuple[DesiredEntries, DesiredEntries]:
        """Return the differing entries as they are and as they should be. Nothing may be added afterwards."""
        before, after = self._found, DesiredEntries(transit=self._transit)
        for name, entries in self.observed.maps.items():
            before.map(name).update(entries)
        before.veths.update((id_, _as_planned(seen)) for id_, seen in self._unexpected_veths.items())
        before.functions.update(
            (place, _function_as_planned(seen)) for place, seen in self._unexpected_functions.items()
        )
        before.transit = _attached(self.observed)
        for _, part in sorted(self.wanted.items()):
            after.add(part)
        return before, after


def _attached(observed: Observed) -> frozenset[int]:
    return frozenset(uplink.carrier for uplink in observed.uplinks if uplink.transit)


def _as_planned(seen: ObservedVeth) -> Veth:
    """Return an observed veth that differs, as the plan's type; it equals no desired one."""
    peer = seen.peer
    return Veth(
        endpoint=seen.endpoint,
        ifname=seen.ifname,
        ifindex=seen.ifindex,
        namespace="",
        peer_name=peer.name if peer else "",
        peer_mac=peer.mac if peer else b"",
        mtu=seen.mtu,
        addresses=peer.addresses if peer else (),
        gateways=peer.gateways if peer else (),
    )


def function_name(place: FunctionPlace) -> str:
    """Return the key of a function in `KernelDiff.differs`, where endpoints stand too."""
    id_, point = place
    return f"function {id_} {point}"


def _function_as_planned(seen: ObservedFunction) -> Function:
    """Return an observed function as the plan's type; it equals no desired one."""
    return Function(
        *(seen.id, seen.point, seen.slot, seen.content, NO_PROGRAM, seen.configuration),
        on_fault_closed=seen.on_fault_closed,
        vpc=seen.vpc,
    )


def function_differences(seen: ObservedFunction, wanted: Function) -> Iterator[str]:
    """Yield the differences of a function's program in words."""
    if seen.slot != wanted.slot:
        yield f"it is in slot {seen.slot}"
    if seen.content != wanted.content:
        yield "it runs another program"
    if seen.configuration != wanted.configuration:
        yield "its configuration differs"
    if seen.on_fault_closed != wanted.on_fault_closed:
        yield f"it fails {'closed' if seen.on_fault_closed else 'open'}"
    if seen.vpc != wanted.vpc:
        yield f"it is limited to VPC {seen.vpc}" if seen.vpc else "it is not limited to a VPC"
    if not seen.complete:
        yield "its slot lacks a program"
    if seen.older - {wanted.retained}:
        yield "an older program of it is still loaded"


def is_right(seen: ObservedVeth, wanted: Veth) -> bool:
    """Return whether a veth needs no repair: see `differences`."""
    return next(differences(seen, wanted), None) is None


def differences(seen: ObservedVeth, wanted: Veth) -> Iterator[str]:
    """Yield the differences of a veth in words. Additions by the tenant on its own side are ignored.

    A peer that could not be read counts as correct: an unreadable namespace is no reason to change anything.
    """
    if not seen.complete:
        yield "its mark is missing"
    if not seen.up:
        yield f"{seen.ifname} is down"
    if not seen.transit_agent:
        yield f"{seen.ifname} does not run the transit agent as it should"
    if (seen.ifname, seen.ifindex) != (wanted.ifname, wanted.ifindex):
        yield f"the host side is {seen.ifname} (ifindex {seen.ifindex})"
    if seen.mtu < max(wanted.mtu, seen.peer.longest if seen.peer else 0):
        yield f"the MTU of {seen.ifname} is {seen.mtu}"
    if seen.peer_known:
        yield from _peer_differences(seen.peer, wanted)


def _peer_differences(peer: ObservedPeer | None, wanted: Veth) -> Iterator[str]:
    name = wanted.peer_name
    if peer is None:
        yield f"{name} is not in namespace {wanted.namespace}"
        return
    if not peer.up:
        yield f"{name} is down"
    if peer.name != name:
        yield f"{name} is named {peer.name}"
    if peer.mac != wanted.peer_mac:
        yield f"the Ethernet address of {name} is {format_mac(peer.mac)}"
    if peer.mtu != wanted.mtu:
        yield f"the MTU of {name} is {peer.mtu}"
    if missing := sorted(set(wanted.addresses).difference(peer.addresses)):
        yield f"{name} lacks address {', '.join(missing)}"
    if missing := sorted(set(wanted.gateways).difference(peer.gateways)):
        yield f"{name} lacks the default route by {', '.join(missing)}"
    for offload, on in wrong_offloads(peer.offloads, wanted.sending).items():
        yield f"{describe_offload(offload, not on)} at {name}"
    if cuts_too_late(peer.gso_max_size, wanted.sending):
        yield f"GSO packets of {name} may have {peer.gso_max_size:,} bytes (gso_max_size), more than {GSO_MAX_SIZE:,}"
