"""Turns what the parts of a run measured into sections of the report, with the project's budgets. Pure."""

from __future__ import annotations

from statistics import median

from agent.core.model.hooks import Hook
from bench import forwarding as fw
from bench import lines, profile
from bench import sent_frames as sf
from bench.control import Bulk, Control, Latency
from bench.forwarding import Rounds
from bench.lines import EGRESS, INGRESS, OURS, Group
from bench.report import (
    Comparison,
    Grid,
    Measure,
    Section,
    compared,
    measure,
    number,
    percentile,
    ratio,
    ratios,
    spread,
)

DIRECTIONS = (INGRESS, EGRESS)
ONE_IN_ONE = "4in4"
FORWARDING_NOTE = (
    "CPU time of one core for a packet with 60 bytes of UDP inside: the median, and the middle half of the rounds. "
    "`empty` drops at once (the harness); `redirect` forwards without looking; `bare` looks at one header, makes one "
    "hash lookup, takes off or puts on the tunnel headers, and redirects. `far end's stack` builds a socket buffer for "
    "each frame, as an endpoint does; the other far ends drop by a program."
)
SENT_NOTE = (
    "CPU time of one core for a packet with 60 bytes of UDP inside: a packet socket sends each frame through a veth, "
    "and the far end's stack drops it; the socket costs the same for all. `drop` drops at once and `redirect` forwards "
    "without looking: the harness of each hook. Behind XDP the far end builds a new socket buffer for each frame."
)
PROFILE_NOTE = (
    "Nanoseconds a packet: first how much more each contestant costs than the next simpler one, then how much our "
    "programs save if one part is left out. Parts overlap and do not add up."
)
APART = 1.2
CONTROL_NOTE = (
    "One agent, a real nats-server with TLS that syncs every message to disk, and a publisher in Python, all on this "
    "machine. From publishing to the acknowledgement `realized`. `decode and write` is a process that decodes the same "
    "documents with msgspec, packs their endpoints and writes them into a map by batch, and does nothing else."
)
MIB = 1 << 20
VS_BARE = 1.15
STORED, BULK_CPU, RESTART, LINEAR = 2.0, 3.0, 3.0, 1.25
LARGE = 100_000
"""Endpoints from which on the budgets of bulk and restart hold: below, what is fixed outweighs what grows."""
KERNEL_BYTES = 1024
AGENT_BASE, AGENT_EACH = 80 * MIB, 300


def forwarding(rounds: Rounds) -> Section:
    """Return the section on nanoseconds a packet."""
    order = [fw.EMPTY, fw.REDIRECT, fw.BARE, OURS, fw.OURS_TO_STACK, fw.KERNEL]
    comparisons = []
    for direction, by_name in rounds.items():
        kernel = by_name[fw.KERNEL]
        comparisons += [
            compared(f"{direction}: time of ours / bare", ratios(by_name[OURS], by_name[fw.BARE]), VS_BARE),
            compared(f"{direction}: time of {fw.KERNEL} / ours", ratios(kernel, by_name[OURS])),
            compared(
                f"{direction}: time of {fw.KERNEL} / ours, far end's stack", ratios(kernel, by_name[fw.OURS_TO_STACK])
            ),
        ]
    rows = tuple((name, *(spread(rounds[direction][name]) for direction in DIRECTIONS)) for name in order)
    grid = Grid(("", *DIRECTIONS), rows)
    return Section("Nanoseconds a packet", FORWARDING_NOTE, (), tuple(comparisons), grid, {"rounds": rounds})


def sent(rounds: Rounds) -> Section:
    """Return the section on frames that a packet socket sends, for the contestants that have no live frames too."""
    names = [*(sf.name_at(name, hook) for hook in Hook for name in sf.PROGRAMS), sf.KERNEL]
    rows = tuple((name, *(spread(rounds[direction][name]) for direction in DIRECTIONS)) for name in names)
    comparisons = tuple(
        compared(f"{direction}, sent frames: time of {ours} / {sf.KERNEL}", ratios(by_name[ours], by_name[sf.KERNEL]))
        for direction, by_name in rounds.items()
        for ours in (sf.name_at(OURS, hook) for hook in Hook)
    )
    return Section(
        "Nanoseconds a packet, sent through a veth", SENT_NOTE, (), comparisons, Grid(("", *DIRECTIONS), rows)
    )


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
    cells = tuple((name, *(spread(row[d]) if d in row else "" for d in DIRECTIONS)) for name, row in rows.items())
    return Section("Profile", note, grid=Grid(("", *DIRECTIONS), cells))


def group(rounds: Rounds, one: Group) -> Section:
    """Return the section on one group of lines, each beside the group's yardstick in its direction."""
    names = dict.fromkeys(line.name for line in one.lines)
    inside = [line.name for line in one.lines if line.name == one.yardstick]
    yardstick = fw.qualified(one, one.yardstick) if inside else one.yardstick
    rows = (
        [] if inside else [(ONE_IN_ONE, *(cell for d in DIRECTIONS for cell in (number(median(rounds[d][OURS])), "")))]
    )
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
            compared(f"{name}, to one of them", ratios(by_name[to_one], by_name[one]), APART),
            compared(f"{name}, to {lines.SOME:,} of them", ratios(by_name[to_some], by_name[one]), APART),
            compared(
                f"{direction}: ours / bare, to {lines.MANY:,} endpoints in turn", ratios(by_name[to_all], by_name[bare])
            ),
        ]
    return tuple(found)


def control(found: Control) -> Section:
    """Return the section on the control plane."""
    bulks = [*found.bulks, *([found.million] if found.million else [])]
    last = found.bulks[-1]
    limit = (AGENT_BASE + AGENT_EACH * last.endpoints) / MIB
    sent, answered = (sum(counts) for counts in zip(*((one.sent, one.answered) for one in found.restarts), strict=True))
    restarts = ratios([one.seconds for one in found.restarts], [one.yardstick.wall_seconds for one in found.restarts])
    comparisons = [
        compared("one endpoint elsewhere: realized / stored by the server", _latency_ratios(found.maps), STORED),
        compared("one endpoint here with veth: realized / stored by the server", _latency_ratios(found.veths)),
        *(_bulk_cpu(bulk) for bulk in bulks),
        *_linear(bulks),
        compared(
            f"kill -9, start, in sync with {last.endpoints:,} / decode and write, whole process", restarts, RESTART
        ),
        Comparison(f"requests lost meanwhile, of {sent:,}", sent - answered, "", 0),
        Comparison(f"agent's memory with {last.endpoints:,} endpoints", last.resident_after / MIB, "MiB", limit),
        Comparison("kernel memory for an endpoint", last.kernel_bytes / last.endpoints, "B", KERNEL_BYTES),
    ]
    return Section("Control plane", CONTROL_NOTE, tuple(_control_measures(found, bulks)), tuple(comparisons))


def _latency_ratios(pairs: list[Latency]) -> list[float]:
    return ratios([pair.realized for pair in pairs], [pair.stored for pair in pairs])


def _bulk_cpu(bulk: Bulk) -> Comparison:
    """Compare the agent's CPU time for a bulk with that of decoding and writing it, once for each run of the latter."""
    samples = [bulk.cpu_seconds / run.cpu_seconds for run in bulk.yardstick]
    return compared(f"bulk of {bulk.endpoints:,}: agent's CPU time / decode and write", samples, _large(bulk, BULK_CPU))


def _large(bulk: Bulk, budget: float) -> float | None:
    return budget if bulk.endpoints >= LARGE else None


def _linear(bulks: list[Bulk]) -> list[Comparison]:
    """Compare an endpoint's CPU time in each bulk with that in the first one."""
    first, found = bulks[0], []
    for bulk in bulks[1:]:
        more = (bulk.cpu_seconds / bulk.endpoints) / (first.cpu_seconds / first.endpoints)
        name = f"CPU time for an endpoint, bulk of {bulk.endpoints:,} / of {first.endpoints:,}"
        found.append(Comparison(name, more, "x", LINEAR))
    return found


def _control_measures(found: Control, bulks: list[Bulk]) -> list[Measure]:
    latencies = {
        "stored by the server": [1000 * pair.stored for pair in found.maps],
        "realized, endpoint elsewhere": [1000 * pair.realized for pair in found.maps],
        "realized, endpoint here with veth": [1000 * pair.realized for pair in found.veths],
    }
    measures = [measure(f"one document {name}, median", times, "ms") for name, times in latencies.items()]
    measures += [measure(f"one document {name}, p99", [percentile(t, 0.99)], "ms") for name, t in latencies.items()]
    measures.append(measure("one endpoint elsewhere and its removal: agent's CPU time", [1000 * found.maps_cpu], "ms"))
    for bulk in bulks:
        name = f"bulk of {bulk.endpoints:,}"
        resident = (bulk.resident_after - bulk.resident_before) / bulk.endpoints
        yardstick = [1e6 * run.cpu_seconds / run.endpoints for run in bulk.yardstick]
        measures += [
            measure(f"{name}: endpoints realized a second", [bulk.endpoints / bulk.seconds], "/s"),
            measure(f"{name}: agent's CPU time for each endpoint", [1e6 * bulk.cpu_seconds / bulk.endpoints], "us"),
            measure(f"{name}: decode and write, for each endpoint", yardstick, "us"),
            measure(f"{name}: agent's memory, more for each endpoint", [max(0.0, resident)], "B"),
        ]
    measures.append(measure("kill -9, start, in sync", [one.seconds for one in found.restarts], "s"))
    whole = [one.yardstick.wall_seconds for one in found.restarts]
    return [*measures, measure("decode and write, whole process", whole, "s")]
