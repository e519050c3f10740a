"""Which of a queue's frames is where: every frame is in exactly one place at any time.

Free, in the kernel's hands to receive into, held by the handler, waiting for the TX ring, or sent. A move asks first
whether the frame is where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable

FREE, RECEIVING, HELD, WAITING, SENT = range(5)
PLACES = ("free", "receiving", "held", "waiting", "sent")


class Frames:
    """The places of `count` frames of `size` bytes (a power of two), from number `first` of the UMEM on."""

    def __init__(self, first: int, count: int, size: int) -> None:
        self.first, self.count, self.size = first, count, size
        self._shift = size.bit_length() - 1
        self.places = bytearray(count)
        self.free = list(range(first + count - 1, first - 1, -1))
        """Numbers of free frames; the last ones are used first, as they are in the processor's caches."""

    def number_of(self, address: int) -> int:
        """Return the number of the frame that an address of the UMEM lies in."""
        return address >> self._shift

    def is_in(self, number: int, place: int) -> bool:
        """Say whether a frame is one of these, and in that place."""
        index = number - self.first
        return 0 <= index < self.count and self.places[index] == place

    def put(self, number: int, place: int) -> None:
        """Note where one of these frames is now; the caller has asked `is_in`."""
        self.places[number - self.first] = place
        if place == FREE:
            self.free.append(number)

    def take_free(self, most: int) -> list[int]:
        """Give at most so many free frames to the kernel, and return the addresses at which they begin."""
        if not most or not self.free:
            return []
        numbers = self.free[-most:]
        del self.free[-most:]
        first, places, shift = self.first, self.places, self._shift
        for number in numbers:
            places[number - first] = RECEIVING
        return [number << shift for number in numbers]

    def take_back(self, addresses: Iterable[int]) -> int:
        """Free the frames that the kernel has sent; return how many addresses were of frames that had not been sent."""
        first, count, shift, places, free, wrong = self.first, self.count, self._shift, self.places, self.free, 0
        for address in addresses:
            number = address >> shift
            index = number - first
            if 0 <= index < count and places[index] == SENT:
                places[index] = FREE
                free.append(number)
            else:
                wrong += 1
        return wrong

    def adopt(self, addresses: Iterable[int], place: int) -> int:
        """Note where an earlier process left frames; return how many addresses were of no free frame of these.

        For the start, before the first frame moves.
        """
        wrong = 0
        for address in addresses:
            number = self.number_of(address)
            if self.is_in(number, FREE):
                self.places[number - self.first] = place
            else:
                wrong += 1
        self.free = [number for number in self.free if self.is_in(number, FREE)]
        return wrong

    def census(self) -> dict[str, int]:
        """Return how many frames are in each place."""
        return {name: self.places.count(place) for place, name in enumerate(PLACES)}
