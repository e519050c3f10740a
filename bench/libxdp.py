"""Rings by libxdp (Debian's `libxdp1`) through ctypes: the way that the library of functions does not take.

What it is measured for: each call costs more than the few accesses that it makes. Entries are copied in bulk all the
same, which libxdp itself has no call for, so this is the best case.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from droplet_functions.barriers import PLAIN
from droplet_functions.rings import ADDRESS, DESCRIPTOR, ConsumerRing, ProducerRing
from droplet_functions.xsk_queue import Rings

LIBRARY = "libxdp.so.1"


class _Ring(ctypes.Structure):
    """struct xsk_ring_prod and struct xsk_ring_cons, which are alike."""

    _fields_ = (
        ("cached_prod", ctypes.c_uint32),
        ("cached_cons", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("producer", ctypes.c_void_p),
        ("consumer", ctypes.c_void_p),
        ("ring", ctypes.c_void_p),
        ("flags", ctypes.c_void_p),
    )


def available() -> ctypes.CDLL | None:
    """Return the library, or None where it is not installed."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def _described(ring: ConsumerRing | ProducerRing, produced: int, consumed: int) -> _Ring:
    base = ctypes.addressof(ctypes.c_char.from_buffer(ring.memory))
    at = ring.offsets
    addresses = (base + at.producer, base + at.consumer, base + at.descriptors, base + at.flags)
    return _Ring(produced, consumed, ring.size - 1, ring.size, *addresses)


def rings(library: ctypes.CDLL, found: Rings) -> Rings:
    """Return rings by libxdp on the memory of others, which must not be used any more."""
    return Rings(
        LibxdpProducer(library, found.fill, ADDRESS),
        LibxdpConsumer(library, found.rx, DESCRIPTOR),
        LibxdpProducer(library, found.tx, DESCRIPTOR),
        LibxdpConsumer(library, found.completion, ADDRESS),
    )


class LibxdpConsumer(ConsumerRing):
    """RX or completion ring."""

    def __init__(self, library: ctypes.CDLL, ring: ConsumerRing, words: int) -> None:
        super().__init__(ring.name, ring.memory, ring.offsets, ring.size, words, PLAIN)
        self._library, self._index = library, ctypes.c_uint32()
        self._ring = _described(self, self._next, self._next)

    def pop(self, most: int) -> list[int]:
        """Consume at most so many entries and return their words."""
        ring = ctypes.byref(self._ring)
        count = self._library.xsk_ring_cons__peek(ring, most, ctypes.byref(self._index))
        if not count:
            return []
        found = self._read(self._index.value, count)
        self._library.xsk_ring_cons__release(ring, count)
        return found


class LibxdpProducer(ProducerRing):
    """Fill or TX ring."""

    def __init__(self, library: ctypes.CDLL, ring: ProducerRing, words: int) -> None:
        super().__init__(ring.name, ring.memory, ring.offsets, ring.size, words, PLAIN)
        self._library, self._index = library, ctypes.c_uint32()
        self._ring = _described(self, self._next, (self._next + self.room_left()) & 0xFFFFFFFF)

    def room_left(self) -> int:
        """Return how many entries fit, as the indices say: libxdp keeps the consumer's index ahead by the size."""
        return super().room()

    def room(self) -> int:
        """Return how many entries fit now."""
        return int(self._library.xsk_prod_nb_free(ctypes.byref(self._ring), self.size))

    def push(self, words: Sequence[int]) -> None:
        """Produce entries, of which there must be no more than `room` said."""
        ring, count = ctypes.byref(self._ring), len(words) // self._words
        self._library.xsk_ring_prod__reserve(ring, count, ctypes.byref(self._index))
        self._next = self._index.value
        self._write(words)
        self._library.xsk_ring_prod__submit(ring, count)
