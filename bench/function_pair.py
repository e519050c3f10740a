"""A veth pair for a function in a process, as an agent makes it: sockets on `far`, the data plane's programs on `near`.

For benchmarks and tests. Owns namespace, programs, UMEM and sockets. `Listener` hands them over as an agent does.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from agent.datapath.bpf import syscall as bpf
from bench.wires import attach_xdp, command, ethtool
from controller_sim.lab.namespaces import call_in
from droplet_functions import handover
from droplet_functions.handover import Handover, Message, QueueDescription, RingPlace
from droplet_functions.rings import RingOffsets

NEAR, FAR = "near", "far"
AF_XDP, SOL_XDP = 44, 283
_MMAP_OFFSETS, _UMEM_REG, _STATISTICS = 1, 4, 7
_RING_OPTIONS = {handover.RX: 2, handover.TX: 3, handover.FILL: 5, handover.COMPLETION: 6}
"""XDP_RX_RING and so on, in the order of struct xdp_mmap_offsets."""
_SHARED_UMEM, _COPY, _NEED_WAKEUP = 1, 2, 8
_REDIRECT, _REDIRECT_MAP = 23, 51
PATIENCE = 60.0
"""Seconds for what the kernel, or a process, does a little later."""
_libc = ctypes.CDLL(None, use_errno=True)


class Sizes(NamedTuple):
    """How much a hand-over holds."""

    queues: int = 1
    frame_size: int = 4096
    frames: int = 1024
    ring: int = 1024
    longest: int = 1500


class Statistics(NamedTuple):
    """struct xdp_statistics: why packets did not come, or answers did not go."""

    rx_dropped: int
    rx_invalid_descs: int
    tx_invalid_descs: int
    rx_ring_full: int
    rx_fill_ring_empty_descs: int
    tx_ring_empty_descs: int


def code(*instructions: tuple[int, int, int, int]) -> bytes:
    """Return a program from (operation, registers, offset, value) of each instruction."""
    return b"".join(struct.pack("=BBhi", *one) for one in instructions)


def returning(verdict: int) -> bytes:
    """Return a program that gives every frame this verdict."""
    return code((0xB7, 0, 0, verdict), (0x95, 0, 0, 0))


def redirecting(ifindex: int) -> bytes:
    """Return a program that redirects every frame to an interface."""
    return code((0xB7, 1, 0, ifindex), (0xB7, 2, 0, 0), (0x85, 0, 0, _REDIRECT), (0x95, 0, 0, 0))


def redirecting_to_sockets(xskmap: int) -> bytes:
    """Return a program that redirects every frame to the socket of its queue, or drops it where there is none."""
    return code(
        *((0x61, 0x12, 16, 0), (0x18, 0x11, 0, xskmap), (0, 0, 0, 0), (0xB7, 3, 0, 1)),
        *((0x85, 0, 0, _REDIRECT_MAP), (0x95, 0, 0, 0)),
    )


class Pair:
    """The veth pair in a namespace of its own, with an XSKMAP behind `far`. `near_verdict` is what `near` does."""

    def __init__(self, namespace: str, queues: int = 1, mtu: int = 1600, near_verdict: int = 2) -> None:
        self.namespace = namespace
        self._queues, self._mtu, self._near_verdict = queues, mtu, near_verdict
        self._stack = ExitStack()
        self.xskmap = self.near = self.far = -1

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            command("ip", "netns", "add", self.namespace)
            stack.callback(command, "ip", "netns", "delete", self.namespace)
            call_in(self.namespace, _no_ipv6)
            for line in self._commands():
                command("ip", "-n", self.namespace, *line.split())
            self.xskmap = bpf.create_map(bpf.MapType.XSKMAP, 4, 4, self._queues, name="sockets")
            stack.callback(os.close, self.xskmap)
            programs = {NEAR: returning(self._near_verdict), FAR: redirecting_to_sockets(self.xskmap)}
            for name, code in programs.items():
                program = bpf.load_program(code, flags=bpf.BPF_F_XDP_HAS_FRAGS, name=name)
                stack.callback(os.close, program)
                attach_xdp(self.namespace, name, program)
            self.near, self.far = (call_in(self.namespace, lambda n=n: socket.if_nametoindex(n)) for n in (NEAR, FAR))  # type: ignore[misc]
            for name in (NEAR, FAR):
                ethtool(self.namespace, "-K", name, "tx", "off")
            self._stack = stack.pop_all()
        return self

    def _commands(self) -> tuple[str, ...]:
        lanes = f"numrxqueues {self._queues} numtxqueues {self._queues} mtu {self._mtu}"
        return (
            f"link add name {NEAR} {lanes} type veth peer name {FAR} {lanes}",
            f"link set {NEAR} up",
            f"link set {FAR} up",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _no_ipv6() -> None:
    """Keep the kernel's own packets away."""
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1\n", encoding="ascii")


class Sockets:
    """UMEM and one socket for each queue of a pair. A socket leaves its queue once all its descriptors are closed."""

    def __init__(self, pair: Pair, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or Sizes()
        self.memory = os.memfd_create("umem", os.MFD_CLOEXEC)
        self.sockets: list[socket.socket] = []
        try:
            os.ftruncate(self.memory, self.sizes.frame_size * self.sizes.frames)
            call_in(pair.namespace, lambda: self._build(pair))
        except BaseException:
            self.close()
            raise

    def _build(self, pair: Pair) -> None:
        for queue in range(self.sizes.queues):
            one = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self.sockets.append(one)
            if not queue:
                self._register(one)
            for option in _RING_OPTIONS.values():
                one.setsockopt(SOL_XDP, option, self.sizes.ring)
            flags, first = (_SHARED_UMEM, self.sockets[0].fileno()) if queue else (_COPY | _NEED_WAKEUP, 0)
            _bind(one, struct.pack("=HHIII", AF_XDP, flags, pair.far, queue, first))
            bpf.update(pair.xskmap, struct.pack("=I", queue), struct.pack("=I", one.fileno()))

    def _register(self, one: socket.socket) -> None:
        """Register the UMEM: the kernel pins its pages, so the mapping is needed no longer afterwards."""
        length = self.sizes.frame_size * self.sizes.frames
        with mmap.mmap(self.memory, length) as mapping:
            window = (ctypes.c_char * length).from_buffer(mapping)
            registration = struct.pack("=QQIIII", ctypes.addressof(window), length, self.sizes.frame_size, 0, 0, 0)
            one.setsockopt(SOL_XDP, _UMEM_REG, registration)
            del window

    def offer(self, name: str) -> Handover:
        """Return the description of the hand-over."""
        queues = tuple(
            QueueDescription(queue, False, dict(zip(_RING_OPTIONS, self._places(one), strict=True)))
            for queue, one in enumerate(self.sockets)
        )
        return Handover(name, self.sizes.frame_size, self.sizes.frames, self.sizes.longest, queues)

    def _places(self, one: socket.socket) -> Iterator[RingPlace]:
        raw = one.getsockopt(SOL_XDP, _MMAP_OFFSETS, 4 * 32)
        return (RingPlace(self.sizes.ring, RingOffsets(*offsets)) for offsets in struct.iter_unpack("=4Q", raw))

    @property
    def descriptors(self) -> list[int]:
        """What goes beside the description."""
        return [self.memory, *(one.fileno() for one in self.sockets)]

    def statistics(self, queue: int = 0) -> Statistics:
        """Return what the kernel has counted for a queue's socket."""
        raw = self.sockets[queue].getsockopt(SOL_XDP, _STATISTICS, 48)
        return Statistics(*struct.unpack("=6Q", raw))

    def close(self) -> None:
        """Close this side's descriptors."""
        for one in self.sockets:
            one.close()
        self.sockets.clear()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


def _bind(one: socket.socket, address: bytes) -> None:
    """Bind a socket to its queue. The kernel frees a queue some time after the last socket on it was closed."""
    deadline = time.monotonic() + PATIENCE
    while _libc.bind(one.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY or time.monotonic() > deadline:
            raise OSError(number, f"bind AF_XDP: {os.strerror(number)}")
        time.sleep(0.01)


class Listener:
    """The agent's end of hand-overs: one process at a time."""

    def __init__(self, path: Path, timeout: float = PATIENCE) -> None:
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.settimeout(timeout)
        self._timeout = timeout
        self._connection: socket.socket | None = None

    def accept(self) -> dict[str, Any]:
        """Wait for a process and return its hello."""
        self.hang_up()
        self._connection = self._listening.accept()[0]
        self._connection.settimeout(self._timeout)
        return self.heard()

    def heard(self) -> dict[str, Any]:
        """Wait for a message of the process and return it; an empty one when the process has ended."""
        raw = self._connected.recv(1 << 16)
        message: dict[str, Any] = json.loads(raw) if raw else {}
        return message

    def say(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message."""
        socket.send_fds(self._connected, [handover.encode(message)], list(descriptors))

    def serve(self, name: str, sockets: Sockets) -> None:
        """Accept a process, hand over the sockets, and wait until it is ready."""
        self.accept()
        self.say(sockets.offer(name), sockets.descriptors)
        answer = self.heard()
        if answer.get("type") != "ready":
            raise RuntimeError(f"the process answered {answer}")

    @property
    def _connected(self) -> socket.socket:
        if self._connection is None:
            raise RuntimeError("no process has connected")
        return self._connection

    def hang_up(self) -> None:
        """End the connection, as an agent that ends."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Listen no more."""
        self.hang_up()
        self._listening.close()


@contextmanager
def listening(path: Path) -> Iterator[Listener]:
    """Listen at a path."""
    listener = Listener(path)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)
