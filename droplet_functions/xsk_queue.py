"""One queue: its four rings, its share of the frames, and how packets move between them.

Works on any memory and makes no system call: those of `Wake` are the caller's. Hot code: plain lists, no objects for
frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from droplet_functions.counters import Counters
from droplet_functions.frames import FREE, HELD, RECEIVING, SENT, WAITING, Frames
from droplet_functions.meta import EXTENT, META_SIZE, VERSION
from droplet_functions.packet import ROOM_IN_FRONT, Packet
from droplet_functions.rings import ConsumerRing, ProducerRing
from droplet_functions.verdict import VerdictCode

_KEEP = VerdictCode.KEEP


@dataclass(frozen=True, slots=True)
class Rings:
    """The rings of one socket."""

    fill: ProducerRing
    rx: ConsumerRing
    tx: ProducerRing
    completion: ConsumerRing

    def release(self) -> None:
        """Let go of their memory."""
        for ring in (self.fill, self.rx, self.tx, self.completion):
            ring.release()


class Wake(NamedTuple):
    """How the kernel is made to send what is in the TX ring, and to receive into the frames of the fill ring."""

    send: Callable[[], None]
    receive: Callable[[], None]


class Queue:
    """Moves packets from the RX ring to handlers and their answers to the TX ring."""

    def __init__(
        self,
        umem: memoryview,
        frames: Frames,
        rings: Rings,
        longest: int,
        counters: Counters,
        wake: Wake,
    ) -> None:
        self.frames, self.rings, self._counters, self._wake = frames, rings, counters, wake
        self._umem, self._longest = umem, longest
        self.receives = True
        """Whether the kernel is given frames to receive into."""
        self.kept = 0
        """Free frames that the kernel is not given to receive into: they are for packets of the function's own."""
        first, size = frames.first, frames.size
        self._packets = [Packet(umem, (first + index) * size, size, longest) for index in range(frames.count)]
        self._waiting: deque[tuple[int, int]] = deque()
        self._adopt()

    def _adopt(self) -> None:
        """Take over what an earlier process left in the rings: the kernel's frames stay the kernel's."""
        rings, frames = self.rings, self.frames
        strangers = frames.adopt(rings.fill.peek(), RECEIVING)
        strangers += frames.adopt(rings.rx.peek()[::2], RECEIVING)
        strangers += frames.adopt(rings.tx.peek()[::2], SENT)
        strangers += frames.adopt(rings.completion.peek(), SENT)
        self._counters.malformed += strangers

    @property
    def has_answers_waiting(self) -> bool:
        """Whether answers wait for room in the TX ring."""
        return bool(self._waiting)

    @property
    def unsent(self) -> bool:
        """Whether answers wait for the TX ring, or in it for the kernel."""
        return bool(self._waiting or self.rings.tx.pending)

    def reap(self) -> None:
        """Take back the frames that the kernel has sent."""
        addresses = self.rings.completion.pop(self.rings.completion.size)
        if addresses:
            self._counters.unexpected_completions += self.frames.take_back(addresses)

    def refill(self) -> None:
        """Give free frames to the kernel to receive into."""
        spare = len(self.frames.free) - self.kept
        if self.receives and spare > 0 and (addresses := self.frames.take_free(min(spare, self.rings.fill.room()))):
            self.rings.fill.push(addresses)
            if self.rings.fill.needs_wakeup:
                self._wake.receive()

    def receive(self, most: int) -> list[Packet]:
        """Return the next packets, at most so many entries of the RX ring; unusable entries are counted and skipped."""
        words = self.rings.rx.pop(most)
        found: list[Packet] = []
        frames, umem, packets = self.frames, self._umem, self._packets
        places, first, count, size = frames.places, frames.first, frames.count, frames.size
        shift, inside, unpack = size.bit_length() - 1, size - 1, EXTENT.unpack_from
        for address, second in zip(islice(words, 0, None, 2), islice(words, 1, None, 2), strict=True):
            index = (address >> shift) - first
            if not 0 <= index < count or places[index] != RECEIVING:
                self._counters.malformed += 1  # of no frame that the kernel was to fill: no frame moves
                continue
            at, length = address & inside, second
            if META_SIZE <= length <= size - at:  # options above the length's 32 bits make it too long
                version, offset, packet_length = unpack(umem, address)
                usable = offset >= META_SIZE and at + offset >= ROOM_IN_FRONT
                if version == VERSION and usable and offset + packet_length == length:
                    places[index] = HELD
                    packet = packets[index]
                    packet.arrived(address, address + offset, address + length)
                    found.append(packet)
                    continue
            self._counters.malformed += 1
            frames.put(first + index, FREE)
        self._counters.received += len(found)
        return found

    def answer(self, packets: Sequence[Packet]) -> None:
        """Send the answers of packets that all have their verdicts, and take back the frames of those that are kept."""
        frames, tally = self.frames, [0] * 256
        shift, first, places = frames.size.bit_length() - 1, frames.first, frames.places
        room = 0 if self._waiting else self.rings.tx.room()
        words: list[int] = []
        for packet in packets:
            verdict = packet.verdict
            if verdict is None:
                raise ValueError("a packet without a verdict cannot be answered")
            tally[verdict.code] += 1
            if verdict.code is _KEEP:
                frames.put(packet.frame_number, FREE)
                packet.discard()
                continue
            address, length = packet.seal(verdict)
            if room > 0:
                room -= 1
                places[(address >> shift) - first] = SENT
                words += (address, length)
            else:
                places[(address >> shift) - first] = WAITING
                self._waiting.append((address, length))
        if words:
            self.rings.tx.push(words)
        self._count(tally)
        if self._waiting:
            self._counters.ring_full += 1
        if words:
            self._wake.send()

    def originate(self, head: bytes, packet: bytes | bytearray | memoryview) -> bool:
        """Send a packet of the function's own behind its metadata; False if no frame is free or it is too long."""
        self.reap()
        length = len(head) + len(packet)
        if not self.frames.free or len(packet) > self._longest or length > self.frames.size:
            return False
        number = self.frames.free.pop()
        address = number * self.frames.size
        self._umem[address : address + length] = head + bytes(packet)
        self.frames.put(number, WAITING)
        self._waiting.append((address, length))
        self._counters.originated += 1
        self.flush()
        return True

    def _count(self, tally: list[int]) -> None:
        counters = self._counters
        counters.go_on += tally[VerdictCode.GO_ON]
        counters.drop += tally[VerdictCode.DROP]
        counters.send_back += tally[VerdictCode.SEND_BACK]
        counters.send_to += tally[VerdictCode.SEND_TO]
        counters.send += tally[VerdictCode.SEND]
        counters.keep += tally[VerdictCode.KEEP]

    def flush(self) -> None:
        """Put answers that wait into the TX ring as far as there is room, and make the kernel send what is there."""
        room = self.rings.tx.room() if self._waiting else 0
        words: list[int] = []
        while self._waiting and room:
            entry = self._waiting.popleft()
            self.frames.put(self.frames.number_of(entry[0]), SENT)
            words += entry
            room -= 1
        if words:
            self.rings.tx.push(words)
        if words or self.rings.tx.pending:
            self._wake.send()

    def release(self) -> None:
        """Let go of all memory: packets become invalid."""
        for packet in self._packets:
            packet.discard()
        self.rings.release()
