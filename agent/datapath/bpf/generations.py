"""Starts generations: invalidates the copies of map entries that programs hold in their per-CPU caches.

`bpf/lib/cache.h` has the rules. A generation is the time in nanoseconds, so it is larger than every earlier one, also
of an agent before a restart; programs only ever add one to it. Where the clock is coarser than the changes, it is one
more than the current one. So a copy's generation never becomes current again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.core.model.map_layout import GENERATION, U32
from agent.datapath.bpf import syscall as bpf


class Generations:
    """The map `generations` of one agent."""

    def __init__(self, descriptor: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._lock = threading.Lock()

    def start(self, index: int) -> None:
        """Start a generation; call it after the change. OSError if the kernel refuses."""
        key = U32.pack(index)
        with self._lock:  # else a thread might write its time after another one's later time
            (current,) = GENERATION.unpack(bpf.lookup(self._descriptor, key, GENERATION.size) or bytes(GENERATION.size))
            bpf.update(self._descriptor, key, GENERATION.pack(max(self._clock(), current + 1)))
