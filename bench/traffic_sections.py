"""Turns what was measured between endpoints into sections of the report, with the project's budgets. Pure."""

from __future__ import annotations

from statistics import median

from bench.probe import Flood, Stream
from bench.report import Comparison, Grid, Section, compared, number, percentile, ratio, ratios, spread
from bench.traffic import BULKS, MIXED, SMALL, TC, TC_SEGMENTED, Bulk, Case, Traffic

BULK_NOTE = (
    "Plain sockets in endpoints, all on this machine, in turns: one stream between two cores, eight on all cores. "
    "Throughput is the receivers', with the bounds of half of the rounds. CPU time for each byte is the time in which "
    "the machine's cores were not idle: both hosts and both ends with their sockets. `physical` wires segment as a NIC "
    "does, here in software; the others carry GSO packets whole. x: the ratio to the kernel on the same kind of wires."
)
TRIP_NOTE = "64 bytes of UDP there and back, both ends on one core: the median of each round, and the p99. x: medians."
FLOOD_NOTE = (
    "64 bytes of UDP by `send`, as fast as one socket can, from one core to another. CPU time is likewise "
    "that of the whole machine, for each datagram that arrived. x: CPU time."
)
THROUGHPUT = {TC.name: 1.0, TC_SEGMENTED.name: 0.9, MIXED.name: 0.9}
"""Budgets by contestant. On network cards `MIXED` is the default, and `TC_SEGMENTED` needs `uplink_hook = "tc"`."""
ROUND_TRIP = {("two hosts", TC.name): 0.75}
"""Budgets by case and contestant."""


def traffic(found: Traffic) -> list[Section]:
    """Return the sections on throughput, on round trips and on small datagrams."""
    notes = [BULK_NOTE, *[""] * (len(BULKS) - 1)]
    bulks = [_bulk(bulk, found.bulks[bulk.title], note) for bulk, note in zip(BULKS, notes, strict=True)]
    return [*bulks, _round_trips(found.round_trips), _floods(found.floods)]


def _bulk(bulk: Bulk, turns: dict[str, list[Stream]], note: str) -> Section:
    rates = {name: [turn.gbit_per_s for turn in each] for name, each in turns.items()}
    costs = {name: [turn.cpu_ns_per_byte for turn in each] for name, each in turns.items()}
    rows, comparisons = [], []
    for name in turns:
        yardstick = bulk.yardstick(name)
        cost = number(median(costs[name]))
        rows.append((name, spread(rates[name]), _beside(rates, name, yardstick), cost, _beside(costs, name, yardstick)))
        if name != yardstick:
            title = f"{bulk.title}: {name} / {yardstick}"
            samples = ratios(rates[name], rates[yardstick])
            comparisons.append(compared(title, samples, THROUGHPUT.get(name), at_most=False))
    grid = Grid(("", "Gbit/s", "x", "CPU ns/B", "x"), tuple(rows))
    return Section(bulk.title, note, (), tuple(comparisons), grid, {"turns": turns})


def _beside(turns: dict[str, list[float]], name: str, yardstick: str) -> str:
    return f"{ratio(turns, name, yardstick):.2f}" if name != yardstick else ""


def _round_trips(found: dict[str, dict[str, list[list[int]]]]) -> Section:
    rows: list[tuple[str, ...]] = []
    comparisons: list[Comparison] = []
    for case in SMALL:
        middle, slow = (
            {name: [percentile(turn, part) / 1000 for turn in turns] for name, turns in found[case.title].items()}
            for part in (0.5, 0.99)
        )
        for name, samples in middle.items():
            beside = _beside(middle, name, case.yardstick(name))
            rows.append((f"{case.title}: {name}", spread(samples), beside, spread(slow[name])))
        comparisons += _trip_ratios(case, middle)
    return Section("Round trips", TRIP_NOTE, (), tuple(comparisons), Grid(("", "us", "x", "p99 us"), tuple(rows)))


def _trip_ratios(case: Case, middle: dict[str, list[float]]) -> list[Comparison]:
    return [
        compared(
            f"round trip, {case.title}: {name} / {case.yardstick(name)}",
            ratios(samples, middle[case.yardstick(name)]),
            ROUND_TRIP.get((case.title, name)),
        )
        for name, samples in middle.items()
        if name != case.yardstick(name)
    ]


def _floods(found: dict[str, dict[str, list[Flood]]]) -> Section:
    rows: list[tuple[str, ...]] = []
    for case in SMALL:
        costs = {name: [turn.cpu_ns for turn in turns] for name, turns in found[case.title].items()}
        for name, turns in found[case.title].items():
            rate, lost = (median(values) for values in zip(*((t.per_second, t.lost) for t in turns), strict=True))
            beside = _beside(costs, name, case.yardstick(name))
            rows.append((f"{case.title}: {name}", spread(costs[name]), beside, number(rate), f"{100 * lost:.1f} %"))
    grid = Grid(("", "CPU ns", "x", "a second", "lost"), tuple(rows))
    return Section("Small datagrams", FLOOD_NOTE, grid=grid, raw={"turns": found})
