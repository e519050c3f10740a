"""Loads compiled programs with their maps, and pins them under the hash of their content.

Owns `<programs>/<hash>/<name>` in a bpf file system; makes no map and attaches nothing. A program that is pinned
already is opened, not loaded again, so that a restarted agent finds the very program that is attached.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.core.plan.remedies import Step
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject, CompiledProgram
from agent.datapath.bpf.marks import mark, read_mark
from agent.errors import kernel_step

NONE_LEFT: Mapping[tuple[str, str], int] = {}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A loaded program: `fd` is open and the caller's to close; `map_ids` are the kernel's, without the mark's."""

    name: str
    fd: int
    id: int
    map_ids: frozenset[int]


def relocate(program: CompiledProgram, maps: Mapping[str, int]) -> bytes:
    """Return the instructions with the descriptors of `maps` filled in; KeyError names a missing map."""
    code = bytearray(program.instructions)
    for relocation in program.relocations:
        at = relocation.index * 8
        kind = bpf.PSEUDO_MAP_VALUE if code[at + 1] >> 4 == bpf.PSEUDO_MAP_VALUE else bpf.PSEUDO_MAP_FD
        code[at + 1] = (code[at + 1] & 0x0F) | kind << 4
        code[at + 4 : at + 8] = maps[relocation.map].to_bytes(4, "little")
    return bytes(code)


def load(
    program: CompiledProgram, maps: Mapping[str, int], kind: bpf.ProgramType = bpf.ProgramType.XDP, *, flags: int = 0
) -> LoadedProgram:
    """Load a program without pinning it; raises VerifierError with the verifier's log."""
    fd = bpf.load_program(relocate(program, maps), kind, flags=flags, name=program.name)
    return _described(program.name, fd)


def load_for_card(compiled: CompiledObject, name: str, maps: Mapping[str, int], ifindex: int, instance: str) -> int:
    """Load a program for offload to a network card; return its descriptor, VerifierError as `load`."""
    program = compiled.program(name)
    descriptor = bpf.load_program(relocate(program, maps), name=program.name, device=ifindex)
    mark(descriptor, instance, compiled.hash)
    return descriptor


def ensure_programs(
    compiled: CompiledObject,
    maps: Mapping[str, int],
    folder: Path,
    instance: str,
    left: Mapping[tuple[str, str], int] = NONE_LEFT,
    kind: bpf.ProgramType = bpf.ProgramType.XDP,
) -> dict[str, LoadedProgram]:
    """Open the pinned programs of this content, or load, mark and pin them; `folder` lies in a bpf file system.

    `left` are the ids of attached programs by name and content: one of this content without a pin is pinned again.
    A pin whose program uses other maps than `maps` (someone removed the maps' pins) is replaced. Programs of other
    contents stay pinned: what is attached may still need them, see `Pins.forget_others`.
    """
    found = _ensure_all(compiled.programs, maps, folder / compiled.hash, kind, left)
    try:
        for one in found.values():
            if read_mark(bpf.program_info(one.fd)) is None:
                mark(one.fd, instance, compiled.hash)
    except BaseException:
        close(found)
        raise
    return found


def ensure_tracers(compiled: CompiledObject, maps: Mapping[str, int], folder: Path) -> dict[str, LoadedProgram]:
    """Open or load and pin the programs for raw tracepoints, otherwise as `ensure_programs`."""
    return _ensure_all(compiled.tracers, maps, folder / compiled.hash, bpf.ProgramType.RAW_TRACEPOINT)


def _ensure_all(
    programs: Iterable[CompiledProgram],
    maps: Mapping[str, int],
    home: Path,
    kind: bpf.ProgramType,
    left: Mapping[tuple[str, str], int] = NONE_LEFT,
) -> dict[str, LoadedProgram]:
    home.mkdir(parents=True, exist_ok=True)
    found: dict[str, LoadedProgram] = {}
    try:
        for program in programs:
            found[program.name] = _ensure(program, maps, home / program.name, kind, left.get((program.name, home.name)))
    except BaseException:
        close(found)
        raise
    return found


def close(programs: Mapping[str, LoadedProgram]) -> None:
    """Close the descriptors; pins and attachments keep the programs."""
    for program in programs.values():
        os.close(program.fd)


def _ensure(
    program: CompiledProgram, maps: Mapping[str, int], path: Path, kind: bpf.ProgramType, left: int | None
) -> LoadedProgram:
    used = {bpf.map_info(maps[relocation.map]).id for relocation in program.relocations}
    with contextlib.suppress(FileNotFoundError):
        pinned = _described(program.name, bpf.open_pin(path))
        if pinned.map_ids == used:
            return pinned
        os.close(pinned.fd)
        path.unlink()
    found = _open_left(program.name, used, left)
    if found is None:
        with kernel_step(Step.LOAD_PROGRAM, program.name):
            found = load(program, maps, kind)
    with kernel_step(Step.PIN, str(path)):
        bpf.pin(found.fd, path)
    return found


def _open_left(name: str, used: Collection[int], left: int | None) -> LoadedProgram | None:
    """Open an attached program that lost its pin, None if it is gone or uses other maps."""
    if left is None:
        return None
    try:
        found = _described(name, bpf.program_by_id(left))
    except FileNotFoundError:
        return None
    if found.map_ids != used:
        os.close(found.fd)
        return None
    log.warning("program_recovered", program=name, id=left)
    return found


def _described(name: str, fd: int) -> LoadedProgram:
    info = bpf.program_info(fd)
    marked = read_mark(info)
    return LoadedProgram(name, fd, info.id, frozenset(info.map_ids) - ({marked[0]} if marked else set()))
