"""The benchmark's part on functions as programs: its functions compile to valid chains, its report is right."""

from __future__ import annotations

import struct

import pytest

from agent.core.model.hooks import POINTS, Hook
from agent.core.model.map_layout import STAGE_SLOTS
from agent.datapath.functions.source_rules import check_source
from bench import stage_lines as lines
from bench.forwarding import BARE, Rounds
from bench.lines import EGRESS, INGRESS
from bench.report import Section, Verdict, as_markdown
from bench.sent_frames import REDIRECT, name_at
from bench.stage_peers import noop
from bench.stage_sections import sections

BASE = {
    BARE: 185.0,
    lines.WITHOUT: 190.0,
    lines.NONE: 190.0,
    lines.ONE: 210.0,
    lines.EIGHT: 350.0,
    lines.PORTS: 215.0,
    lines.COUNT: 240.0,
    lines.REDIRECT: 150.0,
    lines.TAIL_CALLS[1]: 155.0,
    lines.TAIL_CALLS[8]: 190.0,
    name_at(REDIRECT, Hook.TC): 1600.0,
    name_at(lines.WITHOUT, Hook.TC): 1900.0,
    **{name_at(name, Hook.TC): 1900.0 + 24 * len(chain) for name, chain in lines.CHAINS.items()},
}
"""Nanoseconds a packet of each line without the dispatcher: each function costs 20 ns, at tc 24 ns."""
DISPATCHED = dict(zip(lines.DISPATCHED.values(), (152.0, 158.0, 200.0), strict=True))
INSTRUCTIONS = {"transit": {(Hook.XDP, False): 100_000, (Hook.XDP, True): 120_000, (Hook.TC, True): 160_000}}


def _rounds(**changed: float) -> Rounds:
    """Return four rounds that differ by the machine's speed; `changed` are other times, by the lines' names."""
    times = BASE | changed
    return {d: {name: [ns * slow for slow in (1.0, 1.0, 1.01, 1.02)] for name, ns in times.items()}
            for d in (INGRESS, EGRESS)}  # fmt: skip


def _found(rounds: Rounds, refusal: str = "") -> list[Section]:
    return sections(rounds, refusal, INSTRUCTIONS)


def _verdicts(found: list[Section], of: str) -> set[str]:
    return {one.verdict.value for section in found for one in section.comparisons if of in one.name}


@pytest.mark.parametrize("name", sorted({name for chain in lines.CHAINS.values() for name in chain}))
def test_a_function_of_the_benchmark_is_a_source_that_hosts_accept(name: str) -> None:
    check_source(lines.source(name))


def test_chains_fit_the_slots_of_a_point_that_exists() -> None:
    assert set(lines.POINTS.values()) <= set(POINTS)
    assert max(map(len, lines.CHAINS.values())) == lines.MANY == STAGE_SLOTS


def test_functions_within_the_budgets_meet_them() -> None:
    found = _found(_rounds())
    for of in ("none in scope /", "the first no-op, more", "each further no-op"):
        assert _verdicts(found, of) - {Verdict.NONE.value} == {"met"}


def test_a_no_op_function_is_held_to_its_nanoseconds_and_also_the_further_ones() -> None:
    slow = _rounds(**{lines.ONE: 220.0, lines.EIGHT: 430.0})
    for of in ("functions at XDP: the first no-op, more", "functions at XDP: each further no-op"):
        assert _verdicts(_found(slow), of) - {Verdict.NONE.value} == {"missed"}
    assert _verdicts(_found(slow), "functions at tc: the first no-op, more") == {"met"}


def test_a_further_function_costs_a_seventh_of_what_eight_cost_more_than_one() -> None:
    comparisons = {one.name: one for one in _found(_rounds())[0].comparisons}
    one = comparisons["ingress, functions at XDP: each further no-op"]
    assert (one.value, one.unit, one.budget) == (pytest.approx(20, abs=0.5), "ns", 25.0)


def test_programs_that_are_slower_without_a_function_in_scope_miss_their_budget() -> None:
    assert _verdicts(_found(_rounds(**{lines.NONE: 196.0})), "at XDP: none in scope /") == {"missed"}


def test_a_kernel_that_refuses_the_dispatcher_leaves_out_its_lines_and_the_report_says_why() -> None:
    found = _found(_rounds(), "this kernel does not")[2]
    assert found.note.endswith("Not measured is the dispatcher: this kernel does not.")
    assert found.grid is not None
    assert [row[0] for row in found.grid.rows] == [lines.REDIRECT, *lines.TAIL_CALLS.values()]
    assert not any("dispatcher" in one.name for one in found.comparisons)


def test_the_dispatcher_is_beside_our_functions_where_it_was_measured() -> None:
    found = _found(_rounds(**DISPATCHED))[2]
    names = [one.name for one in found.comparisons]
    assert "ingress: each further no-op function, more than a program of libxdp's dispatcher" in names
    assert "Not measured" not in found.note
    assert found.grid is not None
    assert len(found.grid.rows) == 6


def test_the_report_shows_every_line_of_both_hooks_and_what_the_verifier_checks() -> None:
    text = as_markdown({}, _found(_rounds()))
    for name in (*lines.OURS, *(name_at(name, Hook.TC) for name in lines.OURS)):
        assert f"| {name} |" in text
    assert "| transit | 100,000 | 120,000 |  | 160,000 |" in text


def test_a_no_op_of_plain_tail_calls_calls_the_next_place_of_its_table() -> None:
    instructions = list(struct.iter_unpack("=BBhi", noop(table=5, following=3)))
    assert instructions[0] == (0x18, 0x12, 0, 5)
    assert (0xB7, 3, 0, 3) in instructions
    assert instructions[-1] == (0x95, 0, 0, 0)
