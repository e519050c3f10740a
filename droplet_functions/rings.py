"""The four rings of an AF_XDP socket on any memory: indices that run freely, entries of one or two words of 64 bits.

Owns the arithmetic and its checks, no descriptor and no mapping. One side of a ring is this process, the other the
kernel; the other side's index is checked each time it is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from droplet_functions.barriers import Barriers
from droplet_functions.errors import RingError

INDICES = 1 << 32
_MASK = INDICES - 1
NEED_WAKEUP = 1
"""XDP_RING_NEED_WAKEUP of the flags: the kernel waits for a system call before it looks at the ring."""
ADDRESS, DESCRIPTOR = 1, 2
"""Words of an entry: an address; or an address, and a length with options above its 32 bits."""


class RingOffsets(NamedTuple):
    """struct xdp_ring_offset: where a ring's parts are, in bytes from the start of its mapping."""

    producer: int
    consumer: int
    descriptors: int
    flags: int

    def length(self, size: int, words: int) -> int:
        """Return how many bytes of memory a ring of `size` entries takes."""
        return max(self.descriptors + size * words * 8, self.producer + 4, self.consumer + 4, self.flags + 4)


class _Ring:
    """What both ends of a ring share: its memory, and reading and writing entries across the end of the array."""

    def __init__(
        self, name: str, memory: memoryview, offsets: RingOffsets, size: int, words: int, barriers: Barriers
    ) -> None:
        if size < 1 or size & (size - 1):
            raise ValueError(f"{name} ring: {size} entries, expected a power of two")
        end = offsets.descriptors + size * words * 8
        self.name, self.size, self.memory, self.offsets, self._words = name, size, memory, offsets, words
        self._producer, self._consumer, self._flags = (
            memory[at : at + 4].cast("I") for at in (offsets.producer, offsets.consumer, offsets.flags)
        )
        self._entries = memory[offsets.descriptors : end].cast("Q")
        self._load, self._store = barriers.load, barriers.store

    @property
    def needs_wakeup(self) -> bool:
        """Whether the kernel waits for a system call before it looks at this ring."""
        return bool(self._load(self._flags) & NEED_WAKEUP)

    @property
    def pending(self) -> int:
        """Entries that were produced and not yet consumed, as both indices say now; RingError when they cannot be."""
        return self._distance(self._load(self._producer), self._load(self._consumer))

    def _distance(self, producer: int, consumer: int) -> int:
        found = (producer - consumer) & _MASK
        if found > self.size:
            raise RingError(
                f"{self.name} ring: producer {producer} and consumer {consumer} are {found} apart in a ring of "
                f"{self.size}: something else has written to it; start the function anew"
            )
        return found

    def peek(self) -> list[int]:
        """Return the words of all pending entries without consuming them."""
        return self._read(self._load(self._consumer), self.pending)

    def _read(self, index: int, count: int) -> list[int]:
        words = self._words
        first = (index & (self.size - 1)) * words
        last = first + count * words
        end = self.size * words
        if last <= end:
            return self._entries[first:last].tolist()
        return self._entries[first:].tolist() + self._entries[: last - end].tolist()

    def release(self) -> None:
        """Let go of the memory that the ring was given, so that its mapping can be closed."""
        for view in (self._producer, self._consumer, self._flags, self._entries, self.memory):
            view.release()


class ConsumerRing(_Ring):
    """RX or completion ring: the kernel produces, this process consumes."""

    def __init__(
        self, name: str, memory: memoryview, offsets: RingOffsets, size: int, words: int, barriers: Barriers
    ) -> None:
        super().__init__(name, memory, offsets, size, words, barriers)
        self._next = self._load(self._consumer)

    def pop(self, most: int) -> list[int]:
        """Consume at most so many entries and return their words; RingError when the indices contradict each other."""
        count = min(self._distance(self._load(self._producer), self._next), most)
        if not count:
            return []
        found = self._read(self._next, count)
        self._next = (self._next + count) & _MASK
        self._store(self._consumer, self._next)
        return found


class ProducerRing(_Ring):
    """Fill or TX ring: this process produces, the kernel consumes."""

    def __init__(
        self, name: str, memory: memoryview, offsets: RingOffsets, size: int, words: int, barriers: Barriers
    ) -> None:
        super().__init__(name, memory, offsets, size, words, barriers)
        self._next = self._load(self._producer)

    def room(self) -> int:
        """Return how many entries fit now; RingError when the indices contradict each other."""
        return self.size - self._distance(self._next, self._load(self._consumer))

    def push(self, words: Sequence[int]) -> None:
        """Produce entries, of which there must be no more than `room` said."""
        count = self._write(words)
        self._next = (self._next + count) & _MASK
        self._store(self._producer, self._next)

    def _write(self, words: Sequence[int]) -> int:
        """Write entries from the next one on, which publishes none of them; return their number."""
        data = array("Q", words)
        first = (self._next & (self.size - 1)) * self._words
        split = self.size * self._words - first
        if len(data) <= split:
            self._entries[first : first + len(data)] = data
        else:
            self._entries[first:] = data[:split]
            self._entries[: len(data) - split] = data[split:]
        return len(data) // self._words
