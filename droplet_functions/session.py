"""A hand-over in use: maps UMEM and rings, wakes the kernel up, and lets go of everything at the end.

Owns the descriptors. The only module that maps memory or makes system calls on AF_XDP sockets.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
from collections.abc import Sequence

from droplet_functions import handover
from droplet_functions.barriers import Barriers
from droplet_functions.counters import Counters
from droplet_functions.errors import HandoverError
from droplet_functions.frames import SENT, Frames
from droplet_functions.handover import PAGE_OFFSETS, WORDS, Handover, QueueDescription
from droplet_functions.rings import ConsumerRing, ProducerRing
from droplet_functions.xsk_queue import Queue, Rings, Wake

AF_XDP = 44
_SO_DOMAIN = 39
MOST_WAKEUPS = 256
"""System calls for one batch at most. In copy mode one call sends 32 frames."""
_LATER = frozenset({errno.ENOBUFS, errno.EBUSY, errno.ENETDOWN, errno.ENXIO, errno.ENETUNREACH})
"""The kernel cannot send now: the frames stay in the TX ring."""


class Socket:
    """One queue's AF_XDP socket with its mappings."""

    def __init__(self, descriptor: int, description: QueueDescription, barriers: Barriers, counters: Counters) -> None:
        """Map the rings of a descriptor, which stays the caller's; HandoverError when that is impossible."""
        self._counters = counters
        self._maps: list[mmap.mmap] = []
        self._socket = _xdp_socket(descriptor, description.queue)
        self.rings: Rings | None = None
        try:
            self.rings = self._map_rings(description, barriers)
        except BaseException:
            self.close()
            raise

    def _map_rings(self, description: QueueDescription, barriers: Barriers) -> Rings:
        def memory(name: str) -> memoryview:
            place = description.rings[name]
            try:
                found = mmap.mmap(
                    self._socket.fileno(),
                    place.offsets.length(place.size, WORDS[name]),
                    mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0),
                    offset=PAGE_OFFSETS[name],
                )
            except (OSError, ValueError) as error:
                raise HandoverError(f"queue {description.queue}: the {name} ring cannot be mapped: {error}") from error
            self._maps.append(found)
            return memoryview(found)

        def producer(name: str) -> ProducerRing:
            size, offsets = description.rings[name]
            return ProducerRing(name, memory(name), offsets, size, WORDS[name], barriers)

        def consumer(name: str) -> ConsumerRing:
            size, offsets = description.rings[name]
            return ConsumerRing(name, memory(name), offsets, size, WORDS[name], barriers)

        return Rings(
            producer(handover.FILL), consumer(handover.RX), producer(handover.TX), consumer(handover.COMPLETION)
        )

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def receive(self) -> None:
        """Make a driver that has run out of frames look at the fill ring (zero copy)."""
        self._counters.wakeups += 1
        try:
            self._socket.recv(0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _LATER:
                raise

    def send(self) -> None:
        """Make the kernel send what is in the TX ring, if it waits to be asked."""
        assert self.rings is not None
        tx = self.rings.tx
        left = tx.pending
        for _ in range(MOST_WAKEUPS):
            if not left or not tx.needs_wakeup:
                return
            self._counters.wakeups += 1
            try:
                self._socket.send(b"", socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass  # it has sent as many as it does for one call, or has no memory
            except OSError as error:
                if error.errno not in _LATER:
                    raise
                return
            before, left = left, tx.pending
            if left == before:
                return

    def close(self) -> None:
        """Unmap the rings and close the socket."""
        if self.rings is not None:
            self.rings.release()
        for one in self._maps:
            with contextlib.suppress(BufferError):  # after an error while the rings were made
                one.close()
        self._socket.close()


def _xdp_socket(descriptor: int, queue: int) -> socket.socket:
    """Return another descriptor of an AF_XDP socket; HandoverError when it is of something else."""
    copy = os.dup(descriptor)
    try:
        found = socket.socket(AF_XDP, socket.SOCK_RAW, 0, copy)
    except OSError:
        os.close(copy)
    else:
        if found.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN) == AF_XDP:
            return found
        found.close()
    raise HandoverError(f"queue {queue}: the descriptor is no AF_XDP socket")


class Session:
    """Everything that one hand-over brought: queues to serve, and what they live on."""

    def __init__(self, offer: Handover, descriptors: Sequence[int], barriers: Barriers, counters: Counters) -> None:
        """Map what was handed over, and close the descriptors also when that fails (HandoverError)."""
        self._sockets: list[Socket] = []
        self._umem: mmap.mmap | None = None
        self._view = memoryview(b"")
        self.queues: dict[int, Queue] = {}
        """By the descriptor to wait for."""
        try:
            self._view = self._map_umem(offer, descriptors)
            for index, one in enumerate(offer.queues):
                self._add_queue(offer, index, Socket(descriptors[index + 1], one, barriers, counters), counters)
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _map_umem(self, offer: Handover, descriptors: Sequence[int]) -> memoryview:
        expected, size = 1 + len(offer.queues), offer.frame_size * offer.frame_count
        if len(descriptors) != expected:
            raise HandoverError(f"{len(descriptors)} descriptors for {len(offer.queues)} queues, expected {expected}")
        found = os.fstat(descriptors[0]).st_size
        if found != size:
            raise HandoverError(f"UMEM of {found} bytes, expected {offer.frame_count} frames of {offer.frame_size}")
        try:
            self._umem = mmap.mmap(descriptors[0], size, mmap.MAP_SHARED)
        except (OSError, ValueError) as error:
            raise HandoverError(f"the UMEM cannot be mapped: {error}") from error
        return memoryview(self._umem)

    def _add_queue(self, offer: Handover, index: int, made: Socket, counters: Counters) -> None:
        self._sockets.append(made)
        share = offer.frame_count // len(offer.queues)
        frames = Frames(index * share, share, offer.frame_size)
        assert made.rings is not None
        self.queues[made.fileno()] = Queue(
            self._view, frames, made.rings, offer.longest_packet, counters, Wake(made.send, made.receive)
        )

    def start(self) -> None:
        """Give the kernel frames to receive into."""
        for queue in self.queues.values():
            queue.reap()
            queue.refill()

    def shares(self, descriptors: Sequence[int]) -> bool:
        """Say whether any of these descriptors is of a socket that this session uses."""
        own = {os.fstat(one.fileno()).st_ino for one in self._sockets}
        return any(os.fstat(one).st_ino in own for one in descriptors[1:])

    @property
    def drained(self) -> bool:
        """Whether everything that arrived is answered, and every answer is sent."""
        return not any(
            queue.unsent or queue.rings.rx.pending or queue.frames.places.count(SENT) for queue in self.queues.values()
        )

    def events(self) -> dict[int, int]:
        """Return what to wait for by descriptor: packets, or room in the TX ring while answers wait for it."""
        return {
            descriptor: select.EPOLLOUT if queue.has_answers_waiting else select.EPOLLIN
            for descriptor, queue in self.queues.items()
        }

    def close(self) -> None:
        """Let go of everything. A memoryview that a handler kept keeps the UMEM mapped until it goes."""
        for queue in self.queues.values():
            queue.release()
        for one in self._sockets:
            one.close()
        self.queues.clear()
        self._sockets.clear()
        self._view.release()
        if self._umem is not None:
            with contextlib.suppress(BufferError):
                self._umem.close()
