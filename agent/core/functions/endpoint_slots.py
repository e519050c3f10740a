"""Slots of function endpoints that an earlier agent assigned. Pure.

In the kernel an interface says whose slot it is. A function endpoint has none, so until its document is known
its slot belongs to a name made of what the map `interfaces` has: the VNI and the addresses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from agent.core.model.map_layout import INTERFACE, INTERFACE_FUNCTION, U32, Interface, unmapped

_MARK = "@"
"""Begins such a name, and no endpoint's id."""


def name_of(vni: int, addresses: Iterable[bytes]) -> str:
    """Return the name of a function endpoint with packed addresses of 4 or 16 bytes."""
    return _MARK + "/".join([str(vni), *sorted(address.hex() for address in addresses)])


def function_slots(interfaces: Mapping[bytes, bytes], taken: Collection[int]) -> dict[str, int]:
    """Return the slots of function endpoints in the map `interfaces`, but for those `taken`, by these names."""
    found = {}
    for key, value in interfaces.items():
        (slot,), one = U32.unpack(key), Interface(*INTERFACE.unpack(value))
        if one.vni and one.flags & INTERFACE_FUNCTION and slot not in taken:
            addresses = [address for address in (one.ipv4, unmapped(one.ipv6)) if any(address)]
            found[name_of(one.vni, addresses)] = slot
    return found


def unclaimed_of(endpoints: Iterable[str]) -> frozenset[str]:
    """Return the names, among ids of endpoints, of function endpoints whose documents are not known yet."""
    return frozenset(id_ for id_ in endpoints if id_.startswith(_MARK))


def with_claimed(slots: Mapping[str, int], claimed: Mapping[str, str]) -> Mapping[str, int]:
    """Return the slots with ids in the place of names; `claimed`: the id for each name."""
    if not claimed:
        return slots
    ids = {name: id_ for name, id_ in claimed.items() if id_ not in slots}
    return {ids.get(id_, id_): slot for id_, slot in slots.items() if id_ in ids or id_ not in claimed}
