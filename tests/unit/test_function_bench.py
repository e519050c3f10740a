"""What the benchmark of functions reports, from samples."""

from __future__ import annotations

from bench import functions
from bench.report import Verdict

SAMPLES = {functions.LIMIT: [1000.0, 1100.0], functions.EMPTY: [2000.0, 2200.0], functions.EXAMPLE: [4000.0, 4400.0]}


def test_packets_a_second_and_the_ratio_to_the_bare_loop_stand_beside_the_times() -> None:
    section = functions.section({functions.PACKETS: SAMPLES})
    assert section.grid is not None
    assert [row[0] for row in section.grid.rows] == list(SAMPLES)
    assert [row[3].split()[0] for row in section.grid.rows] == ["1.00", "2.00", "4.00"]
    assert section.raw == SAMPLES


def test_ways_that_this_machine_does_not_have_are_left_out_and_nothing_has_a_budget() -> None:
    comparisons = functions.section({functions.PACKETS: SAMPLES}).comparisons
    assert [one.value for one in comparisons] == [2.0, 4.0]
    more = SAMPLES | {functions.COMPILED: [1000.0, 1100.0], functions.LIBXDP: [3000.0, 3300.0]}
    comparisons = functions.section({functions.PACKETS: more}).comparisons
    assert [one.value for one in comparisons] == [2.0, 4.0, 0.5, 1.5]
    assert {one.verdict for one in comparisons} == {Verdict.NONE}
