"""Limits of the maps that a user's program may have. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.datapath.bpf.uapi import BPF_F_NO_PREALLOC, MapType
from agent.datapath.functions.refusals import CheckError
from agent.datapath.functions.user_program import CONFIGURATION, UserMap

MOST_MAPS = 16
MOST_BYTES = 64 << 20
"""Bytes that all maps of one function may use when they are full, the copies of per-CPU values included."""
MOST_KEY, MOST_VALUE = 256, 4096
ENTRY_OVERHEAD = 64
"""Bytes that the kernel uses for an entry of a hash or a trie beside its key and value, about."""

TYPES = {
    MapType.HASH: "hash",
    MapType.ARRAY: "array",
    MapType.PERCPU_HASH: "percpu_hash",
    MapType.PERCPU_ARRAY: "percpu_array",
    MapType.LRU_HASH: "lru_hash",
    MapType.LPM_TRIE: "lpm_trie",
}
"""The types of maps that functions may have, with bcc's names for them."""
_FLAGS = {MapType.HASH: BPF_F_NO_PREALLOC, MapType.PERCPU_HASH: BPF_F_NO_PREALLOC, MapType.LPM_TRIE: BPF_F_NO_PREALLOC}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


def check_maps(maps: Iterable[UserMap], cpus: int) -> None:
    """Raise CheckError for the first map that functions may not have; `cpus` is the number of possible CPUs."""
    maps = tuple(maps)
    if len(maps) > MOST_MAPS:
        raise CheckError(f"the program has {len(maps)} maps, the limit is {MOST_MAPS}: put several values into one")
    names: set[str] = set()
    for one in maps:
        _check(one)
        if one.name in names:
            raise CheckError(f"two maps have the name {one.name}: rename one")
        names.add(one.name)
    total = bytes_of_all(maps, cpus)
    if total > MOST_BYTES:
        largest = max(maps, key=lambda one: bytes_of(one, cpus))
        raise CheckError(
            f"the maps need {total >> 20} MiB when they are full, the limit is {MOST_BYTES >> 20} MiB: reduce the "
            f"entries of {largest.name} ({largest.max_entries})"
        )


def bytes_of_all(maps: Iterable[UserMap], cpus: int) -> int:
    """Return how many bytes the maps of a program use when they are full, about."""
    return sum(bytes_of(one, cpus) for one in maps)


def bytes_of(one: UserMap, cpus: int) -> int:
    """Return how many bytes a map uses when it is full, about."""
    value = -(-one.value_size // 8) * 8
    if one.type in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY):
        value *= cpus
    key = 0 if one.type in (MapType.ARRAY, MapType.PERCPU_ARRAY) else -(-one.key_size // 8) * 8 + ENTRY_OVERHEAD
    return one.max_entries * (key + value)


def _check(one: UserMap) -> None:
    if not _NAME.match(one.name) or one.name == CONFIGURATION:
        raise CheckError(f"a map has the name {one.name[:64]!r}, which is not available: rename it")
    if one.type not in TYPES:
        raise CheckError(f"the map {one.name} has type {one.type}; functions may have {', '.join(TYPES.values())}")
    if not (0 < one.key_size <= MOST_KEY and 0 < one.value_size <= MOST_VALUE and one.max_entries > 0):
        raise CheckError(
            f"the map {one.name} has {one.max_entries} entries with keys of {one.key_size} and values of "
            f"{one.value_size} bytes: keys have 1 to {MOST_KEY}, values 1 to {MOST_VALUE} bytes, and there is an entry"
        )
    if one.type in (MapType.ARRAY, MapType.PERCPU_ARRAY) and one.key_size != 4:
        raise CheckError(f"the map {one.name} is an array with keys of {one.key_size} bytes: use u32 as its key")
    if one.flags & ~_FLAGS.get(MapType(one.type), 0):
        raise CheckError(f"the map {one.name} has flags {one.flags:#x}, which are not available: remove them")
