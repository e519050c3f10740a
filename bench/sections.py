"""Turns what the parts of a run measured into sections of the report, with the project's budgets. Pure."""

from __future__ import annotations

from bench import forwarding as fw
from bench import profile
from bench.control import Control
from bench.forwarding import Rounds
from bench.hosts import KERNEL_PAIR, OUR_PAIR
from bench.report import Comparison, Section, measure, percentile, ratio
from bench.traffic import Traffic

FORWARDING_NOTE = (
    "Nanoseconds of one core for a packet of 60 bytes of UDP inside, run as live frames and counted at the far end of "
    "a veth. `empty` drops at once (the harness); `redirect` forwards without looking; `bare` looks at one header, "
    "makes one hash lookup, takes off or puts on the tunnel headers, and redirects. At the far ends a program drops "
    "the frames; `far end's stack` has none there, so that a socket buffer is built for each, as for an endpoint."
)
PROFILE_NOTE = (
    "Nanoseconds a packet: first what each contestant costs more than the simpler one, then what our programs "
    "save when one part is left out. Parts overlap and do not add up."
)
TRAFFIC_NOTE = (
    "Plain sockets in two endpoints on two hosts, all on this machine: 64 bytes of UDP there and back, both ends on "
    "one core; one TCP stream between two cores. Both overlays run on wires of the same build, in turns."
)
CONTROL_NOTE = (
    "One agent, a real nats-server with TLS that syncs every message to disk, and a publisher in Python, all on this "
    "machine. From publishing to the acknowledgement `realized`."
)
MIB = 1 << 20
VS_BARE, VS_KERNEL = 1.5, {fw.INGRESS: 10.0, fw.EGRESS: 7.0}
RATE = 200_000
MAPS_MS, VETH_MS = 2.0, 15.0
RESTART_S = 2.0
KERNEL_BYTES = 1024
AGENT_BASE, AGENT_EACH = 80 * MIB, 300


def forwarding(rounds: Rounds) -> Section:
    """Return the section on nanoseconds a packet."""
    order = [fw.EMPTY, fw.REDIRECT, fw.BARE, fw.OURS, fw.OURS_TO_STACK, fw.KERNEL]
    measures, comparisons = [], []
    for direction, by_name in rounds.items():
        measures += [measure(f"{direction}: {name}", by_name[name], "ns") for name in order]
        faster = ratio(by_name, fw.KERNEL, fw.OURS)
        comparisons += [
            Comparison(f"{direction}: time of ours / bare", ratio(by_name, fw.OURS, fw.BARE), "x", VS_BARE),
            Comparison(f"{direction}: time of {fw.KERNEL} / ours", faster, "x", VS_KERNEL[direction], at_most=False),
            Comparison(
                f"{direction}: time of {fw.KERNEL} / ours, far end's stack",
                ratio(by_name, fw.KERNEL, fw.OURS_TO_STACK),
            ),
        ]
    return Section("Nanoseconds a packet", FORWARDING_NOTE, tuple(measures), tuple(comparisons), {"rounds": rounds})


def profiled(rounds: Rounds, skipped: list[str]) -> Section:
    """Return the section on where the nanoseconds go; `skipped` are variants that fit the sources no more."""
    found = profile.layers(rounds, [fw.EMPTY, fw.REDIRECT, fw.BARE, fw.OURS]) + profile.costs(rounds, fw.OURS)
    note = PROFILE_NOTE + "".join(f" Not measured, since the source has changed: {name}." for name in skipped)
    return Section("Profile", note, tuple(found))


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
    for bulk in found.bulks:
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
    if len(found.bulks) > 1:
        first = found.bulks[0]
        linear = (last.endpoints / last.seconds) / (first.endpoints / first.seconds)
        comparisons.append(Comparison(f"rate at {last.endpoints:,} / rate at {first.endpoints:,}", linear))
    return Section("Control plane", CONTROL_NOTE, tuple(measures), tuple(comparisons))
