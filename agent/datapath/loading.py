"""Compiles, loads and pins the programs of the hooks in use, and opens the maps that they share.

Attaches nothing. Everything is found again by a restarted agent: by pin, or by what is attached where pins were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.model.features import Features
from agent.core.model.hooks import TRANSIT, Hook
from agent.core.model.map_layout import PROGRAM_ARRAYS, U32, MapName, called_programs
from agent.datapath.attach.xdp import AttachableProgram
from agent.datapath.attached_programs import OwnedObjects
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject, MapDefinition, compile_programs
from agent.datapath.bpf.maps import Map, MapSizes, close_maps, open_maps
from agent.datapath.bpf.pins import Pins, restore

TYPES = {Hook.XDP: bpf.ProgramType.XDP, Hook.TC: bpf.ProgramType.SCHED_CLS}
"""The kernel's type of each hook's programs."""
LOOKS_FOR_CLEARING, BETWEEN_LOOKS = 100, 0.005
"""The kernel empties a jump table without references in milliseconds; if another process holds it, never. Seconds."""


@dataclass(frozen=True, slots=True)
class LoadedHook:
    """One hook's compiled object, and its loaded programs by name."""

    compiled: CompiledObject
    programs: Mapping[str, programs.LoadedProgram]

    def program(self, name: str) -> AttachableProgram:
        """Return one program, to be attached."""
        found = self.programs[name]
        return AttachableProgram(found.fd, found.id, found.name)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The open maps, and the programs of the hooks in use."""

    maps: dict[MapName, Map]
    hooks: Mapping[Hook, LoadedHook]
    ids: frozenset[int]
    """The kernel's ids of all programs."""

    @property
    def contents(self) -> frozenset[str]:
        """The hashes of the hooks' contents: the folders of their pins."""
        return frozenset(hook.compiled.hash for hook in self.hooks.values())

    def attachable(self, names: Mapping[Hook, str]) -> dict[Hook, AttachableProgram]:
        """Return the programs with these names, by hook."""
        return {hook: found.program(names[hook]) for hook, found in self.hooks.items()}

    def descriptors(self) -> dict[str, int]:
        """Return the maps' descriptors by name."""
        return {name.value: one.descriptor for name, one in self.maps.items()}

    def close(self) -> None:
        """Close all descriptors; pins and attachments keep programs and maps."""
        for hook in self.hooks.values():
            programs.close(hook.programs)
        close_maps(self.maps)

    def restore_pins(self, pins: Pins) -> None:
        """Restore pins that were removed."""
        wanted = {pins.maps / name.value: one.descriptor for name, one in self.maps.items()}
        for hook in self.hooks.values():
            wanted |= {pins.programs / hook.compiled.hash / one.name: one.fd for one in hook.programs.values()}
        restore(wanted)

    def fill_program_arrays(self) -> None:
        """Fill the jump tables of the tail calls; reading such a map returns a program's id."""
        for hook, found in self.hooks.items():
            array = self.maps[PROGRAM_ARRAYS[hook]]
            for slot, name in called_programs(hook, functions=bool(found.compiled.shells)).items():
                key, program = U32.pack(slot), found.programs[name]
                if array.lookup(key) != U32.pack(program.id):
                    bpf.update(array.descriptor, key, U32.pack(program.fd))


async def load_hooks(
    hooks: Sequence[Hook],
    features: Features,
    cache: Path,
    pins: Pins,
    sizes: MapSizes,
    instance: str,
    left: OwnedObjects,
) -> Loaded:
    """Compile where necessary, open or create maps and programs; `left` are those that lost their pins.

    Raises CompileError, LayoutMismatchError, OperatorError (with the verifier's log), or OSError (EPERM).
    """
    objects = await asyncio.gather(*(compile_programs(cache, features=features, hook=one) for one in hooks))
    compiled = dict(zip(hooks, objects, strict=True))
    arrays = [PROGRAM_ARRAYS[hook] for hook in hooks if PROGRAM_ARRAYS[hook] in left.maps]
    unpinned = [name for name in arrays if not (pins.maps / name).exists()]
    with contextlib.ExitStack() as undo:
        maps = open_maps(pins.maps, _definitions(compiled.values()), sizes, left.maps)
        undo.callback(close_maps, maps)
        descriptors = {name.value: one.descriptor for name, one in maps.items()}
        loaded: dict[Hook, LoadedHook] = {}
        for hook, one in compiled.items():
            found = programs.ensure_programs(one, descriptors, pins.programs, instance, left.programs, TYPES[hook])
            undo.callback(programs.close, found)
            loaded[hook] = LoadedHook(one, found)
            if PROGRAM_ARRAYS[hook] in unpinned:
                await _wait_until_cleared(maps[PROGRAM_ARRAYS[hook]], found[TRANSIT[hook]].fd)
        undo.pop_all()
        return Loaded(maps, loaded, frozenset(one.id for hook in loaded.values() for one in hook.programs.values()))


def _definitions(compiled: Collection[CompiledObject]) -> list[MapDefinition]:
    """Return the maps of all hooks, each once."""
    return list({one.name: one for each in compiled for one in each.maps}.values())


async def _wait_until_cleared(array: Map, program: int) -> None:
    """Wait until the kernel has emptied a jump table whose pin was lost, if it is going to.

    The kernel empties it after the last pin and descriptor are gone, but in a work item that may run later
    (prog_array_map_clear() in kernel/bpf/arraymap.c): it would remove what the agent fills in before that. Whether one
    is waiting cannot be seen, so `program`, a descriptor, is put into a slot that nothing uses, and looked for there.
    """
    unused = U32.pack(array.info.max_entries - 1)
    bpf.update(array.descriptor, unused, U32.pack(program))
    for _ in range(LOOKS_FOR_CLEARING):
        if not array.lookup(unused):
            return
        await asyncio.sleep(BETWEEN_LOOKS)
    bpf.delete(array.descriptor, unused)
