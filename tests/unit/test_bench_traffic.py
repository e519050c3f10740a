"""The benchmark's part between endpoints: its setups are topologies, its sections are right and fit a terminal."""

from __future__ import annotations

import ctypes

import pytest

from agent.core.model.hooks import Hook
from bench import sections, sent_frames, traffic_sections
from bench.control import AGENTS
from bench.hosts import Setup, pairs_of
from bench.lines import EGRESS, INGRESS, OURS
from bench.probe import Flood, Stream
from bench.report import Section, shown
from bench.traffic import (
    BRIDGE,
    BULKS,
    KERNEL,
    KERNEL_SEGMENTED,
    MIXED,
    NO_GSO,
    OF_KERNEL,
    SETUPS,
    SMALL,
    TC,
    TC_SEGMENTED,
    XDP,
    Case,
    Traffic,
)
from controller_sim.lab.underlay import Names
from controller_sim.topology.file import parse_topology

TERMINAL = 80
RATES = {KERNEL.name: 10.0, BRIDGE: 10.0, KERNEL_SEGMENTED.name: 5.0}


def _traffic(ours: dict[str, float], trip_us: float = 7.0) -> Traffic:
    """Return three rounds in which ours have these rates, and the kernel 10 or, on physical wires, 5 Gbit/s."""
    found = Traffic()
    for bulk in BULKS:
        rates = {name: RATES.get(name) or ours.get(name, 3.0) for name in bulk.contestants}
        found.bulks[bulk.title] = {name: [Stream(rate, 10 / rate)] * 3 for name, rate in rates.items()}
    for case in SMALL:
        trips = {name: 10.0 if name in RATES else trip_us for name in case.contestants}
        found.round_trips[case.title] = {name: [[int(1000 * us)] * 100] * 3 for name, us in trips.items()}
        found.floods[case.title] = {name: [Flood(234_567.0, 0.001, 5432.0)] * 3 for name in case.contestants}
    return found


def _verdicts(found: list[Section]) -> dict[str, str]:
    return {one.name: one.verdict.value for section in found for one in section.comparisons if one.budget is not None}


@pytest.mark.parametrize("setup", [*SETUPS, AGENTS], ids=lambda setup: setup.name)
def test_a_setup_is_a_topology_with_endpoints_of_both_families_on_one_host_and_on_two(setup: Setup) -> None:
    topology = parse_topology(setup.topology)
    assert topology.underlay.wires == setup.wires
    pairs = pairs_of(setup, Names("x"))
    assert [topology.host_of(name) for name in "abc"] == ["h1", "h2", "h1"]
    assert (pairs.two_hosts.second, pairs.one_host.second) == ("x_endpoint_b", "x_endpoint_c")
    for pair in pairs:
        assert ("." in pair.address(4), ":" in pair.address(6)) == (True, True)


@pytest.mark.parametrize("case", [*BULKS, *SMALL], ids=lambda case: case.title)
def test_every_contestant_is_built_and_has_its_yardstick_in_the_same_case(case: Case) -> None:
    built = {setup.name for setup in SETUPS}
    for name in case.contestants:
        assert name in built or name in OF_KERNEL
        assert case.yardstick(name) in case.contestants
        assert case.yardstick(name) in RATES


def test_bulk_over_tc_is_held_to_the_kernel_and_over_segmenting_wires_to_the_kernel_on_such_wires() -> None:
    fast = _verdicts(traffic_sections.traffic(_traffic({TC.name: 10.5, TC_SEGMENTED.name: 4.6, MIXED.name: 4.6})))
    assert set(fast.values()) == {"met"}
    rates = {TC.name: 9.5, TC_SEGMENTED.name: 4.4, MIXED.name: 4.4}
    slow = _verdicts(traffic_sections.traffic(_traffic(rates, trip_us=7.6)))
    assert set(slow.values()) == {"missed"}
    assert set(slow) == set(fast)
    for bulk in BULKS:
        assert f"{bulk.title}: {TC.name} / {bulk.contestants[0]}" in slow
    assert f"round trip, two hosts: {TC.name} / {KERNEL.name}" in slow
    assert f"{BULKS[0].title}: {MIXED.name} / {KERNEL_SEGMENTED.name}" in slow, "it is the default on network cards"
    assert not any(name.partition(": ")[2].startswith((XDP.name, NO_GSO)) for name in slow), "they inform"


def test_cpu_time_for_a_byte_stands_beside_that_of_the_yardstick() -> None:
    one, *_ = traffic_sections.traffic(_traffic({TC.name: 12.5, MIXED.name: 10.0}))
    rows = {row[0]: row for row in shown(one).rows}
    assert rows[TC.name] == (TC.name, "12.5 (12.5 to 12.5)", "1.25", "0.80", "0.80")
    assert rows[MIXED.name][2:] == ("2.00", "1.00", "0.50")
    assert rows[KERNEL.name][2:] == ("", "1.00", "")


def _width(section: Section) -> int:
    grid = shown(section)
    return sum(max(map(len, column)) + 3 for column in zip(grid.columns, *grid.rows, strict=True)) + 1


def test_the_tables_fit_a_terminal() -> None:
    found = traffic_sections.traffic(_traffic({TC.name: 12.3, TC_SEGMENTED.name: 12.3, MIXED.name: 12.3}, trip_us=17.3))
    for section in (*found, sections.sent(_sent_rounds())):
        assert _width(section) <= TERMINAL, section.title


def _sent_rounds() -> dict[str, dict[str, list[float]]]:
    names = [sent_frames.name_at(name, hook) for hook in Hook for name in sent_frames.PROGRAMS]
    by_name = {name: [1900.0, 2000.0, 2100.0] for name in names} | {sent_frames.KERNEL: [4000.0] * 3}
    return {INGRESS: by_name, EGRESS: by_name}


def test_sent_frames_are_compared_with_the_kernel_for_each_hook() -> None:
    found = {one.name: one.value for one in sections.sent(_sent_rounds()).comparisons}
    for hook in Hook:
        name = f"{INGRESS}, sent frames: time of {sent_frames.name_at(OURS, hook)} / {sent_frames.KERNEL}"
        assert found[name] == 0.5


def test_a_message_of_sendmmsg_has_the_size_of_the_kernels_struct() -> None:
    assert ctypes.sizeof(sent_frames.Message) == 64
