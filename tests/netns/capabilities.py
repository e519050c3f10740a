"""Gives up a capability of this thread for a while: capget(2), capset(2), linux/capability.h."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager

CAP_NET_ADMIN = 12
VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)
_SETS = struct.Struct("=6I")
"""Effective, permitted and inheritable, for the lower 32 capabilities and then for the upper ones."""


@contextmanager
def without_capability(number: int) -> Iterator[None]:
    header = ctypes.create_string_buffer(struct.pack("=Ii", VERSION_3, 0), 8)
    before = ctypes.create_string_buffer(_SETS.size)
    _call("capget", header, before)
    effective, *rest = _SETS.unpack(before.raw)
    _call("capset", header, ctypes.create_string_buffer(_SETS.pack(effective & ~(1 << number), *rest), _SETS.size))
    try:
        yield
    finally:
        _call("capset", header, before)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
