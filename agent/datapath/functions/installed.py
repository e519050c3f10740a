"""Reads back which functions are pinned and whether their programs are in their slots. Changes nothing."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.functions.stages import index_of
from agent.core.model.desired_entries import FunctionBuild
from agent.core.model.hooks import Hook
from agent.core.model.map_layout import U32
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map
from agent.datapath.bpf.marks import read_mark
from agent.datapath.functions.record import (
    CONFIGURATION_PIN,
    MAPS,
    PROGRAM_PINS,
    RECORD,
    Record,
    build_of,
    read_record,
)
from agent.datapath.functions.user_program import CONFIGURATION_SIZE

_ONLY = bytes(4)


@dataclass(frozen=True, slots=True)
class Slots:
    """The jump tables of the hooks in use, the hashes of the agent's own programs, and the ids of its maps."""

    arrays: Mapping[Hook, Map]
    shells: Mapping[Hook, str]
    shared: frozenset[int]

    def programs_at(self, index: int) -> dict[Hook, int]:
        """Return the kernel's ids of the programs at an index, 0 for none."""
        return {hook: U32.unpack(one.lookup(U32.pack(index)) or bytes(4))[0] for hook, one in self.arrays.items()}


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a function, as it is pinned; `programs` are the kernel's ids, of the hooks that are pinned."""

    folder: Path
    record: Record
    programs: Mapping[Hook, int]
    whole: bool
    """All is pinned that belongs to it, and its programs are linked to this agent's own."""

    @property
    def number(self) -> int:
        """Its number: newer builds have larger ones."""
        return int(self.folder.name)

    @property
    def index(self) -> int:
        """Its index in the jump tables."""
        return index_of(self.record.point, self.record.slot)

    @property
    def version(self) -> FunctionBuild:
        """What tells its programs from those of other builds."""
        return FunctionBuild(self.record.content, self.record.closed, self.record.vpc)

    def configuration(self) -> bytes:
        """Read its configuration; OSError if that is not possible."""
        descriptor = bpf.open_pin(self.folder / CONFIGURATION_PIN)
        try:
            value = bpf.lookup(descriptor, _ONLY, CONFIGURATION_SIZE) or b""
        finally:
            os.close(descriptor)
        return value[: self.record.length]


def numbers_in(folder: Path) -> list[int]:
    """Return the numbers of all builds in a function's folder, the newest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted((int(one.name) for one in folder.iterdir() if one.name.isdigit()), reverse=True)
    return []


def builds(folder: Path, slots: Slots) -> list[Build]:
    """Return the builds that have a record in a function's folder, the newest first."""
    found = (_build(folder / str(number), slots) for number in numbers_in(folder))
    return [one for one in found if one is not None]


def folders(root: Path) -> list[Path]:
    """Return the folders of all functions at all points."""
    return sorted(root.glob("*/*"))


def current(found: list[Build], slots: Slots) -> Build | None:
    """Return the whole build that is in its slot, else the newest whole one, else the newest; None if there is none."""
    whole = [one for one in found if one.whole]
    in_slot = (one for one in whole if slots.programs_at(one.index) == one.programs)
    return next(in_slot, next(iter(whole), found[0] if found else None))


def is_complete(folder: Path, build: Build, found: list[Build], slots: Slots) -> bool:
    """Return whether a build is in its slot at every hook, and whole, as are all others that are pinned."""
    whole = [one.number for one in found if one.whole]
    return build.whole and whole == numbers_in(folder) and slots.programs_at(build.index) == build.programs


def _build(folder: Path, slots: Slots) -> Build | None:
    record = read_record(folder / RECORD)
    if record is None:
        return None
    maps = _pinned_maps(folder)
    whole = len(maps) == record.maps + 1
    programs = {}
    for hook in Hook:
        with contextlib.suppress(FileNotFoundError):
            descriptor = bpf.open_pin(folder / PROGRAM_PINS / hook.value)
            try:
                info = bpf.program_info(descriptor)
            finally:
                os.close(descriptor)
            programs[hook] = info.id
            whole &= hook in slots.shells and _is_linked(info, record, slots.shells[hook], maps | slots.shared)
    whole &= programs.keys() == slots.shells.keys()
    return Build(folder, record, programs, whole)


def _is_linked(info: bpf.ProgramInfo, record: Record, shells: str, maps: frozenset[int]) -> bool:
    """Return whether a program is of this build, around it are the agent's own, and all its maps are pinned."""
    marked = read_mark(info)
    if marked is None or marked[1].content != build_of(record, shells):
        return False
    return maps.issuperset(set(info.map_ids) - {marked[0]})


def _pinned_maps(folder: Path) -> frozenset[int]:
    """Return the ids of a build's maps, its configuration included."""
    paths = [folder / CONFIGURATION_PIN]
    with contextlib.suppress(FileNotFoundError):
        paths += list((folder / MAPS).iterdir())
    found = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                descriptor = bpf.open_pin(path)
                try:
                    found.add(bpf.map_info(descriptor).id)
                finally:
                    os.close(descriptor)
    return frozenset(found)
