"""The plan: the actions after which the kernel holds the desired entries. Pure, sorted, printable.

Additions are ordered by dependency; removals follow in reverse order. So traffic that both the old and the new
configuration allow always finds its entries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from agent.core.functions.stages import Point
from agent.core.kinds import catalogue
from agent.core.model.desired_entries import DesiredEntries, Entries, Function, FunctionPlace, Veth
from agent.core.model.map_layout import INTERFACE, OVERLAY_KEY, MapName, mapped
from agent.core.plan.actions import (
    Action,
    AttachTransit,
    DeleteEntries,
    DeleteFunction,
    DeleteVeth,
    DetachTransit,
    EnsureFunction,
    EnsureVeth,
    PutEntries,
)
from agent.core.plan.diff import KernelDiff, function_name
from agent.core.plan.observed import Observed
from protocol.addresses import format_mac

_EMPTY: Mapping[bytes, bytes] = {}


def plan_change(
    before: DesiredEntries,
    after: DesiredEntries,
    differs: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    new_functions: Collection[FunctionPlace] = (),
) -> list[Action]:
    """Return the actions that turn `before` into `after`.

    `differs`: see `EnsureVeth` and `EnsureFunction`, by endpoint, and by `function_name`. `new_functions` were not in
    force before; others may lack a part in `before` because it has to be written again.
    """
    kinds = catalogue.KINDS
    in_the_way = _in_the_way(before.veths, after.veths)
    gone = {id_: veth for id_, veth in before.veths.items() if id_ not in after.veths and id_ not in in_the_way}
    changed = [veth for id_, veth in after.veths.items() if before.veths.get(id_) != veth]
    # The ifindex of a veth cannot change: one that gets another is created anew.
    renumbered = [
        DeleteVeth(id_, old.ifindex)
        for id_, old in before.veths.items()
        if id_ in after.veths and after.veths[id_].ifindex != old.ifindex and id_ not in in_the_way
    ]
    return [
        *renumbered,
        *(DeleteVeth(id_, before.veths[id_].ifindex) for id_ in sorted(in_the_way)),
        *_ensure_functions(before.functions, after.functions, differs, new_functions),
        *_puts(kinds.maps_before_veths, after.entries, before.entries),
        *_attach(before.transit, after.transit),
        *(EnsureVeth(one, differs.get(one.endpoint, ())) for one in sorted(changed, key=lambda veth: veth.endpoint)),
        *_puts(kinds.maps_of_veths, after.entries, before.entries),
        *_forget_direct(before, after),
        *_deletes(kinds.maps_of_veths, before.entries, after.entries),
        *(DeleteVeth(id_, gone[id_].ifindex) for id_ in sorted(gone)),
        *_detach(before.transit, after.transit),
        *_deletes(kinds.maps_before_veths, before.entries, after.entries),
        *_delete_functions(before.functions, after.functions),
    ]


def _ensure_functions(
    before: Mapping[FunctionPlace, Function],
    after: Mapping[FunctionPlace, Function],
    differs: Mapping[str, tuple[str, ...]],
    new: Collection[FunctionPlace],
) -> list[Action]:
    changed = sorted(place for place, function in after.items() if before.get(place) != function)
    return [EnsureFunction(after[place], differs.get(function_name(place), ()), place in new) for place in changed]


def _delete_functions(
    before: Mapping[FunctionPlace, Function], after: Mapping[FunctionPlace, Function]
) -> list[Action]:
    """Return the removals of programs from slots that no chain names any more."""
    slots = {place: function.slot for place, function in after.items()}
    return [
        DeleteFunction(old.id, old.point, old.slot)
        for place, old in sorted(before.items())
        if slots.get(place) != old.slot
    ]


def _in_the_way(before: Mapping[str, Veth], after: Mapping[str, Veth]) -> set[str]:
    """Return the endpoints whose interface releases a name in a namespace that another endpoint's interface takes.

    Such an interface is removed first, even if the two exchange names: an exception to "additions first".
    """
    places = {(veth.namespace, veth.peer_name): id_ for id_, veth in after.items()}
    found = set()
    for id_, veth in before.items():
        place = (veth.namespace, veth.peer_name)
        now = after.get(id_)
        stays = now is not None and (now.namespace, now.peer_name) == place
        if not stays and places.get(place, id_) != id_:
            found.add(id_)
    return found


def plan_all(wanted: Iterable[DesiredEntries], observed: Observed) -> list[Action]:
    """Return the actions that turn what was observed into what is wanted."""
    diff = KernelDiff(replace(observed, maps={name: dict(entries) for name, entries in observed.maps.items()}))
    for part in wanted:
        diff.add("", part)
    return plan_diff(diff)


def plan_diff(diff: KernelDiff) -> list[Action]:
    """Return the actions that repair everything that a resync found. Nothing may be compared afterwards."""
    return plan_change(*diff.before_and_after(), diff.differs)


def additions(actions: Iterable[Action]) -> list[Action]:
    """Return the actions that remove nothing."""
    return [action for action in actions if not _removes(action)]


def removes_veths(actions: Iterable[Action]) -> bool:
    """Return whether any endpoint's interface is removed: that may free a name that another one waits for."""
    return any(isinstance(action, DeleteVeth) for action in actions)


def _removes(action: Action) -> bool:
    match action:
        case DeleteEntries(MapName.DIRECT, _):
            return False
        case DeleteEntries() | DeleteVeth() | DetachTransit() | DeleteFunction():
            return True
        case _:
            return False


def _puts(maps: Iterable[MapName], wanted: Entries, present: Entries) -> list[Action]:
    actions: list[Action] = []
    for name in maps:
        want = wanted.get(name)
        if not want:
            continue
        have = present.get(name, _EMPTY)
        entries = tuple((k, v) for k, v in want.items() if have.get(k) != v)
        if entries:
            actions.append(PutEntries(name, entries))
    return actions


def _deletes(maps: Sequence[MapName], present: Entries, wanted: Entries) -> list[Action]:
    actions: list[Action] = []
    for name in reversed(maps):
        have = present.get(name)
        if not have:
            continue
        want = wanted.get(name, _EMPTY)
        keys = tuple(key for key in have if key not in want)
        if keys:
            actions.append(DeleteEntries(name, keys))
    return actions


def _forget_direct(before: DesiredEntries, after: DesiredEntries) -> list[Action]:
    """Return the removal of learnt paths to endpoints that moved, were removed, or are now on this host."""
    had, have = before.entries.get(MapName.ENDPOINTS, _EMPTY), after.entries.get(MapName.ENDPOINTS, _EMPTY)
    moved = {key for key, value in had.items() if have.get(key) != value}
    arrived = {
        address
        for key, value in after.entries.get(MapName.INTERFACES, _EMPTY).items()
        if key not in before.entries.get(MapName.INTERFACES, _EMPTY)
        for address in _addresses_of(value)
    }
    keys = tuple(sorted(moved | arrived))
    return [DeleteEntries(MapName.DIRECT, keys)] if keys else []


def _addresses_of(interface: bytes) -> list[bytes]:
    """Return an interface's addresses as keys of `direct`."""
    vni, _, ipv6, ipv4, *_ = INTERFACE.unpack(interface)
    return [OVERLAY_KEY.pack(vni, mapped(address)) for address in (ipv6, ipv4) if any(address)]


def _attach(before: frozenset[int], after: frozenset[int]) -> list[Action]:
    return [AttachTransit(ifindex) for ifindex in sorted(after - before)]


def _detach(before: frozenset[int], after: frozenset[int]) -> list[Action]:
    return [DetachTransit(ifindex) for ifindex in sorted(before - after)]


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def describe(action: Action) -> str:
    """Return one line for people, as printed by `--dry-run` and reported in repair events."""
    match action:
        case PutEntries(name, entries):
            return f"write {_entries(len(entries))} of map {name}"
        case DeleteEntries(name, keys):
            return f"delete {_entries(len(keys))} of map {name}"
        case EnsureVeth(veth, differs) if differs:
            return f"repair veth {veth.endpoint}: {'; '.join(differs)}"
        case EnsureVeth(veth):
            mac = format_mac(veth.peer_mac)
            where = f"{veth.peer_name} in {veth.namespace}"
            return f"veth {veth.endpoint}: {veth.ifname} to {where}, {', '.join(veth.addresses)}, {mac}, MTU {veth.mtu}"
        case DeleteVeth(endpoint, ifindex):
            return f"delete veth {endpoint} (ifindex {ifindex})"
        case AttachTransit(ifindex):
            return f"attach transit XDP to ifindex {ifindex}"
        case DetachTransit(ifindex):
            return f"detach transit XDP from ifindex {ifindex}"
        case EnsureFunction() | DeleteFunction():
            return _describe_function(action)


def _describe_function(action: EnsureFunction | DeleteFunction) -> str:
    match action:
        case EnsureFunction(function, differs) if differs:
            return f"repair function {function.id}: {'; '.join(differs)}"
        case EnsureFunction(function):
            place = f"slot {function.slot} of {Point(function.point).label}"
            size = len(function.configuration)
            return f"function {function.id}: program {function.content} in {place}, {size} bytes of configuration"
        case DeleteFunction(id_, point, slot):
            return f"delete function {id_} (slot {slot} of {Point(point).label})"
