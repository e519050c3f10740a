"""Puts functions into their slots and takes them out; every step may be the last one of this process.

A build is pinned beside the older one, then the slots are written, one after another, each at once; then the older
build's pins go. Killed in between, the next observation sees a function that is not complete, and `install` finishes:
it continues with a whole build, and removes what is neither whole nor needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.core.functions.stages import index_of
from agent.core.model.desired_entries import FunctionBuild
from agent.core.model.hooks import POINTS, Hook
from agent.core.model.map_layout import STAGE_POINTS, STAGE_SLOTS, U32
from agent.core.plan.remedies import Step
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.marks import mark
from agent.datapath.bpf.pins import make_folder
from agent.datapath.functions.installed import Build, Slots, builds, folders, numbers_in
from agent.datapath.functions.linker import map_of
from agent.datapath.functions.load import Place, create_configuration, create_map, load, write_configuration
from agent.datapath.functions.record import (
    CONFIGURATION_PIN,
    MAPS,
    PROGRAM_PINS,
    RECORD,
    Record,
    build_of,
    folder_of,
    pin_record,
    write_record,
)
from agent.datapath.functions.user_program import CONFIGURATION, UserMap, UserProgram
from agent.errors import kernel_step

POINTS_BY_NUMBER = dict(enumerate(POINTS, 1))
"""The names of stage points in documents."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Target:
    """What installing needs of the agent: where to pin, the slots, the shells, its maps, and its limits."""

    root: Path
    instance: str
    slots: Slots
    places: Mapping[Hook, Place]
    """The place of one function at each hook in use."""
    maps: Mapping[str, int]
    """The agent's maps by name: open descriptors."""
    max_instructions: int


def finished_build(target: Target, wanted: Record) -> Build | None:
    """Return the build that is wanted, if it is pinned and whole."""
    for one in builds(_folder(target, wanted), target.slots):
        if one.whole and one.record.same_program(wanted):
            return one
    return None


def _folder(target: Target, wanted: Record) -> Path:
    return folder_of(target.root, wanted.id, wanted.point)


def install(
    target: Target,
    wanted: Record,
    program: UserProgram | None,
    configuration: bytes,
    retained: FunctionBuild | None = None,
) -> None:
    """Put a function into its slot, with its configuration; `program` may be None if a finished build is pinned.

    Older builds are removed, but for the `retained` one if it is whole. Raises FunctionError if the program is refused,
    OSError if the kernel refuses anything else: the slot then keeps what it had.
    """
    folder = _folder(target, wanted)
    found = finished_build(target, wanted)
    if found is None and program is not None:
        found = _build(target, wanted, program, configuration)
    if found is None:
        raise FileNotFoundError(f"the program of function {wanted.id} is not there")
    if found.record.length != len(configuration) or found.configuration() != configuration:
        _configure(found, configuration)
    _fill_slots(target, found)
    kept = {
        found.number,
        *(one.number for one in builds(folder, target.slots) if one.whole and one.version == retained),
    }
    for number in numbers_in(folder):
        if number not in kept:
            _remove_tree(folder / str(number))
    place = POINTS_BY_NUMBER.get(wanted.point)
    log.info("function_installed", function=wanted.id, point=place, slot=wanted.slot, content=wanted.content)


def _build(target: Target, wanted: Record, program: UserProgram, configuration: bytes) -> Build:
    """Load and pin a new build with the maps of the older one where they are the same, and return it."""
    folder = _folder(target, wanted)
    older = next((one for one in builds(folder, target.slots) if _has_maps(one, wanted)), None)
    home = folder / str(max(numbers_in(folder), default=0) + 1)
    with contextlib.ExitStack() as opened:
        maps = _open_maps(program, older)
        for descriptor in maps.values():
            opened.callback(os.close, descriptor)
        settings = _open_configuration(older, wanted, configuration)
        opened.callback(os.close, settings)
        linked = {**target.maps, map_of(CONFIGURATION): settings}
        linked |= {map_of(name): descriptor for name, descriptor in maps.items()}
        loaded = {}
        for hook, place in target.places.items():
            loaded[hook] = load(program, place, linked, target.max_instructions)
            opened.callback(os.close, loaded[hook])
            mark(loaded[hook], target.instance, build_of(wanted, target.slots.shells[hook]))
        _pin(home, wanted, maps, settings, loaded)
    return next(one for one in builds(_folder(target, wanted), target.slots) if one.folder == home)


def _has_maps(one: Build, wanted: Record) -> bool:
    """Return whether a build's maps may be used again: it was finished once, and is of the same tenant."""
    return bool(one.programs) and one.record.vpc == wanted.vpc


def _open_maps(program: UserProgram, older: Build | None) -> dict[str, int]:
    """Open the maps of the older build that are declared as before, and create the others."""
    opened: dict[str, int] = {}
    try:
        for one in program.maps:
            found = _open_same(older.folder / MAPS / one.name, one) if older is not None else None
            opened[one.name] = create_map(one) if found is None else found
    except BaseException:
        for descriptor in opened.values():
            os.close(descriptor)
        raise
    return opened


def _open_same(path: Path, declared: UserMap) -> int | None:
    """Open a pinned map if it has the declared type and sizes."""
    try:
        descriptor = bpf.open_pin(path)
    except FileNotFoundError:
        return None
    info = bpf.map_info(descriptor)
    flags = declared.flags | (bpf.BPF_F_NO_PREALLOC if declared.type == bpf.MapType.LPM_TRIE else 0)
    if (info.type, info.key_size, info.value_size, info.max_entries, info.flags) == (
        *(declared.type, declared.key_size, declared.value_size),
        *(declared.max_entries, flags),
    ):
        return descriptor
    os.close(descriptor)
    return None


def _open_configuration(older: Build | None, wanted: Record, configuration: bytes) -> int:
    """Open the configuration of the older build if its program is the same one; else create one of its own.

    So a program never sees the configuration that is meant for its successor.
    """
    if older is not None and older.record.content == wanted.content:
        with contextlib.suppress(FileNotFoundError):
            return bpf.open_pin(older.folder / CONFIGURATION_PIN)
    return create_configuration(configuration)


def _pin(home: Path, wanted: Record, maps: Mapping[str, int], configuration: int, loaded: Mapping[Hook, int]) -> None:
    """Pin a build; the record first, so that what is left of an unfinished one says whose it is."""
    with kernel_step(Step.PIN, str(home)):
        for folder in (home, home / MAPS, home / PROGRAM_PINS):
            make_folder(folder)
        pin_record(wanted, home / RECORD)
        for name, descriptor in maps.items():
            bpf.pin(descriptor, home / MAPS / name)
        bpf.pin(configuration, home / CONFIGURATION_PIN)
        for hook, descriptor in loaded.items():
            bpf.pin(descriptor, home / PROGRAM_PINS / hook.value)


def _configure(build: Build, configuration: bytes) -> None:
    descriptor = bpf.open_pin(build.folder / CONFIGURATION_PIN)
    try:
        write_configuration(descriptor, configuration)
    finally:
        os.close(descriptor)
    write_record(build.record._replace(length=len(configuration)), build.folder / RECORD)


def _fill_slots(target: Target, build: Build) -> None:
    present = target.slots.programs_at(build.index)
    for hook, program in build.programs.items():
        if present[hook] != program:
            descriptor = bpf.open_pin(build.folder / PROGRAM_PINS / hook.value)
            try:
                bpf.update(target.slots.arrays[hook].descriptor, U32.pack(build.index), U32.pack(descriptor))
            finally:
                os.close(descriptor)


def remove(root: Path, slots: Slots, id_: str, point: int, slot: int) -> None:
    """Empty a slot, unless another function's program is in it, and remove the function's pins of that slot.

    What is not there is no error.
    """
    folder = folder_of(root, id_, point)
    if 1 <= point <= STAGE_POINTS and 0 <= slot < STAGE_SLOTS:
        _empty(root, slots, folder, index_of(point, slot))
    kept = {one.number for one in builds(folder, slots) if one.record.slot != slot}
    for number in numbers_in(folder):
        if number not in kept:
            _remove_tree(folder / str(number))
    if not kept:
        _remove_tree(folder)
        log.info("function_removed", function=id_, point=POINTS_BY_NUMBER.get(point), slot=slot)


def _empty(root: Path, slots: Slots, own: Path, index: int) -> None:
    others = (one for folder in folders(root) if folder != own for one in builds(folder, slots))
    used = {program for one in others for program in one.programs.values()}
    for hook, program in slots.programs_at(index).items():
        if program and program not in used:
            with contextlib.suppress(FileNotFoundError):
                bpf.delete(slots.arrays[hook].descriptor, U32.pack(index))


def _remove_tree(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
