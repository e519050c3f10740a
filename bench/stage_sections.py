"""The report on functions as programs at stage points: tables, and comparisons with their budgets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.core.model.hooks import Hook
from bench import stage_lines as lines
from bench.forwarding import BARE, Rounds
from bench.lines import EGRESS, INGRESS
from bench.report import Comparison, Grid, Section, compared, differences, ratios, spread
from bench.sent_frames import REDIRECT as REDIRECT_AT_TC
from bench.sent_frames import name_at

DIRECTIONS = (INGRESS, EGRESS)
NOOP_NS = 25.0
"""Nanoseconds that a function may cost that does nothing."""
OUT_OF_SCOPE = 1.02
"""Traffic that meets no function is to pay nothing: less than what a run can tell from noise."""
XDP_NOTE = (
    "CPU time of one core for a packet with 60 bytes of UDP inside, live frames at XDP: the median, and the middle "
    "half of the rounds. Functions run at `to_endpoint` (ingress) and `from_endpoint` (egress), as the agent loads "
    "them: with isolation, counters and sampled times. x: the ratio to `bare` of the same rounds."
)
TC_NOTE = (
    "As above, at tc: a packet socket sends each frame through a veth, and the far end's stack drops it. x: the ratio "
    "to `redirect`."
)
PEERS_NOTE = (
    "Live frames at XDP through chains of programs that do nothing, and one that redirects. `tail calls` are plain, "
    "without isolation or counters; `libxdp's dispatcher` is the one of Debian. x: the ratio to the last program alone."
)
VERIFIER_NOTE = (
    "Instructions that the kernel's verifier processes when it loads a program (its limit is 1,000,000), without "
    "functions and with them compiled in. A function's include those of the program around it."
)
Instructions = Mapping[str, Mapping[tuple[Hook, bool], int]]
"""By program, then by hook and whether functions are compiled in."""


def sections(rounds: Rounds, refusal: str, instructions: Instructions) -> list[Section]:
    """Return all sections; `refusal` says why there are no lines of the dispatcher, empty where there are."""
    at_tc = {name: name_at(name, Hook.TC) for name in (REDIRECT_AT_TC, *lines.OURS)}
    peers = (lines.REDIRECT, *lines.TAIL_CALLS.values(), *lines.DISPATCHED.values())
    note = f"{PEERS_NOTE} Not measured is the dispatcher: {refusal}." if refusal else PEERS_NOTE
    return [
        Section(
            *("Functions at stage points, at XDP", XDP_NOTE, ()),
            tuple(one for direction in DIRECTIONS for one in _ours(rounds, direction, Hook.XDP)),
            _grid(rounds, (BARE, *lines.OURS), BARE),
            {"rounds": rounds},
        ),
        Section(
            *("Functions at stage points, at tc", TC_NOTE, ()),
            tuple(one for direction in DIRECTIONS for one in _ours(rounds, direction, Hook.TC)),
            _grid(rounds, tuple(at_tc.values()), at_tc[REDIRECT_AT_TC]),
        ),
        Section(
            *("Other chains of programs, at XDP", note, ()),
            tuple(one for direction in DIRECTIONS for one in _peers(rounds[direction], direction)),
            _grid(rounds, peers, lines.REDIRECT),
        ),
        Section("Functions at stage points: the verifier", VERIFIER_NOTE, grid=_verifier(instructions)),
    ]


def _grid(rounds: Rounds, names: Sequence[str], yardstick: str) -> Grid:
    """Return the table of those lines that were measured, each beside the yardstick in its direction."""
    rows = []
    for name in names:
        if name not in rounds[INGRESS]:
            continue
        cells = [name]
        for direction in DIRECTIONS:
            samples, beside = rounds[direction][name], rounds[direction][yardstick]
            cells += [spread(samples), "" if name == yardstick else spread(ratios(samples, beside))]
        rows.append(tuple(cells))
    return Grid(("", *(column for direction in DIRECTIONS for column in (direction, "x"))), tuple(rows))


def _ours(rounds: Rounds, direction: str, hook: Hook) -> Iterator[Comparison]:
    def of(name: str) -> list[float]:
        return rounds[direction][name if hook is Hook.XDP else name_at(name, hook)]

    where = f"{direction}, functions at {'XDP' if hook is Hook.XDP else 'tc'}"
    yardstick = BARE if hook is Hook.XDP else REDIRECT_AT_TC
    yield compared(
        f"{where}: none in scope / compiled without", ratios(of(lines.NONE), of(lines.WITHOUT)), OUT_OF_SCOPE
    )
    first = differences(of(lines.ONE), of(lines.NONE))
    yield compared(f"{where}: the first no-op, more than none", first, NOOP_NS, unit="ns")
    yield compared(f"{where}: the first no-op's part / {yardstick}", ratios(first, of(yardstick)))
    further = differences(of(lines.EIGHT), of(lines.ONE), lines.MANY - 1)
    yield compared(f"{where}: each further no-op", further, NOOP_NS, unit="ns")
    yield compared(f"{where}: each further no-op's part / {yardstick}", ratios(further, of(yardstick)))
    for name in (lines.PORTS, lines.COUNT):
        more = differences(of(name), of(lines.NONE))
        yield compared(f"{where}: {name}, more than none", more, unit="ns")


def _peers(by_name: dict[str, list[float]], direction: str) -> Iterator[Comparison]:
    """Compare a no-op of each kind of chain with the others: what each of the last seven of eight costs."""
    ours = differences(by_name[lines.EIGHT], by_name[lines.ONE], lines.MANY - 1)
    kinds = {"tail call": lines.TAIL_CALLS, "program of libxdp's dispatcher": lines.DISPATCHED}
    for kind, names in kinds.items():
        if names[lines.MANY] not in by_name:
            continue
        each = differences(by_name[names[lines.MANY]], by_name[names[1]], lines.MANY - 1)
        yield compared(f"{direction}: each further no-op {kind}", each, unit="ns")
        yield compared(
            f"{direction}: each further no-op function, more than a {kind}", differences(ours, each), unit="ns"
        )


def _verifier(found: Instructions) -> Grid:
    kinds = [(hook, functions) for hook in Hook for functions in (False, True)]
    columns = [f"{hook.value}, {'with' if functions else 'without'}" for hook, functions in kinds]
    rows = [(name, *(f"{of[kind]:,}" if kind in of else "" for kind in kinds)) for name, of in found.items()]
    return Grid(("", *columns), tuple(rows))
