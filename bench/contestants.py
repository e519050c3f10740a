"""The programs that are measured: staged as sources, compiled by the agent's own compiler, loaded with maps.

A contestant is a folder under `bench/programs` whose files lie over a copy of `bpf/`: so the yardsticks and the
variants of our programs go through the very compiler and loader that the agent uses. Loads only; fills no map.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.core.model import map_layout
from agent.core.model.features import Features
from agent.core.model.hooks import AGENT_RESUME, Hook
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import EVERYTHING, SOURCES, CompiledObject, compile_programs
from agent.datapath.bpf.maps import MapSizes

FOLDER = Path(__file__).parent / "programs"
EMPTY = "empty"
"""The overlay whose programs drop every frame."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one source file: every match of `pattern` becomes `by`; one that matches nothing is an error."""

    file: str
    pattern: str
    by: str


@dataclass(frozen=True, slots=True)
class Contestant:
    """Which files lie over our sources (`overlay`, a folder of `bench/programs`), what is edited, compiled for what."""

    name: str
    overlay: str | None = None
    edits: tuple[Edit, ...] = ()
    features: Features = EVERYTHING
    hook: Hook = Hook.XDP


class StaleEditError(ValueError):
    """An edit finds nothing to change: the source that it was written for has changed."""


def stage(contestant: Contestant, folder: Path) -> Path:
    """Write a contestant's sources into a new folder and return it; StaleEditError when an edit does not fit."""
    home = folder / re.sub(r"[^a-z0-9]+", "-", contestant.name.lower())
    shutil.copytree(SOURCES, home, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    if contestant.overlay is not None:
        replaces_programs = (FOLDER / contestant.overlay / "entry").is_dir()
        for overlay in (EMPTY, contestant.overlay) if replaces_programs else (contestant.overlay,):
            shutil.copytree(FOLDER / overlay, home, dirs_exist_ok=True)  # programs that it does not have are empty
    for edit in contestant.edits:
        path = home / edit.file
        text, count = re.subn(edit.pattern, edit.by, path.read_text(encoding="utf-8"))
        if not count:
            raise StaleEditError(f"{contestant.name}: nothing in {edit.file} matches {edit.pattern!r}")
        path.write_text(text, encoding="utf-8")
    return home


def fitting(contestants: list[Contestant]) -> tuple[list[Contestant], list[str]]:
    """Return those whose edits fit the sources, and the names of the others."""
    stale = [one.name for one in contestants if not all(re.search(e.pattern, _source(e.file)) for e in one.edits)]
    return [one for one in contestants if one.name not in stale], stale


def _source(file: str) -> str:
    return (SOURCES / file).read_text(encoding="utf-8")


def compile_all(contestants: list[Contestant], folder: Path) -> dict[str, CompiledObject]:
    """Compile contestants, two at a time; CompileError with clang's text, StaleEditError as `stage`."""

    async def work() -> dict[str, CompiledObject]:
        gate = asyncio.Semaphore(2)

        async def one(contestant: Contestant) -> CompiledObject:
            async with gate:
                staged = stage(contestant, folder)
                return await compile_programs(folder / "objects", staged, contestant.features, contestant.hook)

        compiled = await asyncio.gather(*(one(contestant) for contestant in contestants))
        return {contestant.name: each for contestant, each in zip(contestants, compiled, strict=True)}

    return asyncio.run(work())


class Loaded:
    """A contestant's maps and programs, not pinned; everything goes with `close`."""

    def __init__(self, compiled: CompiledObject, hook: Hook = Hook.XDP) -> None:
        self.hook = hook
        self.maps: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            for one in compiled.maps:
                size = _size(one.name, one.max_entries)
                of = bpf.MapType(one.type)
                self.maps[one.name] = bpf.create_map(of, one.key_size, one.value_size, size, one.flags, one.name)
            kind = bpf.ProgramType.XDP if hook is Hook.XDP else bpf.ProgramType.SCHED_CLS
            for program in compiled.programs:
                self.programs[program.name] = programs.load(program, self.maps, kind).fd
            undo.pop_all()

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Write one entry."""
        bpf.update(self.maps[name], key, value)

    def fill(self, entries: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Write entries, by the maps' names."""
        for name, pairs in entries.items():
            bpf.update_batch(self.maps[name], pairs.items())

    def fill_as_agent(self, entries: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Write entries of our programs' maps, and their jump table."""
        self.fill(entries)
        functions = AGENT_RESUME[self.hook] in self.programs
        for slot, program in map_layout.called_programs(self.hook, functions=functions).items():
            self.put(
                map_layout.PROGRAM_ARRAYS[self.hook],
                map_layout.U32.pack(slot),
                map_layout.U32.pack(self.programs[program]),
            )

    def close(self) -> None:
        """Close all descriptors, and with them maps and programs."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.maps, self.programs = {}, {}


def _size(name: str, declared: int) -> int:
    """Return the size of a map: ours as an agent makes them by default, others' as declared."""
    if name in ("outcomes", "programs", "tc_programs") or name not in set(MapName):
        return declared
    return MapSizes().of(MapName(name))
