"""A packet in its frame: the bytes, what the data plane says of it, room to grow, and the answer.

Knows the layout of one frame, not where frames come from: a frame of UMEM, or of a replayed capture.
"""

from __future__ import annotations

from droplet_functions import meta as metadata
from droplet_functions.errors import NoRoomError, PacketGoneError
from droplet_functions.headers import Layers, parse
from droplet_functions.meta import ADDRESS_SIZE, META_SIZE, REASON_AT, VERDICT_AT, Meta
from droplet_functions.verdict import Verdict

ROOM_IN_FRONT = META_SIZE + ADDRESS_SIZE
"""Bytes of a frame in front of a packet that no packet may take: they hold the answer's metadata."""


class Packet:
    """A packet that waits for its verdict. `data` is its memory, not a copy; it is valid until the verdict is given.

    Set `verdict` in handlers of batches; a handler of single packets returns it.
    """

    __slots__ = ("_data", "_end", "_frame", "_limit", "_longest", "_memory", "_meta", "_meta_at", "_start", "verdict")

    def __init__(self, memory: memoryview, frame: int, size: int, longest: int) -> None:
        """Take the frame of `size` bytes at offset `frame`; the packet in it may have up to `longest` bytes."""
        self._memory, self._frame = memory, frame
        self._limit, self._longest = frame + size, longest
        self._meta_at = self._start = self._end = -1
        self._meta: bytes | None = None
        self._data: memoryview | None = None
        self.verdict: Verdict | None = None

    def arrived(self, meta_at: int, start: int, end: int) -> None:
        """Take over what the data plane put into the frame: metadata, and a packet from `start` to `end`."""
        self._meta_at, self._start, self._end = meta_at, start, end
        self.verdict = None

    @property
    def frame_number(self) -> int:
        """The number of the packet's frame in the UMEM."""
        return self._frame // (self._limit - self._frame)

    @property
    def data(self) -> memoryview:
        """The packet's bytes, to read and to write in place. Copy (`bytes(packet)`) what is to outlive the verdict."""
        if self._data is None:
            self._check()
            self._data = self._memory[self._start : self._end]
        return self._data

    @property
    def meta(self) -> Meta:
        """What the data plane says of the packet: point, direction, VNI, endpoint, drop reason."""
        self._check()
        if self._meta is not None:
            return metadata.unpack(self._meta)
        return metadata.unpack(self._memory, self._meta_at)

    def layers(self) -> Layers:
        """Read the headers; HeaderError when the packet is cut off in one of them. Read anew after a resize."""
        return parse(self.data)

    def __len__(self) -> int:
        """Return the packet's length in bytes."""
        self._check()
        return self._end - self._start

    def __bytes__(self) -> bytes:
        """Return a copy of the packet."""
        return self.data.tobytes()

    @property
    def headroom(self) -> int:
        """Bytes by which the packet can grow in front."""
        return max(0, min(self._start - self._frame - ROOM_IN_FRONT, self._longest - len(self)))

    @property
    def tailroom(self) -> int:
        """Bytes by which the packet can grow at its end."""
        return max(0, min(self._limit - self._end, self._longest - len(self)))

    def grow_head(self, count: int) -> memoryview:
        """Add bytes of zero in front of the packet and return `data` anew; NoRoomError beyond `headroom`."""
        self._resize("headroom", count, self.headroom)
        self._saved()
        self._start -= count
        self._memory[self._start : self._start + count] = bytes(count)
        return self.data

    def grow_tail(self, count: int) -> memoryview:
        """Add bytes of zero at the end of the packet and return `data` anew; NoRoomError beyond `tailroom`."""
        self._resize("tailroom", count, self.tailroom)
        self._saved()
        self._memory[self._end : self._end + count] = bytes(count)
        self._end += count
        return self.data

    def shrink_head(self, count: int) -> memoryview:
        """Remove bytes in front of the packet and return `data` anew; NoRoomError beyond the packet's length."""
        self._resize("packet", count, len(self))
        self._saved()
        self._start += count
        return self.data

    def shrink_tail(self, count: int) -> memoryview:
        """Remove bytes at the end of the packet and return `data` anew; NoRoomError beyond the packet's length."""
        self._resize("packet", count, len(self))
        self._saved()
        self._end -= count
        return self.data

    def _resize(self, what: str, count: int, most: int) -> None:
        self._check()
        if count < 0:
            raise ValueError(f"a packet is resized by {count} bytes: give a number from 0")
        if count > most:
            raise NoRoomError(
                f"{count} bytes are more than the {most} of the {what} (packet of {len(self)} bytes, at most "
                f"{self._longest}, in a frame of {self._limit - self._frame}): send a packet of its own, or drop it"
            )
        self._data = None

    def _saved(self) -> bytes:
        """Return the received metadata, kept apart from the frame from the first change of a length on."""
        if self._meta is None:
            self._meta = self._memory[self._meta_at : self._meta_at + META_SIZE].tobytes()
        return self._meta

    def _check(self) -> None:
        if self._start < 0:
            raise PacketGoneError(
                "the packet's verdict has been given, and its frame is used again: copy what you need before "
                "(bytes(packet))"
            )

    def seal(self, verdict: Verdict) -> tuple[int, int]:
        """Write the answer into the frame, and return its offset and length; the packet is gone then."""
        at, end = self._meta_at, self._end
        if self._meta is None and not verdict.address:
            self._memory[at + VERDICT_AT] = verdict.code
            self._memory[at + REASON_AT] = verdict.reason
            self._start = -1
            self._data = None
            return at, end - at
        head = metadata.answered(self._saved(), verdict, end - self._start)
        at = self._start - len(head)
        self._memory[at : self._start] = head
        self.discard()
        return at, end - at

    def discard(self) -> None:
        """Forget the packet: its frame is used again."""
        self._start = -1
        self._meta = self._data = None
