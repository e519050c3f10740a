"""Ordered accesses to the indices of rings: the compiled part, or plain Python where the processor keeps the order.

A ring needs two promises: what an entry holds is written before the index that publishes it, and read after it. x86-64
and s390x keep that order by themselves, and `memoryview` reads and writes an aligned word in one access (`struct` with
`=` writes byte by byte, and must not be used for it). Other processors need the compiled part.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import NamedTuple

from droplet_functions.errors import BarrierError

ORDERED = frozenset({"x86_64", "AMD64", "s390x"})
"""Machines that reorder neither two loads nor two stores."""


class Barriers(NamedTuple):
    """How a word is read (acquire) and written (release); a word is a memoryview of format "I" with one element."""

    name: str
    load: Callable[[memoryview], int]
    store: Callable[[memoryview, int], None]


def _load(word: memoryview) -> int:
    value: int = word[0]
    return value


def _store(word: memoryview, value: int) -> None:
    word[0] = value


PLAIN = Barriers("plain", _load, _store)
"""Without barriers: for processors that need none, and for rings that no other core touches."""


def compiled() -> Barriers | None:
    """Return the compiled part, or None where it was not built."""
    try:
        from droplet_functions._barriers import load, store
    except ImportError:
        return None
    return Barriers("compiled", load, store)


def choose(machine: str | None = None) -> Barriers:
    """Return the compiled part if it is there, else plain accesses; BarrierError where these would be wrong."""
    if found := compiled():
        return found
    machine = machine or platform.machine()
    if machine in ORDERED:
        return PLAIN
    raise BarrierError(
        f"a processor of type {machine} reorders memory accesses, and the compiled part of droplet_functions is "
        "missing: install a C compiler and the headers of Python, then install the package again"
    )
