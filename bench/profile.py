"""Where the nanoseconds of our programs go: the same programs with one part left out each, in the same rounds. Pure.

What a part costs is the difference to the whole program; the parts overlap in what the processor does at once, so they
do not add up to the whole.
"""

from __future__ import annotations

from itertools import pairwise

from bench.contestants import Contestant, Edit
from bench.report import Measure, measure

VARIANTS = [
    Contestant("without counters", "no_counters"),
    Contestant("without source check and path", edits=(Edit("transit_xdp.c", r"on_path = [^;]*;", "on_path = true;"),)),
    Contestant("without flow hash", edits=(Edit("transit_agent.c", r"= hash_flow\([^;]*\);", "= GO_ON;"),)),
    Contestant(
        "without next hop lookup",
        edits=(Edit("encapsulate.h", r"\*hop = next_hops\.lookup\([^;]*\);", "fixed = {}, *hop = &fixed;"),),
    ),
]
"""What can be left out without the packet going another way."""

CONCERNS = {
    "without source check and path": ("ingress",),
    "without flow hash": ("egress",),
    "without next hop lookup": ("egress",),
}
"""The directions that a variant differs in, both when it is not listed."""


def costs(rounds: dict[str, dict[str, list[float]]], whole: str) -> list[Measure]:
    """Return what each part costs in nanoseconds a packet: whole minus variant, round by round."""
    found = []
    for direction, by_name in rounds.items():
        for variant in VARIANTS:
            if variant.name in by_name and direction in CONCERNS.get(variant.name, (direction,)):
                saved = [a - b for a, b in zip(by_name[whole], by_name[variant.name], strict=True)]
                part = variant.name.removeprefix("without ")
                found.append(measure(f"{direction}: {part}", saved, "ns"))
    return found


def layers(rounds: dict[str, dict[str, list[float]]], order: list[str]) -> list[Measure]:
    """Return what each contestant of `order` costs more than the one before, in nanoseconds a packet."""
    found = []
    for direction, by_name in rounds.items():
        found.append(measure(f"{direction}: {order[0]}", by_name[order[0]], "ns"))
        for before, after in pairwise(order):
            more = [b - a for a, b in zip(by_name[before], by_name[after], strict=True)]
            found.append(measure(f"{direction}: {after}, more than {before}", more, "ns"))
    return found
