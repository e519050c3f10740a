"""The benchmark's report: how numbers become ratios, verdicts and tables; and that its variants fit the sources."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from agent.core.model import map_layout
from bench import lines, profile, sections
from bench.contestants import Contestant, Edit, StaleEditError, fitting, stage
from bench.control import Bulk, Control, Latency, Restart, remote_endpoints
from bench.far_end import NOTHING, RESTORE, WORDS, Restore
from bench.forwarding import qualified
from bench.report import (
    Comparison,
    Measure,
    Section,
    as_data,
    as_markdown,
    budget,
    compared,
    measure,
    missed,
    number,
    percentile,
    placed,
    ratio,
)
from bench.yardstick import Run, entries
from controller_sim.control.publisher import bulk_changes

AT_MOST = Comparison("time", 1.4, "x", 1.5)
AT_LEAST = Comparison("rate", 90_000, "/s", 200_000, at_most=False)
FREE = Comparison("throughput", 0.4)


@pytest.mark.parametrize(
    ("comparison", "met", "text"),
    [
        (AT_MOST, "met", "≤ 1.50 x"),
        (Comparison("time", 1.51, "x", 1.5), "missed", "≤ 1.50 x"),
        (Comparison("time", 1.5, "x", 1.5), "met", "≤ 1.50 x"),
        (AT_LEAST, "missed", "≥ 200,000 /s"),
        (Comparison("rate", 200_000, "/s", 200_000, at_most=False), "met", "≥ 200,000 /s"),
        (FREE, "", ""),
    ],
)
def test_a_budget_is_met_up_to_its_own_value_and_missed_beyond(comparison: Comparison, met: str, text: str) -> None:
    assert comparison.verdict == met
    assert budget(comparison) == text


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    rounds = {"ours": [200.0, 900.0, 300.0], "bare": [100.0, 300.0, 300.0]}
    assert ratio(rounds, "ours", "bare") == 2.0


@pytest.mark.parametrize("samples", [[1.0, 1.4, 1.6, 2.0], [1.0, 1.6, 1.4, 2.0]])
def test_a_budget_within_the_spread_is_unclear_and_not_missed(samples: list[float]) -> None:
    for at_most in (True, False):
        one = compared("time", samples, 1.5, at_most=at_most)
        assert one.verdict == "unclear"
        assert missed([Section("s", "n", (), (one,))]) == []


@pytest.mark.parametrize(("budget_", "met"), [(1.0, "missed"), (2.0, "met")])
def test_a_budget_outside_of_the_spread_has_a_verdict(budget_: float, met: str) -> None:
    assert compared("time", [1.4, 1.5, 1.6, 1.7], budget_).verdict == met


def test_a_single_sample_has_no_spread_and_a_verdict() -> None:
    assert compared("time", [1.6], 1.5).verdict == "missed"


def test_rounds_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio({"a": [1.0, 2.0], "b": [1.0]}, "a", "b")


@pytest.mark.parametrize(("part", "expected"), [(0.0, 1), (0.25, 25), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_a_sample_that_this_part_does_not_exceed(part: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), part) == expected


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


def test_a_measure_of_many_samples_shows_their_spread_and_one_sample_none() -> None:
    assert measure("m", [3.0, 1.0, 2.0, 4.0], "ns") == Measure("m", 2.5, "ns", 1.0, 3.0)
    assert measure("m", [3.0], "ns") == Measure("m", 3.0, "ns")


@pytest.mark.parametrize(
    ("value", "text"), [(1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (123456.0, "123,456"), (-12.34, "-12.3")]
)
def test_numbers_have_as_many_digits_as_mean_something(value: float, text: str) -> None:
    assert number(value) == text


SECTION = Section("A section", "A note.", (Measure("m", 1.0, "ns", 0.5, 2.0),), (AT_MOST, AT_LEAST, FREE))


def test_only_missed_budgets_are_listed_as_missed() -> None:
    assert missed([SECTION]) == [AT_LEAST]


def test_the_report_as_data_is_json_and_names_what_is_missed() -> None:
    data = json.loads(json.dumps(as_data({"kernel": "6"}, [SECTION])))
    assert data["missed"] == ["rate"]
    assert [one["verdict"] for one in data["sections"][0]["comparisons"]] == ["met", "missed", ""]


def test_the_report_as_markdown_holds_verdicts_measures_and_machine() -> None:
    text = as_markdown({"kernel": "6"}, [SECTION])
    assert "| rate | 90,000 /s | ≥ 200,000 /s | missed |" in text
    assert "| m | 1.00 ns | 0.50 to 2.00 |" in text
    assert "- kernel: 6" in text


def test_a_block_replaces_the_former_one_between_the_marks_and_nothing_else() -> None:
    document = "# Title\n\n<!-- bench: begin -->\nold\n<!-- bench: end -->\n\nThe end.\n"
    once = placed(document, "new\n")
    assert once == "# Title\n\n<!-- bench: begin -->\n\nnew\n\n<!-- bench: end -->\n\nThe end.\n"
    assert placed(once, "new\n") == once


def test_a_document_without_marks_becomes_the_block() -> None:
    assert placed("", "new\n") == "new\n"


def test_every_part_of_the_profile_and_every_contestant_fits_the_sources(tmp_path: Path) -> None:
    parts = [part.contestant for part in profile.PARTS]
    assert fitting(parts) == (parts, [])
    for contestant in (*parts, *lines.CONTESTANTS):
        stage(contestant, tmp_path)


def test_a_variant_whose_edit_finds_nothing_is_refused_and_left_out(tmp_path: Path) -> None:
    stale = Contestant("stale", edits=(Edit("lib/metrics.h", "no such text", ""),))
    with pytest.raises(StaleEditError, match=r"metrics\.h"):
        stage(stale, tmp_path)
    assert fitting([stale]) == ([], ["stale"])


def test_the_cost_of_a_part_is_the_whole_minus_the_variant_round_by_round() -> None:
    rounds = {"ours": [300.0, 400.0], "without counters": [280.0, 370.0], "something else": [1.0, 1.0]}
    assert profile.costs(rounds, "ours") == {"counters": [20.0, 30.0]}


def test_what_contestants_cost_more_than_the_simpler_one_is_taken_round_by_round() -> None:
    rounds = {"empty": [1.0, 2.0], "bare": [3.0, 5.0]}
    assert profile.layers(rounds, ["empty", "bare"]) == [("empty", [1.0, 2.0]), ("bare, more than empty", [2.0, 3.0])]


def test_no_two_lines_of_a_group_and_direction_have_one_name() -> None:
    for group in lines.GROUPS:
        names = [(line.name, line.direction) for line in group.lines]
        assert len(set(names)) == len(names)


def _rounds_of(group: lines.Group, nanoseconds: float) -> dict[str, dict[str, list[float]]]:
    rounds: dict[str, dict[str, list[float]]] = {d: {lines.OURS: [100.0]} for d in (lines.INGRESS, lines.EGRESS)}
    for line in group.lines:
        same = line.name == group.yardstick
        rounds[line.direction][qualified(group, line.name)] = [100.0 if same else nanoseconds]
    return rounds


@pytest.mark.parametrize("group", lines.GROUPS, ids=lambda group: group.title)
def test_a_group_shows_each_line_beside_its_yardstick_and_omits_missing_directions(
    group: lines.Group,
) -> None:
    grid = sections.group(_rounds_of(group, 150.0), group).grid
    assert grid is not None
    names = {line.name: {one.direction for one in group.lines if one.name == line.name} for line in group.lines}
    rows = {row[0]: row[1:] for row in grid.rows}
    for name, directions in names.items():
        if name != group.yardstick:
            expected = [("150", "1.50") if d in directions else ("", "") for d in (lines.INGRESS, lines.EGRESS)]
            assert rows[name] == (*expected[0], *expected[1])
    assert grid.rows[0][2] == ""


@pytest.mark.parametrize(("nanoseconds", "met"), [(119.0, "met"), (121.0, "missed")])
def test_a_million_endpoints_may_cost_a_fifth_more_than_one(nanoseconds: float, met: str) -> None:
    found = sections.group(_rounds_of(lines.SCALE, nanoseconds), lines.SCALE).comparisons
    assert [one.verdict for one in found if one.budget is not None] == [met] * 4


def test_the_far_end_is_given_the_frames_start_in_whole_words() -> None:
    frame = bytes(range(60))
    assert Restore(-50).packed(frame)[:8] == struct.pack("=iI", -50, 56)
    assert Restore().packed(bytes(1400))[4:8] == struct.pack("=I", WORDS)
    assert len(NOTHING) == len(Restore().packed(frame)) == RESTORE.size


def _bulk(endpoints: int, cpu_seconds: float, yardstick_seconds: float) -> Bulk:
    runs = [Run(endpoints, yardstick_seconds * part, 1.0) for part in (0.9, 1.0, 1.1)]
    return Bulk(endpoints, 1.0, cpu_seconds, 0, 100 << 20, 112 * endpoints, runs)


def test_the_control_plane_is_compared_with_yardsticks_of_the_same_run() -> None:
    """Twice as slow a machine doubles both sides, and changes no verdict."""
    verdicts = []
    for slow in (1.0, 2.0):
        latencies = [Latency(0.001 * slow, 0.0015 * slow)] * 4
        bulks = [_bulk(10_000, 0.02 * slow, 0.01 * slow), _bulk(100_000, 0.5 * slow, 0.1 * slow)]
        restarts = [Restart(1.0 * slow, 1000, 1000, Run(100_000, 0.1, 0.5 * slow))] * 3
        found = Control(latencies, 0.001, latencies, bulks, restarts)
        verdicts.append({one.name: one.verdict.value for one in sections.control(found).comparisons if one.budget})
    assert verdicts[0] == verdicts[1]
    assert verdicts[0]["one endpoint elsewhere: realized / stored by the server"] == "met"
    assert verdicts[0]["kill -9, start, in sync with 100,000 / decode and write, whole process"] == "met"
    assert "bulk of 10,000: agent's CPU time / decode and write" not in verdicts[0], "its budget is for 100,000"
    assert verdicts[0]["bulk of 100,000: agent's CPU time / decode and write"] == "missed"
    assert verdicts[0]["CPU time for an endpoint, bulk of 100,000 / of 10,000"] == "missed"


def test_the_yardstick_writes_an_entry_as_the_agent_would() -> None:
    (body,) = (change.body for change in bulk_changes("h1", "b", remote_endpoints("e", 3), 5000))
    assert body is not None
    found = list(entries([body]))
    assert len({key for key, _ in found}) == 3
    assert {(len(key), len(value)) for key, value in found} == {(map_layout.OVERLAY_KEY.size, map_layout.ENDPOINT.size)}


def test_an_overlay_of_one_header_keeps_the_programs(tmp_path: Path) -> None:
    """An overlay with programs replaces them all: those that it does not have drop every frame."""
    kept = stage(Contestant("without counters", "no_counters"), tmp_path) / "entry" / "from_underlay.h"
    replaced = stage(Contestant("bare", "bare"), tmp_path) / "entry" / "undeliverable.h"
    assert "route_tunnel_packet" in kept.read_text(encoding="utf-8")
    assert "answer_endpoint" not in replaced.read_text(encoding="utf-8")
