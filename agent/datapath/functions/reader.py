"""Reads what is installed of a function: its program in words, and the entries of its own maps. Changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions.contents import PERCPU, read_entries
from agent.datapath.functions.installed import Build, Slots, builds, current
from agent.datapath.functions.map_limits import TYPES
from agent.datapath.functions.program_store import ProgramStore
from agent.datapath.functions.record import MAPS, PROGRAM_PINS, folder_of
from agent.datapath.functions.refusals import FunctionError
from agent.datapath.functions.user_program import UserMap
from agent.datapath.net.threads import in_thread
from protocol.rpc import FunctionMap, FunctionMapsReply, FunctionMapsRequest


class UnknownMapError(LookupError):
    """A function has no map of that name; the text lists those that it has."""


class FunctionReader:
    """The functions of one agent, for queries. `log_of` returns the output for a refused program by its verdict's key.

    Each method gets a function's id and its stage point, and raises OSError if the kernel refuses to read.
    """

    def __init__(self, root: Path, slots: Slots, store: ProgramStore, log_of: Callable[[str], str]) -> None:
        self.log_of = log_of
        self._root = root
        self._slots = slots
        self._store = store

    async def describe(self, id_: str, point: int) -> str:
        """Return a line for each installed program and map of a function; empty if nothing is installed."""
        return await in_thread(self._describe, id_, point)

    async def read_maps(self, id_: str, point: int, request: FunctionMapsRequest) -> FunctionMapsReply | None:
        """Return a function's maps and a page of the entries of one; None if nothing is installed.

        UnknownMapError if the function has no map of the name.
        """
        return await in_thread(self._read_maps, id_, point, request)

    def _build(self, id_: str, point: int) -> Build | None:
        return current(builds(folder_of(self._root, id_, point), self._slots), self._slots)

    def _describe(self, id_: str, point: int) -> str:
        build = self._build(id_, point)
        if build is None:
            return ""
        record = build.record
        lines = [f"program {record.content} in slot {record.slot}, with {record.length} bytes of configuration"]
        for hook in build.programs:
            descriptor = bpf.open_pin(build.folder / PROGRAM_PINS / hook.value)
            try:
                checked = bpf.verified_instructions(descriptor)
            finally:
                os.close(descriptor)
            lines.append(f"{hook.value}: program {build.programs[hook]}; the verifier processed {checked} instructions")
        lines += [f"map {_text(one)}" for one in self._maps(build)]
        return "\n".join(lines)

    def _read_maps(self, id_: str, point: int, request: FunctionMapsRequest) -> FunctionMapsReply | None:
        build = self._build(id_, point)
        if build is None:
            return None
        maps = self._maps(build)
        listed = tuple(
            FunctionMap(
                *(one.name, TYPES.get(bpf.MapType(one.type), "")),
                *(one.key_size, one.value_size, one.max_entries),
                per_cpu=one.type in PERCPU,
            )
            for one in maps
        )
        if not request.map:
            return FunctionMapsReply(listed)
        declared = next((one for one in maps if one.name == request.map), None)
        if declared is None:
            raise UnknownMapError(", ".join(one.name for one in maps) or "none")
        after = request.after if len(request.after) == declared.key_size else b""
        descriptor = bpf.open_pin(build.folder / MAPS / declared.name)
        try:
            entries, following = read_entries(descriptor, declared, after, request.limit)
        finally:
            os.close(descriptor)
        return FunctionMapsReply(listed, entries, following)

    def _maps(self, build: Build) -> list[UserMap]:
        """Return a build's own maps by name, with the fields of keys and values where the program is kept.

        Those of a function in a process are the agent's: none.
        """
        declared: dict[str, UserMap] = {}
        with contextlib.suppress(FunctionError, OSError):
            kept = self._store.kept(build.record.content)
            declared = {one.name: one for one in kept.maps} if kept else {}
        found = [_map(path, declared.get(path.name)) for path in sorted((build.folder / MAPS).iterdir())]
        return [] if any(one.type == bpf.MapType.XSKMAP for one in found) else found


def _map(path: Path, declared: UserMap | None) -> UserMap:
    """Return a pinned map as the kernel has it; fields only if the declaration is of the same layout."""
    descriptor = bpf.open_pin(path)
    try:
        info = bpf.map_info(descriptor)
    finally:
        os.close(descriptor)
    found = UserMap(path.name, info.type, info.key_size, info.value_size, info.max_entries, info.flags)
    sizes = (info.type, info.key_size, info.value_size)
    if declared is None or (declared.type, declared.key_size, declared.value_size) != sizes:
        return found
    return UserMap(
        *(found.name, found.type, found.key_size, found.value_size, found.max_entries, found.flags),
        *(declared.key_fields, declared.value_fields),
    )


def _text(one: UserMap) -> str:
    kind = TYPES.get(bpf.MapType(one.type), f"type {one.type}")
    return f"{one.name}: {kind}, keys of {one.key_size} and values of {one.value_size} bytes, {one.max_entries} entries"
