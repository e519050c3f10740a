"""Turns what the parts of a run measured into sections of the report, with the project's budgets. Pure."""

from __future__ import annotations

from statistics import median

from bench import forwarding as fw
from bench import lines, profile
from bench.control import Control
from bench.forwarding import Rounds
from bench.hosts import KERNEL_PAIR, OUR_PAIR
from bench.lines import EGRESS, INGRESS, OURS, Group
from bench.report import Comparison, Grid, Section, measure, number, percentile, ratio
from bench.traffic import Traffic

DIRECTIONS = (INGRESS, EGRESS)
ONE_IN_ONE = "4in4"
FORWARDING_NOTE = (
    "Of one core, for 60 bytes of UDP inside: median, and the bounds of half of the rounds. `empty` drops at once (the "
    "harness); `redirect` forwards without looking; `bare` looks at one header, makes one hash lookup, takes off or "
    "puts on the tunnel headers, and redirects. `far end's stack` builds a socket buffer for each frame, as an "
    "endpoint does; the other far ends drop by a program."
)
PROFILE_NOTE = (
    "Nanoseconds a packet: first what each contestant costs more than the simpler one, then what our programs "
    "save when one part is left out. Parts overlap and do not add up."
)
APART = 1.2
TRAFFIC_NOTE = (
    "Plain sockets in two endpoints on two hosts, all on this machine: 64 bytes of UDP there and back, both ends on "
    "one core; one TCP stream between two cores. Both overlays run on wires of the same build, in turns."
)
CONTROL_NOTE = (
    "One agent, a real nats-server with TLS that syncs every message to disk, and a publisher in Python, all on this "
    "machine. From publishing to the acknowledgement `realized`."
)
MIB = 1 << 20
VS_BARE, VS_KERNEL = 1.5, {INGRESS: 10.0, EGRESS: 7.0}
RATE = 200_000
MAPS_MS, VETH_MS = 2.0, 15.0
RESTART_S = 2.0
KERNEL_BYTES = 1024
AGENT_BASE, AGENT_EACH = 80 * MIB, 300


def forwarding(rounds: Rounds) -> Section:
    """Return the section on nanoseconds a packet."""
    order = [fw.EMPTY, fw.REDIRECT, fw.BARE, OURS, fw.OURS_TO_STACK, fw.KERNEL]
    comparisons = []
    for direction, by_name in rounds.items():
        faster = ratio(by_name, fw.KERNEL, OURS)
        comparisons += [
            Comparison(f"{direction}: time of ours / bare", ratio(by_name, OURS, fw.BARE), "x", VS_BARE),
            Comparison(f"{direction}: time of {fw.KERNEL} / ours", faster, "x", VS_KERNEL[direction], at_most=False),
            Comparison(
                f"{direction}: time of {fw.KERNEL} / ours, far end's stack",
                ratio(by_name, fw.KERNEL, fw.OURS_TO_STACK),
            ),
        ]
    rows = tuple((name, *(_spread(rounds[direction][name]) for direction in DIRECTIONS)) for name in order)
    grid = Grid(("", *DIRECTIONS), rows)
    return Section("Nanoseconds a packet", FORWARDING_NOTE, (), tuple(comparisons), grid, {"rounds": rounds})


def _spread(samples: list[float]) -> str:
    """Return a median with the bounds of half of the samples."""
    one = measure("", samples, "")
    bounds = "" if one.low is None or one.high is None else f" ({number(one.low)} to {number(one.high)})"
    return f"{number(one.value)}{bounds}"


def profiled(rounds: Rounds, skipped: list[str]) -> Section:
    """Return the section on where the nanoseconds go; `skipped` are parts that fit the sources no more."""
    rows: dict[str, dict[str, list[float]]] = {}
    for direction, by_name in rounds.items():
        for name, cost in profile.layers(by_name, [fw.EMPTY, fw.REDIRECT, fw.BARE, OURS]):
            rows.setdefault(name, {})[direction] = cost
    for direction, by_name in rounds.items():
        for name, cost in profile.costs(by_name, OURS).items():
            rows.setdefault(name, {})[direction] = cost
    note = PROFILE_NOTE + "".join(f" Not measured, since the source has changed: {name}." for name in skipped)
    cells = tuple((name, *(_spread(row[d]) if d in row else "" for d in DIRECTIONS)) for name, row in rows.items())
    return Section("Profile", note, grid=Grid(("", *DIRECTIONS), cells))


def group(rounds: Rounds, one: Group) -> Section:
    """Return the section on one group of lines, each beside the group's yardstick in its direction."""
    names = dict.fromkeys(line.name for line in one.lines)
    here = [line.name for line in one.lines if line.name == one.yardstick]
    yardstick = fw.qualified(one, one.yardstick) if here else one.yardstick
    rows = [] if here else [(ONE_IN_ONE, *(cell for d in DIRECTIONS for cell in (number(median(rounds[d][OURS])), "")))]
    for name in names:
        cells = []
        for direction in DIRECTIONS:
            by_name = rounds[direction]
            full = fw.qualified(one, name)
            times = number(median(by_name[full])) if full in by_name else ""
            beside = f"{ratio(by_name, full, yardstick):.2f}" if full in by_name and full != yardstick else ""
            cells += [times, beside]
        rows.append((name, *cells))
    shown = "4in4" if one.yardstick == OURS else one.yardstick
    columns = ("", *(column for direction in DIRECTIONS for column in (direction, f"x {shown}")))
    return Section(one.title, one.note, (), _scale(rounds) if one is lines.SCALE else (), Grid(columns, tuple(rows)))


def _scale(rounds: Rounds) -> tuple[Comparison, ...]:
    """Return what a million endpoints in the maps cost, beside one, and beside the bare program with as many."""
    found = []
    for direction, by_name in rounds.items():
        one, to_one, to_some, to_all, bare = (
            fw.qualified(lines.SCALE, name)
            for name in (
                *(lines.ONE, lines.MILLION_TO_ONE, lines.MILLION_TO_SOME, lines.MILLION_TO_ALL),
                lines.BARE_MILLION_TO_ALL,
            )
        )
        name = f"{direction}: {lines.MANY:,} endpoints in the maps / 1"
        found += [
            Comparison(f"{name}, to one of them", ratio(by_name, to_one, one), "x", APART),
            Comparison(f"{name}, to {lines.SOME:,} of them", ratio(by_name, to_some, one), "x", APART),
            Comparison(f"{direction}: ours / bare, to {lines.MANY:,} endpoints in turn", ratio(by_name, to_all, bare)),
        ]
    return tuple(found)


def traffic(found: Traffic) -> Section:
    """Return the section on round trips and throughput."""
    middle = {name: [percentile(turn, 0.5) / 1000 for turn in turns] for name, turns in found.round_trips.items()}
    slow = {name: [percentile(turn, 0.99) / 1000 for turn in turns] for name, turns in found.round_trips.items()}
    measures = [measure(f"round trip, median: {name}", turns, "us") for name, turns in middle.items()]
    measures += [measure(f"round trip, p99: {name}", turns, "us") for name, turns in slow.items()]
    measures += [measure(f"one TCP stream: {name}", turns, "Gbit/s") for name, turns in found.streams.items()]
    comparisons = [Comparison("round trip: ours / kernel VXLAN + bridge", ratio(middle, OUR_PAIR, KERNEL_PAIR))]
    comparisons += [
        Comparison(f"TCP throughput: ours / {name}", ratio(found.streams, OUR_PAIR, name))
        for name in found.streams
        if name != OUR_PAIR
    ]
    return Section("Two endpoints on two hosts", TRAFFIC_NOTE, tuple(measures), tuple(comparisons))


def control(found: Control) -> Section:
    """Return the section on the control plane."""
    latencies = {
        "stored by the server": [1000 * t for t in found.stored],
        "realized, endpoint elsewhere": [1000 * t for t in found.maps],
        "realized, endpoint here with veth": [1000 * t for t in found.veths],
    }
    measures = [measure(f"one document {name}, median", times, "ms") for name, times in latencies.items()]
    measures += [measure(f"one document {name}, p99", [percentile(t, 0.99)], "ms") for name, t in latencies.items()]
    measures.append(measure("one endpoint elsewhere and its removal: agent's CPU time", [1000 * found.maps_cpu], "ms"))
    comparisons = [
        Comparison("one endpoint elsewhere -> realized, median", measures[1].value, "ms", MAPS_MS),
        Comparison("one endpoint here with veth -> realized, median", measures[2].value, "ms", VETH_MS),
    ]
    bulks = [*found.bulks, *([found.million] if found.million else [])]
    for bulk in bulks:
        name = f"bulk of {bulk.endpoints:,}"
        rate = bulk.endpoints / bulk.seconds
        resident = (bulk.resident_after - bulk.resident_before) / bulk.endpoints
        measures.append(
            measure(f"{name}: agent's CPU time for each endpoint", [1e6 * bulk.cpu_seconds / bulk.endpoints], "us")
        )
        measures.append(measure(f"{name}: agent's memory, more for each endpoint", [max(0.0, resident)], "B"))
        comparisons.append(Comparison(f"{name}: endpoints realized a second", rate, "/s", RATE, at_most=False))
    last = found.bulks[-1]
    limit = (AGENT_BASE + AGENT_EACH * last.endpoints) / MIB
    comparisons += [
        Comparison(f"agent's memory with {last.endpoints:,} endpoints", last.resident_after / MIB, "MiB", limit),
        Comparison("kernel memory for an endpoint", last.kernel_bytes / last.endpoints, "B", KERNEL_BYTES),
        Comparison(f"kill -9, start, in sync with {last.endpoints:,}", found.restart.seconds, "s", RESTART_S),
        Comparison(
            f"requests lost meanwhile, of {found.restart.sent:,}",
            found.restart.sent - found.restart.answered,
            "",
            0,
        ),
    ]
    first = bulks[0]
    for bulk in bulks[1:]:
        linear = (bulk.endpoints / bulk.seconds) / (first.endpoints / first.seconds)
        comparisons.append(Comparison(f"rate at {bulk.endpoints:,} / rate at {first.endpoints:,}", linear))
    return Section("Control plane", CONTROL_NOTE, tuple(measures), tuple(comparisons))
