"""Runs a handler on a capture file: the same code as in the data plane, without an agent and without root."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from os import PathLike
from typing import NamedTuple

from droplet_functions import pcap
from droplet_functions.handlers import Handlers
from droplet_functions.meta import META_SIZE, Meta
from droplet_functions.packet import Packet
from droplet_functions.verdict import Verdict, VerdictCode

ROOM = 256
"""Bytes of room at either end of a replayed packet, as frames of the kernel have in front."""
_LEAVES = (VerdictCode.GO_ON, VerdictCode.SEND_BACK, VerdictCode.SEND_TO, VerdictCode.SEND)


class Replayed(NamedTuple):
    """A packet of a capture after the handler: `packet` as the handler left it, `before` as captured."""

    time_ns: int
    verdict: Verdict
    packet: bytes
    before: bytes


def replay(
    capture: str | PathLike[str], handlers: Handlers, *, write: str | PathLike[str] | None = None, meta: Meta
) -> Iterator[Replayed]:
    """Yield each packet of a capture with its verdict; CaptureError for a damaged file.

    `meta`: what the data plane would say of the packets. `write`: a pcap file of the packets that are not dropped or
    kept. A packet that was captured in part is replayed in part.
    """
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(pcap.Writer(write)) if write is not None else None
        for captured in pcap.read(capture):
            verdict, packet = _handle(captured.data, handlers, meta)
            if writer is not None and verdict.code in _LEAVES:
                writer.write(captured.time_ns, packet)
            yield Replayed(captured.time_ns, verdict, packet, captured.data)


def _handle(data: bytes, handlers: Handlers, meta: Meta) -> tuple[Verdict, bytes]:
    """Put a packet into a frame of its own, handle it, and return its verdict and what it has become."""
    start, end = ROOM, ROOM + len(data)
    memory = bytearray(end + ROOM)
    memory[start - META_SIZE : end] = meta.pack(len(data) & 0xFFFF) + data
    packet = Packet(memoryview(memory), 0, len(memory), len(data) + ROOM)
    packet.arrived(start - META_SIZE, start, end)
    handlers.handle((packet,))
    verdict = packet.verdict
    assert verdict is not None
    after = bytes(packet)
    packet.discard()
    return verdict, after
