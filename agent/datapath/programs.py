"""Loads compiled programs with the maps that they shall use, and keeps them by pins under their content's hash.

Owns `<programs>/<hash>/<name>` in a bpf file system; makes no map and attaches nothing. A program that is pinned
already is opened, not loaded again, so that a restarted agent finds the very program that is attached.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.remedies import Step
from agent.datapath import bpf_syscall as bpf
from agent.datapath.compiler import CompiledObject, CompiledProgram
from agent.datapath.told import doing


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program: `fd` is open and the caller's to close; `id` and `map_ids` are the kernel's."""

    name: str
    fd: int
    id: int
    map_ids: frozenset[int]


def relocate(program: CompiledProgram, maps: Mapping[str, int]) -> bytes:
    """Return the instructions with the descriptors of `maps` in their places; KeyError names a missing map."""
    code = bytearray(program.instructions)
    for relocation in program.relocations:
        at = relocation.index * 8
        code[at + 1] = (code[at + 1] & 0x0F) | bpf.PSEUDO_MAP_FD << 4
        code[at + 4 : at + 8] = maps[relocation.map].to_bytes(4, "little")
    return bytes(code)


def load(
    program: CompiledProgram, maps: Mapping[str, int], kind: bpf.ProgramType = bpf.ProgramType.XDP, *, flags: int = 0
) -> Program:
    """Load a program without pinning it; raises VerifierError with the verifier's log."""
    fd = bpf.load_program(relocate(program, maps), kind, flags=flags, name=program.name)
    return _described(program.name, fd)


def load_for_card(program: CompiledProgram, maps: Mapping[str, int], ifindex: int) -> int:
    """Load a program for a network card that is to run it by itself; return its descriptor, VerifierError as `load`."""
    return bpf.load_program(relocate(program, maps), name=program.name, device=ifindex)


def ensure_programs(compiled: CompiledObject, maps: Mapping[str, int], folder: Path) -> dict[str, Program]:
    """Open the pinned XDP programs of this content, or load and pin them; `folder` lies in a bpf file system.

    A pin whose program uses other maps than `maps` (someone removed the maps' pins) is replaced. Programs of other
    contents stay pinned: what is attached may still need them, see `Pins.forget_others`.
    """
    return _ensure_all(compiled.programs, maps, folder / compiled.hash, bpf.ProgramType.XDP)


def ensure_tracers(compiled: CompiledObject, maps: Mapping[str, int], folder: Path) -> dict[str, Program]:
    """Open or load and pin the programs for raw tracepoints, otherwise as `ensure_programs`."""
    return _ensure_all(compiled.tracers, maps, folder / compiled.hash, bpf.ProgramType.RAW_TRACEPOINT)


def _ensure_all(
    programs: Iterable[CompiledProgram], maps: Mapping[str, int], home: Path, kind: bpf.ProgramType
) -> dict[str, Program]:
    home.mkdir(parents=True, exist_ok=True)
    found: dict[str, Program] = {}
    try:
        for program in programs:
            found[program.name] = _ensure(program, maps, home / program.name, kind)
    except BaseException:
        close(found)
        raise
    return found


def close(programs: Mapping[str, Program]) -> None:
    """Close the descriptors; pins and attachments keep the programs."""
    for program in programs.values():
        os.close(program.fd)


def _ensure(program: CompiledProgram, maps: Mapping[str, int], path: Path, kind: bpf.ProgramType) -> Program:
    with contextlib.suppress(FileNotFoundError):
        pinned = _described(program.name, bpf.open_pin(path))
        used = {relocation.map for relocation in program.relocations}
        if pinned.map_ids == {bpf.map_info(maps[name]).id for name in used}:
            return pinned
        os.close(pinned.fd)
        path.unlink()
    with doing(Step.LOAD_PROGRAM, program.name):
        loaded = load(program, maps, kind)
    with doing(Step.PIN, str(path)):
        bpf.pin(loaded.fd, path)
    return loaded


def _described(name: str, fd: int) -> Program:
    info = bpf.program_info(fd)
    return Program(name, fd, info.id, frozenset(info.map_ids))
