"""What is measured between endpoints, on which setups, and the turns that these take in one run.

Another setup is a line of its own and its name among the contestants of the cases in which it takes part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

from bench.hosts import Pair, Pairs, Setup, built, set_segmentation
from bench.probe import Flood, Probe, Stream

KERNEL = Setup("kernel VXLAN", "virtual")
KERNEL_SEGMENTED = Setup("kernel VXLAN, physical", "physical")
TC = Setup("ours (tc)", "virtual", "endpoint_hook: tc, uplink_hook: tc")
TC_SEGMENTED = Setup("ours (tc), physical", "physical", "endpoint_hook: tc, uplink_hook: tc")
MIXED = Setup("ours (tc, XDP), physical", "physical", "endpoint_hook: tc, uplink_hook: xdp")
XDP = Setup("ours (XDP)", "physical", "endpoint_hook: xdp, uplink_hook: xdp")
NO_GSO = "kernel VXLAN, no GSO"
"""The same hosts as `KERNEL`, whose endpoints send single packets."""
BRIDGE = "kernel bridge"
"""The bridge of one of `KERNEL`'s hosts, between two endpoints of that host."""
SETUPS = (KERNEL, TC, XDP, KERNEL_SEGMENTED, TC_SEGMENTED, MIXED)
OF_KERNEL = (NO_GSO, BRIDGE)
SEGMENTED = (KERNEL_SEGMENTED.name, TC_SEGMENTED.name, MIXED.name)
"""The kernel on wires that segment, and those that stand beside it. XDP has single packets on all wires."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """Between which endpoints something is measured: its title in the report, and which contestants take turns.

    The first one is the yardstick of all but the `SEGMENTED`.
    """

    title: str
    contestants: tuple[str, ...]
    one_host: bool = False

    def yardstick(self, name: str) -> str:
        """Return beside which contestant another one stands, itself for a yardstick."""
        return KERNEL_SEGMENTED.name if name in SEGMENTED else self.contestants[0]

    def pair(self, pairs: Mapping[str, Pairs], name: str) -> Pair:
        """Return the endpoints of a contestant; `pairs` are those of all setups by their names."""
        found = pairs[KERNEL.name if name in OF_KERNEL else name]
        return found.one_host if self.one_host else found.two_hosts


@dataclass(frozen=True, slots=True)
class Bulk(Case):
    """Some TCP streams at a time, of a family inside."""

    streams: int = 1
    family: int = 4


BULKS = (
    Bulk("One TCP stream, two hosts", (KERNEL.name, NO_GSO, TC.name, XDP.name, *SEGMENTED)),
    Bulk("Eight TCP streams, two hosts", (KERNEL.name, TC.name, XDP.name, *SEGMENTED), streams=8),
    Bulk("One TCP stream, two hosts, IPv6 inside", (KERNEL.name, TC.name, *SEGMENTED), family=6),
    Bulk("Eight TCP streams, two hosts, IPv6 inside", (KERNEL.name, TC.name), streams=8, family=6),
    Bulk("One TCP stream, one host", (BRIDGE, TC.name, XDP.name), one_host=True),
)
SMALL = (
    Case("two hosts", (KERNEL.name, TC.name, XDP.name)),
    Case("one host", (BRIDGE, TC.name, XDP.name), one_host=True),
)
"""Where round trips and floods of small datagrams are measured."""


class Share(NamedTuple):
    """How much is measured: rounds of turns, round trips of a turn, seconds of a stream and of a flood."""

    rounds: int
    round_trips: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """All turns by case and contestant: streams, nanoseconds of round trips, floods."""

    bulks: dict[str, dict[str, list[Stream]]] = field(default_factory=dict)
    round_trips: dict[str, dict[str, list[list[int]]]] = field(default_factory=dict)
    floods: dict[str, dict[str, list[Flood]]] = field(default_factory=dict)


@contextmanager
def all_built(cache: Path, say: Say) -> Iterator[dict[str, Pairs]]:
    """Build all setups beside one another; yield their endpoints by the setups' names."""
    with ExitStack() as stack:
        found = {}
        for letter, setup in zip(ascii_lowercase, SETUPS, strict=False):
            say(f"building two hosts: {setup.name}")
            found[setup.name] = stack.enter_context(built(setup, letter, cache))
        yield found


def measure(probe: Probe, pairs: Mapping[str, Pairs], share: Share, say: Say) -> Traffic:
    """Let all contestants of all cases take turns, round by round."""
    found = Traffic()
    for number in range(1, share.rounds + 1):
        for bulk in BULKS:
            for name in bulk.contestants:
                say(f"round {number}/{share.rounds}: {bulk.title}: {name}")
                turn = _stream(probe, bulk, bulk.pair(pairs, name), share.seconds, segmentation=name != NO_GSO)
                found.bulks.setdefault(bulk.title, {}).setdefault(name, []).append(turn)
        for case in SMALL:
            for name in case.contestants:
                say(f"round {number}/{share.rounds}: small packets, {case.title}: {name}")
                pair = case.pair(pairs, name)
                trips, flood = probe.round_trips(pair, share.round_trips), probe.flood(pair, share.seconds)
                found.round_trips.setdefault(case.title, {}).setdefault(name, []).append(trips)
                found.floods.setdefault(case.title, {}).setdefault(name, []).append(flood)
    return found


def _stream(probe: Probe, bulk: Bulk, pair: Pair, seconds: float, *, segmentation: bool) -> Stream:
    if segmentation:
        return probe.stream(pair, seconds, bulk.streams, bulk.family)
    set_segmentation(pair, on=False)
    try:
        return probe.stream(pair, seconds, bulk.streams, bulk.family)
    finally:
        set_segmentation(pair, on=True)


def cores() -> tuple[int, int]:
    """Return the core on which everything timed runs, and another one where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]
