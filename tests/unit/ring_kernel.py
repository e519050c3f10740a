"""The kernel's side of a socket's rings, on plain memory: receives frames, sends answers, completes them, or lies."""

from __future__ import annotations

from dataclasses import dataclass, field

from droplet_functions.barriers import PLAIN
from droplet_functions.counters import Counters
from droplet_functions.frames import Frames
from droplet_functions.meta import Answer, Meta, read_answer
from droplet_functions.rings import ADDRESS, DESCRIPTOR, ConsumerRing, ProducerRing, RingOffsets
from droplet_functions.xsk_queue import Queue, Rings, Wake

FRAME = 2048
HEADROOM = 256
"""XDP_PACKET_HEADROOM: where the kernel puts packets in frames."""


def _memory(size: int, words: int) -> tuple[memoryview, RingOffsets]:
    offsets = RingOffsets(0, 64, 128, 128 + size * words * 8)
    return memoryview(bytearray(offsets.length(size, words))), offsets


@dataclass
class ModelKernel:
    """One queue and the kernel that it talks to. What the kernel knows: `fill`, `sending`, `completed` addresses."""

    frames: int = 8
    ring: int = 8
    first: int = 0
    umem: memoryview = field(init=False)
    sent: list[Answer] = field(default_factory=list)
    sending: list[int] = field(default_factory=list)
    wakes: int = 0
    asked_to_receive: int = 0

    def __post_init__(self) -> None:
        self.umem = memoryview(bytearray((self.first + self.frames) * FRAME))
        shapes = {"fill": ADDRESS, "rx": DESCRIPTOR, "tx": DESCRIPTOR, "completion": ADDRESS}
        self.memory = {name: (*_memory(self.ring, words), self.ring, words, PLAIN) for name, words in shapes.items()}
        self.fill = ConsumerRing("fill", *self.memory["fill"])
        self.rx = ProducerRing("rx", *self.memory["rx"])
        self.tx = ConsumerRing("tx", *self.memory["tx"])
        self.completion = ProducerRing("completion", *self.memory["completion"])
        self.start_process()

    def start_process(self) -> None:
        """Let a process take the rings as they are, as one does after another has died."""
        self.counters = Counters()
        rings = Rings(
            ProducerRing("fill", *self.memory["fill"]),
            ConsumerRing("rx", *self.memory["rx"]),
            ProducerRing("tx", *self.memory["tx"]),
            ConsumerRing("completion", *self.memory["completion"]),
        )
        frames = Frames(self.first, self.frames, FRAME)
        self.queue = Queue(self.umem, frames, rings, FRAME, self.counters, Wake(self._woken, self._asked_to_receive))

    def _woken(self) -> None:
        self.wakes += 1

    def _asked_to_receive(self) -> None:
        self.asked_to_receive += 1

    def deliver(self, packet: bytes, meta: Meta, raw: bytes | None = None) -> bool:
        """Receive a packet into a frame of the fill ring; False when there is none, or no room in the RX ring."""
        if not self.rx.room() or not (found := self.fill.pop(1)):
            return False
        at = found[0] // FRAME * FRAME + HEADROOM
        frame = meta.pack(len(packet)) + packet if raw is None else raw
        self.umem[at : at + len(frame)] = frame
        self.rx.push([at, len(frame)])
        return True

    def send(self, most: int) -> None:
        """Send at most so many frames of the TX ring."""
        words = self.tx.pop(most)
        for address, length in zip(words[::2], words[1::2], strict=True):
            assert address // FRAME == (address + length - 1) // FRAME, "an answer crosses the end of its frame"
            self.sent.append(read_answer(self.umem[address : address + length].tobytes()))
            self.sending.append(address)

    def complete(self, most: int) -> None:
        """Give back at most so many frames that were sent."""
        count = min(most, len(self.sending), self.completion.room())
        self.completion.push(self.sending[:count])
        del self.sending[:count]

    def addresses(self) -> list[int]:
        """Return the addresses that the rings hold, or the kernel between them: a frame is in there once at most."""
        rings = [*self.fill.peek(), *self.queue.rings.rx.peek()[::2], *self.tx.peek()[::2]]
        return [*rings, *self.sending, *self.queue.rings.completion.peek()]
