"""UMEM and AF_XDP sockets of one process, a socket for each queue: made here, given away, and watched.

The descriptors here are copies: the kernel frees socket and memory when the process's are closed, too.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from agent.datapath.bpf import syscall as bpf
from agent.datapath.processes.messages import COMPLETION, FILL, RX, TX, Offer, OfferedQueue, Ring

FRAME_SIZE, RING = 4096, 2048
MOST_FRAMES = 8192
"""Frames of one process in all: as many packets as may be on their way (MOST_PENDING)."""
AF_XDP, SOL_XDP = 44, 283
_MMAP_OFFSETS, _UMEM_REG, _STATISTICS, _OPTIONS = 1, 4, 7, 8
_RINGS = {RX: 2, TX: 3, FILL: 5, COMPLETION: 6}
"""XDP_RX_RING and so on, in the order of struct xdp_mmap_offsets."""
_PAGES = {RX: 0, TX: 0x80000000, FILL: 0x100000000}
_ZERO_COPY_OPTION = 1
_SHARED_UMEM, _NEED_WAKEUP = 1, 8
"""Without a mode among these flags the kernel takes zero copy where the driver has it; that of veth has none."""
_WORDS = {RX: 2, TX: 2, FILL: 1}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
PATIENCE = 5.0
"""Seconds for the kernel to free a queue whose last socket was closed."""
_libc = ctypes.CDLL(None, use_errno=True)


def frames_of(queues: int) -> int:
    """Return the number of frames of each of so many queues."""
    return min(RING, MOST_FRAMES // queues)


class Progress(NamedTuple):
    """How far a process is with a queue: indices that it alone advances, and packets that wait or were dropped."""

    taken: int
    offered: int
    answered: int
    waiting: int
    dropped: int

    @property
    def own(self) -> tuple[int, int, int]:
        """The part that changes only if the process does something."""
        return self[:3]


class Queue:
    """One AF_XDP socket, bound to queue 0 of an interface, with the agent's view of its rings."""

    def __init__(self, ifindex: int, umem: Umem | None, shared: Queue | None) -> None:
        """Register a UMEM, or share that of another queue; OSError if the kernel refuses."""
        self._maps: dict[str, mmap.mmap] = {}
        self._socket = one = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            if umem is not None:
                umem.register(one)
            for option in _RINGS.values():
                one.setsockopt(SOL_XDP, option, RING)
            _bind(one, ifindex, shared.fileno() if shared is not None else None)
            raw = one.getsockopt(SOL_XDP, _MMAP_OFFSETS, 4 * 32)
            found = [Ring(RING, tuple(offsets)) for offsets in struct.iter_unpack("=4Q", raw)]
            self.places = dict(zip(_RINGS, found, strict=True))
            for name in _PAGES:
                self._map(name)
        except BaseException:
            self.close()
            raise

    def _map(self, name: str) -> None:
        length = self.places[name].offsets[2] + RING * _WORDS[name] * 8
        self._maps[name] = mmap.mmap(self._socket.fileno(), length, mmap.MAP_SHARED, offset=_PAGES[name])

    def _index(self, name: str, part: int) -> int:
        (value,) = struct.unpack_from("=I", self._maps[name], self.places[name].offsets[part])
        return int(value)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def progress(self) -> Progress:
        """Read how far the process is. It may have written anything there."""
        taken = self._index(RX, 1)
        waiting = (self._index(RX, 0) - taken) & 0xFFFFFFFF
        found = struct.unpack("=6Q", self._socket.getsockopt(SOL_XDP, _STATISTICS, 48))
        dropped = found[0] + found[3]
        return Progress(taken, self._index(FILL, 0), self._index(TX, 0), waiting, dropped)

    @property
    def zero_copy(self) -> bool:
        """Whether the driver writes into the UMEM itself."""
        (options,) = struct.unpack("=I", self._socket.getsockopt(SOL_XDP, _OPTIONS, 4))
        return bool(options & _ZERO_COPY_OPTION)

    def close(self) -> None:
        """Close the copies here."""
        for one in self._maps.values():
            one.close()
        self._maps.clear()
        self._socket.close()


class Umem:
    """Memory that nobody can shrink under the kernel."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.descriptor = os.memfd_create("umem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, length)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            self.close()
            raise

    def register(self, one: socket.socket) -> None:
        """Register it with a socket: the kernel holds its pages, so the mapping is needed no longer afterwards."""
        length = self._length
        with mmap.mmap(self.descriptor, length) as mapping:
            window = (ctypes.c_char * length).from_buffer(mapping)
            entry = struct.pack("=QQIIII", ctypes.addressof(window), length, FRAME_SIZE, 0, 0, 0)
            try:
                one.setsockopt(SOL_XDP, _UMEM_REG, entry)
            finally:
                del window

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Sockets:
    """A UMEM and the sockets that share it, one for each interface of a process."""

    def __init__(self, interfaces: Sequence[int], xskmap: int, lane: int) -> None:
        """Make all and put the sockets into the map, from `lane` on; OSError if the kernel refuses."""
        self._frames = frames_of(len(interfaces)) * len(interfaces)
        self._umem = Umem(FRAME_SIZE * self._frames)
        self._queues: list[Queue] = []
        try:
            for ifindex in interfaces:
                first = self._queues[0] if self._queues else None
                self._queues.append(Queue(ifindex, None if first else self._umem, first))
            for position, one in enumerate(self._queues):
                bpf.update(xskmap, struct.pack("=I", lane + position), struct.pack("=I", one.fileno()))
        except BaseException:
            self.close()
            raise

    def progress(self) -> tuple[Progress, ...]:
        """Read how far the process is with each queue."""
        return tuple(one.progress() for one in self._queues)

    @property
    def zero_copy(self) -> bool:
        """Whether the drivers write into the UMEM themselves."""
        return all(one.zero_copy for one in self._queues)

    def offer(self, function: str, longest: int) -> Offer:
        """Return what is said of the sockets to the process."""
        queues = tuple(OfferedQueue(one.zero_copy, one.places) for one in self._queues)
        return Offer(function, FRAME_SIZE, self._frames, longest, queues)

    @property
    def descriptors(self) -> list[int]:
        """What goes to the process: of the memory, and of each socket."""
        return [self._umem.descriptor, *(one.fileno() for one in self._queues)]

    def close(self) -> None:
        """Close the copies here."""
        for one in self._queues:
            one.close()
        self._queues.clear()
        self._umem.close()


def _bind(one: socket.socket, ifindex: int, shared: int | None) -> None:
    """Bind to queue 0. The kernel frees a queue some time after its last socket was closed: EBUSY until then.

    A socket that shares the UMEM of another one takes its mode and its need for wake-ups, too.
    """
    flags = _NEED_WAKEUP if shared is None else _SHARED_UMEM
    address = struct.pack("=HHIII", AF_XDP, flags, ifindex, 0, shared or 0)
    deadline = time.monotonic() + PATIENCE
    while _libc.bind(one.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY or time.monotonic() > deadline:
            raise OSError(number, f"bind AF_XDP: {os.strerror(number)}")
        time.sleep(0.01)
