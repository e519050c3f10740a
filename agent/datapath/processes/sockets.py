"""UMEM and AF_XDP socket of one pair: made here, given away, and watched for a process that takes nothing.

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
from typing import NamedTuple

from agent.datapath.bpf import syscall as bpf
from agent.datapath.processes.messages import COMPLETION, FILL, RX, TX, Offer, Ring

FRAME_SIZE, FRAMES, RING = 4096, 2048, 2048
AF_XDP, SOL_XDP = 44, 283
_MMAP_OFFSETS, _UMEM_REG, _STATISTICS, _OPTIONS = 1, 4, 7, 8
_RINGS = {RX: 2, TX: 3, FILL: 5, COMPLETION: 6}
"""XDP_RX_RING and so on, in the order of struct xdp_mmap_offsets."""
_PAGES = {RX: 0, TX: 0x80000000, FILL: 0x100000000}
_ZERO_COPY_OPTION, _NEED_WAKEUP = 1, 8
_WORDS = {RX: 2, TX: 2, FILL: 1}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
PATIENCE = 5.0
"""Seconds for the kernel to free a queue whose last socket was closed."""
_libc = ctypes.CDLL(None, use_errno=True)


class Progress(NamedTuple):
    """How far a process is: indices that it alone advances, and packets that wait for it or were dropped so far."""

    taken: int
    offered: int
    answered: int
    waiting: int
    dropped: int

    @property
    def own(self) -> tuple[int, int, int]:
        """The part that changes only if the process does something."""
        return self[:3]


class Sockets:
    """UMEM and the socket of queue 0 of an interface."""

    def __init__(self, far: int, xskmap: int, lane: int) -> None:
        """Make both and put the socket into the map; OSError if the kernel refuses."""
        self._maps: dict[str, mmap.mmap] = {}
        self._socket: socket.socket | None = None
        self._memory = os.memfd_create("umem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._memory, FRAME_SIZE * FRAMES)
            fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, _SEALS)
            self._socket = one = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._register(one)
            for option in _RINGS.values():
                one.setsockopt(SOL_XDP, option, RING)
            _bind(one, far)
            self._places = dict(zip(_RINGS, self._read_places(one), strict=True))
            for name in _PAGES:
                self._map(one, name)
            bpf.update(xskmap, struct.pack("=I", lane), struct.pack("=I", one.fileno()))
        except BaseException:
            self.close()
            raise

    def _register(self, one: socket.socket) -> None:
        """Register the UMEM: the kernel holds its pages, so the mapping is needed no longer afterwards."""
        length = FRAME_SIZE * FRAMES
        with mmap.mmap(self._memory, length) as mapping:
            window = (ctypes.c_char * length).from_buffer(mapping)
            one.setsockopt(SOL_XDP, _UMEM_REG, struct.pack("=QQIIII", ctypes.addressof(window), length, 4096, 0, 0, 0))
            del window

    def _read_places(self, one: socket.socket) -> list[Ring]:
        raw = one.getsockopt(SOL_XDP, _MMAP_OFFSETS, 4 * 32)
        return [Ring(RING, tuple(offsets)) for offsets in struct.iter_unpack("=4Q", raw)]

    def _map(self, one: socket.socket, name: str) -> None:
        length = self._places[name].offsets[2] + RING * _WORDS[name] * 8
        self._maps[name] = mmap.mmap(one.fileno(), length, mmap.MAP_SHARED, offset=_PAGES[name])

    def _index(self, name: str, part: int) -> int:
        (value,) = struct.unpack_from("=I", self._maps[name], self._places[name].offsets[part])
        return int(value)

    def progress(self) -> Progress:
        """Read how far the process is."""
        assert self._socket is not None
        taken = self._index(RX, 1)
        waiting = (self._index(RX, 0) - taken) & 0xFFFFFFFF
        found = struct.unpack("=6Q", self._socket.getsockopt(SOL_XDP, _STATISTICS, 48))
        dropped = found[0] + found[3]
        return Progress(taken, self._index(FILL, 0), self._index(TX, 0), waiting, dropped)

    @property
    def zero_copy(self) -> bool:
        """Whether the driver writes into the UMEM itself."""
        assert self._socket is not None
        (options,) = struct.unpack("=I", self._socket.getsockopt(SOL_XDP, _OPTIONS, 4))
        return bool(options & _ZERO_COPY_OPTION)

    def offer(self, function: str, longest: int) -> Offer:
        """Return what is said of the sockets to the process."""
        return Offer(function, FRAME_SIZE, FRAMES, longest, self.zero_copy, self._places)

    @property
    def descriptors(self) -> list[int]:
        """What goes to the process: of the memory, and of the socket."""
        assert self._socket is not None
        return [self._memory, self._socket.fileno()]

    def close(self) -> None:
        """Close the copies here."""
        for one in self._maps.values():
            one.close()
        self._maps.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


def _bind(one: socket.socket, ifindex: int) -> None:
    """Bind to queue 0. The kernel frees a queue some time after its last socket was closed: EBUSY until then."""
    address = struct.pack("=HHIII", AF_XDP, _NEED_WAKEUP, ifindex, 0, 0)
    deadline = time.monotonic() + PATIENCE
    while _libc.bind(one.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY or time.monotonic() > deadline:
            raise OSError(number, f"bind AF_XDP: {os.strerror(number)}")
        time.sleep(0.01)
