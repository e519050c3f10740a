"""What the far end does with a frame before it drops it: `programs/restore/entry/from_underlay.h`. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

WORDS = 192
RESTORE = struct.Struct(f"=i5I{WORDS}s")
"""struct restore { s32 moved; u32 length, place, count, first, turn; u64 words[24] }."""
NOTHING = bytes(RESTORE.size)
"""Frames are dropped as they are."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Puts frames back in order: `moved` is how many bytes a program puts in front of one, negative when it takes some.

    With `count` the IPv4 address at `place`, by bytes from the frame's start, becomes another one of those from `first`
    on each time. The inner header's sum does not follow, at which nobody on the way looks.
    """

    moved: int = 0
    place: int = 0
    count: int = 0
    first: IPv4Address | None = None

    def packed(self, frame: bytes) -> bytes:
        """Return the map's value for frames that begin as this one."""
        words = frame[:WORDS]
        return RESTORE.pack(self.moved, len(words) & ~7, self.place, self.count, int(self.first or 0), 0, words)
