"""Ages of what programs confirm by the kernel's ticks, read by user space."""

from __future__ import annotations

import time

from agent.datapath.bpf.ticks import seconds_since, ticks_per_second

COARSE = 6
"""CLOCK_MONOTONIC_COARSE."""


def test_an_age_is_at_least_a_tick_below_what_the_fine_clock_says() -> None:
    """A path that is shown as over must be over for the programs, too."""
    confirmed = time.clock_gettime_ns(COARSE) - 5_000_000_000
    age = seconds_since(confirmed)
    assert 4 < age <= (time.monotonic_ns() - confirmed) / 1e9 - 1 / ticks_per_second()


def test_what_was_confirmed_within_this_tick_has_no_age() -> None:
    assert seconds_since(time.clock_gettime_ns(COARSE) + 1_000_000_000) == 0
