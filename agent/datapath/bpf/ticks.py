"""The kernel's timer ticks, in which the programs compute ages; what user space may read of them."""

from __future__ import annotations

import time

_CLOCK_MONOTONIC_COARSE = 6
"""linux/time.h; the module `time` has no name for it."""


def ticks_per_second() -> int:
    """Return the kernel's timer frequency (CONFIG_HZ): coarse clocks advance once a tick (clock_getres(2))."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def seconds_since(coarse_ns: int) -> float:
    """Return an age that is never above the one that a program computes in ticks; not below 0.

    `coarse_ns` is a reading of CLOCK_MONOTONIC_COARSE. Ticks and the coarse clock may differ by one tick.
    """
    age = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) - coarse_ns
    return max(0.0, age / 1e9 - time.clock_getres(_CLOCK_MONOTONIC_COARSE))
