"""Watches folders for new names: inotify(7) through libc, one descriptor in the event loop, no polling."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IN_CREATE, IN_MOVED_TO = 0x100, 0x80
IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
IN_ONLYDIR = 0x1000000
APPEARS = IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
LOST = IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED
"""After one of these events, names may have appeared without an event, or the folder is gone."""
READ = 1 << 16

_EVENT = struct.Struct("=iIII")
"""struct inotify_event { s32 wd; u32 mask; u32 cookie; u32 len; char name[] }."""
_libc = ctypes.CDLL(None, use_errno=True)


class Appeared(NamedTuple):
    """A name in a watched folder; empty if it is unknown, or if the folder may be gone."""

    folder: Path
    name: str


class Inotify:
    """One inotify descriptor. Make it readable in an event loop by `fileno`."""

    def __init__(self) -> None:
        self._descriptor = _called(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, Path] = {}

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor, and end all watches."""
        os.close(self._descriptor)

    def watch(self, folder: Path) -> bool:
        """Watch a folder, if it exists; it may already be watched. Return whether it is watched now."""
        try:
            number = _called(_libc.inotify_add_watch(self._descriptor, os.fsencode(folder), APPEARS))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
                return False
            raise
        self._folders[number] = folder
        return True

    def read(self) -> Iterator[Appeared]:
        """Yield the events that can be read now."""
        try:
            chunk = os.read(self._descriptor, READ)
        except BlockingIOError:
            return
        at = 0
        while at + _EVENT.size <= len(chunk):
            number, mask, _, length = _EVENT.unpack_from(chunk, at)
            name = chunk[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            folder = self._folders.get(number, Path())
            if mask & IN_IGNORED:
                self._folders.pop(number, None)
            yield Appeared(folder, "" if mask & LOST else os.fsdecode(name))


def _called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
