"""Maps by bpf(2): creates them, and reads and writes their entries, one by one or in batches.

Knows none of the project's maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from struct import Struct, iter_unpack, pack

from agent.datapath.bpf.object_calls import MapInfo, map_info
from agent.datapath.bpf.uapi import BPF_ANY, Command, MapType, address, buffer, call, object_name, try_call

BATCH = 16384
"""Entries moved by one call at most; larger batches gain nothing and hold the CPU longer."""


def create_map(
    map_type: MapType, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = ""
) -> int:
    """Create a map and return its descriptor; sizes in bytes."""
    attr = pack("=7I16s", map_type, key_size, value_size, max_entries, flags, 0, 0, object_name(name))
    return call(Command.MAP_CREATE, attr)[0]


def freeze_map(fd: int) -> None:
    """Freeze a map: user space can no longer change it; since Linux 5.2."""
    call(Command.MAP_FREEZE, pack("=I", fd))


def _element(command: Command, fd: int, key: object, value: object, flags: int = 0) -> None:
    call(command, pack("=I4xQQQ", fd, address(key), address(value), flags))


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value under `key`, `value_size` bytes of it, or None when there is none."""
    value = ctypes.create_string_buffer(value_size)
    try:
        _element(Command.MAP_LOOKUP_ELEM, fd, buffer(key), value)
    except FileNotFoundError:
        return None
    return value.raw


def lookup_percpu(fd: int, key: bytes, value_size: int) -> tuple[bytes, ...]:
    """Return one value for each possible CPU, empty when there is no such key."""
    stride = percpu_stride(value_size)
    raw = lookup(fd, key, stride * possible_cpus()) or b""
    return tuple(raw[at : at + value_size] for at in range(0, len(raw), stride))


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    """Create or replace one entry; EEXIST and ENOENT by `flags`, E2BIG when the map is full."""
    _element(Command.MAP_UPDATE_ELEM, fd, buffer(key), buffer(value), flags)


def delete(fd: int, key: bytes) -> None:
    """Remove one entry; ENOENT when there is none."""
    _element(Command.MAP_DELETE_ELEM, fd, buffer(key), None)


def next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """Return the key after `key`, the first one for None or a key that is gone, or None at the end."""
    following = ctypes.create_string_buffer(key_size)
    try:
        _element(Command.MAP_GET_NEXT_KEY, fd, None if key is None else buffer(key), following)
    except FileNotFoundError:
        return None
    return following.raw


def possible_cpus() -> int:
    """Return how many values an entry of a per-CPU map has."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(text.replace("-", ",").rsplit(",", 1)[-1]) + 1


def percpu_stride(value_size: int) -> int:
    """Return the distance in bytes between two CPUs' values: the size rounded up to 8."""
    return (value_size + 7) & ~7


# Batches

_BATCH_ATTR = Struct("=QQQQIIQQ")


def _batch(
    command: Command, fd: int, count: int, buffers: tuple[object, object, object, object], flags: int = 0
) -> tuple[int, int]:
    """Make one batch call; return how many entries it processed and the errno with which it stopped, or 0."""
    attr = buffer(_BATCH_ATTR.pack(*(address(one) for one in buffers), count, fd, flags, 0))
    _, number = try_call(command, attr)
    return _BATCH_ATTR.unpack(attr.raw)[4], number


def update_batch(fd: int, entries: Iterable[tuple[bytes, bytes]], flags: int = BPF_ANY) -> int:
    """Create or replace entries, `BATCH` in one call; return how many.

    The OSError of the first refused entry carries `done`, the number of entries written before it.
    """
    done = 0
    iterator = iter(entries)
    while chunk := list(islice(iterator, BATCH)):
        keys = buffer(b"".join(key for key, _ in chunk))
        values = buffer(b"".join(value for _, value in chunk))
        count, number = _batch(Command.MAP_UPDATE_BATCH, fd, len(chunk), (None, None, keys, values), flags)
        if number:
            raise _batch_error(Command.MAP_UPDATE_BATCH, number, done + _processed(count, len(chunk), number))
        done += len(chunk)
    return done


def delete_batch(fd: int, keys: Sequence[bytes]) -> int:
    """Remove entries; a key that is not there is skipped. Return how many were there."""
    removed = 0
    for first in range(0, len(keys), BATCH):
        removed += _delete_chunk(fd, keys[first : first + BATCH], removed)
    return removed


def _delete_chunk(fd: int, keys: Sequence[bytes], before: int) -> int:
    """Remove one chunk's entries: the kernel stops at each key that is not there, and goes on behind it."""
    packed, size = buffer(b"".join(keys)), len(keys[0])
    start, at, removed = address(packed), 0, 0
    while at < len(keys):
        count, number = _batch(Command.MAP_DELETE_BATCH, fd, len(keys) - at, (None, None, start + at * size, None))
        if number not in (0, errno.ENOENT):
            raise _batch_error(Command.MAP_DELETE_BATCH, number, before + removed)
        processed = count if number else len(keys) - at
        removed += processed
        at += processed + (1 if number else 0)
    return removed


def _processed(count: int, asked: int, number: int) -> int:
    """Return how many were processed: on EFAULT and EINVAL the kernel leaves `count` as it was asked."""
    return 0 if number in (errno.EFAULT, errno.EINVAL) and count == asked else count


def _batch_error(command: Command, number: int, done: int) -> OSError:
    error = OSError(number, f"bpf {command.name}: {os.strerror(number)} after {done} entries")
    error.done = done  # type: ignore[attr-defined]
    return error


def entries(fd: int, info: MapInfo | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield every entry of a hash, an LRU hash, an array or an LPM trie; per-CPU values come as one string.

    An entry that is changed meanwhile comes once or not at all, as with any walk through a living map.
    """
    info = info or map_info(fd)
    value_size = info.value_size
    if info.type in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY):
        value_size = percpu_stride(value_size) * possible_cpus()
    count, ended = min(BATCH, max(info.max_entries, 64)), False
    position: ctypes.Array[ctypes.c_char] | None = None
    while not ended:
        following = ctypes.create_string_buffer(max(4, info.key_size))
        keys = ctypes.create_string_buffer(count * info.key_size)
        values = ctypes.create_string_buffer(count * value_size)
        got, number = _batch(Command.MAP_LOOKUP_BATCH, fd, count, (position, following, keys, values))
        if number == errno.ENOSPC:  # one bucket holds more than asked for: ask for more from the same place
            count *= 2
            continue
        if number not in (0, errno.ENOENT):
            raise _batch_error(Command.MAP_LOOKUP_BATCH, number, 0)
        ended, position = number == errno.ENOENT, following
        yield from _pairs(keys, values, got, info.key_size, value_size)


def _pairs(
    keys: ctypes.Array[ctypes.c_char],
    values: ctypes.Array[ctypes.c_char],
    count: int,
    key_size: int,
    value_size: int,
) -> Iterator[tuple[bytes, bytes]]:
    if not count:
        return iter(())
    all_keys = (key for (key,) in iter_unpack(f"{key_size}s", memoryview(keys)[: count * key_size]))
    all_values = (value for (value,) in iter_unpack(f"{value_size}s", memoryview(values)[: count * value_size]))
    return zip(all_keys, all_values, strict=True)
