"""Numbers for the endpoints that live on this host: each chooses an interface's index and its counters' place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MAX_SLOTS = 8192
"""As many as the maps `interfaces` and `endpoint_counters` have places."""


class NoSlotError(RuntimeError):
    """The host has as many endpoints as it can have."""


def assign(slots: Mapping[str, int], gone: Iterable[str], come: Iterable[str]) -> Mapping[str, int]:
    """Return the numbers after some endpoints left and others came.

    An endpoint that stays keeps its number. A number that becomes free is not given out again in the same step: the new
    interface is made before the old one is removed.
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
