"""Starts generations: invalidates the copies of map entries that programs hold in their per-CPU caches.

`bpf/lib/cache.h` has the rules. A generation is the time in nanoseconds, so it is larger than every earlier one, also
of an agent before a restart; programs only ever add one to it. So a copy's generation never becomes current again.
"""

from __future__ import annotations

import threading
import time

from agent.core.model.map_layout import U32, U64
from agent.datapath.bpf import syscall as bpf


class Generations:
    """The map `generations` of one agent."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def start(self, index: int) -> None:
        """Start a generation; call it after the change. OSError if the kernel refuses."""
        with self._lock:  # else a thread might write its time after another one's later time
            bpf.update(self._descriptor, U32.pack(index), U64.pack(time.monotonic_ns()))
