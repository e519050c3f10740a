"""Derives standing faults from next hops that the kernel refuses. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from agent.core.model.errno_names import errno_name
from agent.core.nexthop.next_hops import Hop
from protocol.addresses import format_address
from protocol.status import Fault

NAMED = 5
"""The maximum number of next hops that a fault names."""
FULL_MAP = 'raise sizes.droplets and have the map made anew (docs/operations.md, "A map is full")'
_REMEDIES = {
    errno.ENOBUFS: "raise gc_thresh3 in net.ipv4.neigh.default or net.ipv6.neigh.default",
    errno.EINVAL: "give the interface an address of the next hops' family: with an MTU below 1280 it has no IPv6",
    errno.ENODEV: "bring the interface back",
    errno.ENETDOWN: "set the interface up",
    errno.EPERM: "give the agent CAP_NET_ADMIN",
}


def map_full(entries: int) -> Iterator[Fault]:
    """Yield the fault of a map of next hops that cannot hold `entries` more entries."""
    if entries:
        detail = f"the map is full and lacks {entries} entries: packets to these droplets are dropped"
        yield Fault("map_full", "next_hops", detail, FULL_MAP)


def refused(next_hops: Mapping[Hop, int]) -> Iterator[Fault]:
    """Yield a fault for each errno with which the kernel refused to keep next hops as neighbours."""
    for name, number, texts in _by_errno(next_hops):
        detail = f"the kernel refuses to keep {texts} as a neighbour ({name})"
        yield Fault("neighbours_refused", name, detail, _REMEDIES.get(number, ""))


def not_released(next_hops: Mapping[Hop, int]) -> Iterator[Fault]:
    """Yield the faults of next hops that are no longer needed but that the kernel keeps."""
    for name, number, texts in _by_errno(next_hops):
        detail = f"the kernel goes on to keep {texts}, which the agent needs no more ({name})"
        yield Fault("neighbours_not_released", name, detail, _REMEDIES.get(number, ""))


def not_followed(reason: str) -> Iterator[Fault]:
    """Yield the fault that changes of next hops are not followed; none if `reason` is empty."""
    if reason:
        detail = f"changes of next hops are not taken in: {reason}"
        yield Fault("next_hops_not_followed", "netlink", detail, "none is needed: the agent tries again every second")


def _by_errno(next_hops: Mapping[Hop, int]) -> Iterator[tuple[str, int, str]]:
    """Yield each errno's name and number with its next hops, as text."""
    for number in sorted(set(next_hops.values())):
        texts = [format_address(hop.address) for hop, one in sorted(next_hops.items()) if one == number]
        more = [f"{len(texts) - NAMED} more"] if len(texts) > NAMED else []
        yield errno_name(number), number, ", ".join(texts[:NAMED] + more)
