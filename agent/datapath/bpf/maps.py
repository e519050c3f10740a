"""The BPF maps: creates or opens their pins, verifies their layout, and reads and writes entries.

Owns descriptors of pinned maps. A pin whose layout differs from that of the compiled programs is never used, and never
removed automatically: the error says how. This module does not interpret the bytes, with one exception: in an array,
which has every entry from the start, a value of zeros means absence.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from agent.core.model.map_layout import (
    GENERATION_OF,
    MAX_LOCAL_DROPLETS,
    STAGE_POINTS,
    STAGE_REASONS,
    STAGE_SLOTS,
    MapName,
)
from agent.core.plan.remedies import Step
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import MapDefinition
from agent.datapath.bpf.generations import Generations
from agent.datapath.bpf.pins import make_folder
from agent.errors import kernel_step

FEW = 8
"""Up to this many entries are written one by one: cheaper than a batch, and each has its own result."""
MANY = 10_000
"""From this many entries on, reading the whole map is faster than reading entries one by one."""

NONE_LEFT: Mapping[str, int] = {}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MapSizes:
    """How many entries each map may hold. `outcomes` has room for reasons that later programs add."""

    endpoints: int = 2_000_000
    interfaces: int = 8192
    networks: int = 65536
    vpcs: int = 65536
    droplets: int = 65536
    next_hops: int = 65536
    local_droplets: int = MAX_LOCAL_DROPLETS
    direct: int = 65536
    generations: int = len(GENERATION_OF)
    path_caches: int = 1
    hop_caches: int = 1
    slot_caches: int = 1
    detours: int = 16384
    fragments: int = 16384
    icmp_ratelimit: int = 4096
    outcomes: int = 128
    endpoint_counters: int = 8192
    programs: int = 32
    tc_programs: int = 32
    endpoint_stages: int = 8192
    vpc_stages: int = 65536
    host_stages: int = 1
    stage_programs: int = STAGE_POINTS * STAGE_SLOTS
    tc_stage_programs: int = STAGE_POINTS * STAGE_SLOTS
    function_counters: int = STAGE_POINTS * STAGE_SLOTS
    function_reasons: int = STAGE_POINTS * STAGE_SLOTS * STAGE_REASONS
    function_processes: int = STAGE_POINTS * STAGE_SLOTS
    frame_states: int = 1
    scratches: int = 1
    kernel_layouts: int = 1
    watched: int = 256
    failures: int = 1024

    def of(self, name: MapName) -> int:
        """Return the size of one map."""
        return int(getattr(self, name.value))


class LayoutMismatchError(OSError):
    """A pinned map's layout differs from that of the programs: they must not be used together."""

    def __init__(self, path: Path, found: bpf.MapInfo, wanted: MapDefinition) -> None:
        super().__init__(
            errno.EINVAL,
            f"the pinned map has type {found.type}, key {found.key_size} and value {found.value_size} bytes, flags "
            f"{found.flags:#x}; the programs need type {wanted.type}, {wanted.key_size}, {wanted.value_size} bytes, "
            f"{wanted.flags:#x}. Stop the agent, remove its pins (rm -r of the folder above maps) and start it",
            str(path),
        )


class Refused(NamedTuple):
    """Keys that the kernel refused, and the errno."""

    errno: int
    keys: tuple[bytes, ...]


class Map:
    """One open map."""

    def __init__(self, name: MapName, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.info = bpf.map_info(descriptor)
        self.changed: Callable[[], None] = lambda: None
        """Called after every change: programs may hold copies of entries."""
        self._absent = bytes(self.info.value_size) if self.info.type == bpf.MapType.ARRAY else None

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> list[Refused]:
        """Create or replace entries; return those that the kernel refused. All others are written."""
        try:
            return self._put(entries)
        finally:
            self.changed()

    def _put(self, entries: Sequence[tuple[bytes, bytes]]) -> list[Refused]:
        done = 0
        if len(entries) > FEW:
            try:
                bpf.update_batch(self.descriptor, entries)
            except OSError as error:
                # A full map can still replace existing entries: write the rest one by one.
                done = int(getattr(error, "done", 0))
                log.debug("batch_update_refused", map=self.name, errno=error.errno, done=done)
            else:
                return []
        return self._put_singly(entries[done:])

    def _put_singly(self, entries: Iterable[tuple[bytes, bytes]]) -> list[Refused]:
        refused: dict[int, list[bytes]] = {}
        for key, value in entries:
            try:
                bpf.update(self.descriptor, key, value)
            except OSError as error:
                refused.setdefault(error.errno or errno.EIO, []).append(key)
        return _as_refused(refused)

    def delete(self, keys: Sequence[bytes]) -> list[Refused]:
        """Remove entries; a missing one is not an error. Return the keys that the kernel refused to remove."""
        try:
            return self._delete(keys)
        finally:
            self.changed()

    def _delete(self, keys: Sequence[bytes]) -> list[Refused]:
        if self._absent is not None:
            return self._clear(keys, self._absent)
        if len(keys) > FEW:
            try:
                bpf.delete_batch(self.descriptor, keys)
            except OSError as error:
                log.debug("batch_delete_refused", map=self.name, errno=error.errno)
            else:
                return []
        refused: dict[int, list[bytes]] = {}
        for key in keys:
            try:
                bpf.delete(self.descriptor, key)
            except FileNotFoundError:
                continue
            except OSError as error:
                refused.setdefault(error.errno or errno.EIO, []).append(key)
        return _as_refused(refused)

    def _clear(self, keys: Iterable[bytes], absent: bytes) -> list[Refused]:
        """Write zeros to an array's entries. An index beyond its end (E2BIG) counts as absent."""
        return [one for one in self._put([(key, absent) for key in keys]) if one.errno != errno.E2BIG]

    def dump(self) -> dict[bytes, bytes]:
        """Return all entries; OSError when they could not all be read."""
        return {key: value for key, value in bpf.entries(self.descriptor, self.info) if value != self._absent}

    def find(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the existing entries of some keys; OSError if they could not all be read."""
        if self.info.type == bpf.MapType.LPM_TRIE or len(keys) > MANY:
            return {key: value for key, value in self.dump().items() if key in keys}
        found = ((key, self.lookup(key)) for key in keys)
        return {key: value for key, value in found if value is not None and value != self._absent}

    def lookup(self, key: bytes) -> bytes | None:
        """Return one value, None if there is none; an LPM trie returns that of the longest prefix."""
        return bpf.lookup(self.descriptor, key, self.info.value_size)

    def lookup_percpu(self, key: bytes) -> tuple[bytes, ...]:
        """Return one value for each possible CPU of a per-CPU map."""
        return bpf.lookup_percpu(self.descriptor, key, self.info.value_size)

    def close(self) -> None:
        """Close the descriptor; the pin stays."""
        os.close(self.descriptor)


def _as_refused(refused: Mapping[int, Sequence[bytes]]) -> list[Refused]:
    return [Refused(number, tuple(keys)) for number, keys in refused.items()]


def open_maps(
    folder: Path, definitions: Iterable[MapDefinition], sizes: MapSizes, left: Mapping[str, int] = NONE_LEFT
) -> dict[MapName, Map]:
    """Open the pinned maps, or create and pin missing ones; `folder` is in a bpf file system.

    `left` are the ids of maps without a pin that our attached programs work on, by the kernel's names for them (15
    characters): those are pinned again, with what they hold.
    Raises LayoutMismatchError for a pin of another layout, OSError when the kernel refuses to create one.
    """
    make_folder(folder)
    opened: dict[MapName, Map] = {}
    try:
        for definition in definitions:
            name = MapName(definition.name)
            size = max(sizes.of(name), definition.max_entries)
            opened[name] = Map(name, _open_or_create(folder / name.value, definition, size, left))
        _invalidate_copies_on_change(opened)
    except BaseException:
        close_maps(opened)
        raise
    return opened


def _invalidate_copies_on_change(opened: Mapping[MapName, Map]) -> None:
    """Start a new generation with every change of a map that programs copy entries from, and one for each map now.

    An agent that was killed may have changed a map without doing so.
    """
    if MapName.GENERATIONS in opened:
        generations = Generations(opened[MapName.GENERATIONS].descriptor)
        for name, index in GENERATION_OF.items():
            if name in opened:
                opened[name].changed = partial(generations.start, index)
                opened[name].changed()


def close_maps(maps: Mapping[MapName, Map]) -> None:
    """Close the descriptors of all maps; the pins stay."""
    for one in maps.values():
        one.close()


def _open_or_create(path: Path, definition: MapDefinition, size: int, left: Mapping[str, int]) -> int:
    with contextlib.suppress(FileNotFoundError):
        return _open_checked(path, definition, size)
    descriptor = _open_left(definition, left)
    if descriptor is None:
        with kernel_step(Step.CREATE_MAP, f"{definition.name} of {size} entries"):
            descriptor = bpf.create_map(
                bpf.MapType(definition.type),
                definition.key_size,
                definition.value_size,
                size,
                definition.flags,
                definition.name,
            )
    try:
        with kernel_step(Step.PIN, str(path)):
            bpf.pin(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_left(definition: MapDefinition, left: Mapping[str, int]) -> int | None:
    """Open the map of this name that lost its pin, None if there is none or its layout differs."""
    number = left.get(definition.name[:15])
    if number is None:
        return None
    try:
        descriptor = bpf.map_by_id(number)
    except FileNotFoundError:
        return None
    if not _is_of(bpf.map_info(descriptor), definition):
        os.close(descriptor)
        return None
    log.warning("map_recovered", map=definition.name, id=number)
    return descriptor


def _is_of(found: bpf.MapInfo, definition: MapDefinition) -> bool:
    return (found.type, found.key_size, found.value_size, found.flags) == (
        definition.type,
        definition.key_size,
        definition.value_size,
        definition.flags,
    )


def _open_checked(path: Path, definition: MapDefinition, size: int) -> int:
    descriptor = bpf.open_pin(path)
    found = bpf.map_info(descriptor)
    if not _is_of(found, definition):
        os.close(descriptor)
        raise LayoutMismatchError(path, found, definition)
    if found.max_entries != size:
        log.warning("map_size_kept", map=definition.name, entries=found.max_entries, configured=size)
    return descriptor
