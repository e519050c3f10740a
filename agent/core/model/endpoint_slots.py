"""Slots of the endpoints on this host: a slot determines the interface's ifindex and the index of its counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2s

IFINDEX_BASE = 0x40000000
"""Interfaces of endpoints are numbered from here, by slot: far above the numbers that the kernel assigns. The same in
`bpf/constants.h`: the programs derive an endpoint's slot from the ifindex."""

MAX_SLOTS = 8192
"""The size of the maps `interfaces` and `endpoint_counters`."""


def host_ifname(instance: str, endpoint: str) -> str:
    """Return the name of the host side of an endpoint's veth: 14 characters, the same after every restart."""
    return "dp" + blake2s(f"{instance}/{endpoint}".encode(), digest_size=6).hexdigest()


def alias_of(instance: str, endpoint: str) -> str:
    """Return the alias (IFLA_IFALIAS) that marks the host side of an endpoint's veth as an instance's."""
    return f"droplet/{instance}/{endpoint}"


def marked_by(alias: str | None) -> tuple[str, str] | None:
    """Return the instance and the endpoint that an alias names, None when it is none of ours."""
    parts = (alias or "").split("/", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "droplet" else None


class NoSlotError(RuntimeError):
    """All slots of the host are in use."""


def assign(slots: Mapping[str, int], gone: Iterable[str], come: Iterable[str]) -> Mapping[str, int]:
    """Return the slots after the endpoints in `gone` left and those in `come` arrived.

    An endpoint that stays keeps its slot. A slot that becomes free is not assigned again in the same step: the new
    interface is created before the old one is removed.
    """
    come = list(come)
    left = set(gone).difference(come)
    fresh = [id_ for id_ in come if id_ not in slots]
    if not left and not fresh:
        return slots
    taken = set(slots.values())
    result = {id_: slot for id_, slot in slots.items() if id_ not in left}
    number = 0
    for id_ in fresh:
        while number in taken:
            number += 1
        if number >= MAX_SLOTS:
            raise NoSlotError(f"no room for endpoint {id_!r}: this host has {len(result)} endpoints")
        taken.add(number)
        result[id_] = number
    return result
