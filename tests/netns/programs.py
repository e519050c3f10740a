"""Smallest programs and maps for tests: what the real ones do has tests of its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent.core.model.map_layout import MapName
from agent.datapath.attach.xdp import AttachableProgram, ProgramOwnership
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.bpf.maps import Map, MapSizes, open_maps

XDP_PASS, TC_UNSPEC = 2, -1
NEWER_THAN_MARKS = {
    "frame_states": "outcomes",
    "generations": "interfaces",
    "path_caches": "endpoint_counters",
    "hop_caches": "vpcs",
    "slot_caches": "local_droplets",
}
"""Maps that programs from before there were marks did not have, each with an older map's name of the same key size."""


def _verdict(value: int) -> bytes:
    return struct.pack("=BBhi", 0xB7, 0, 0, value) + struct.pack("=BBhi", 0x95, 0, 0, 0)


@contextmanager
def loaded(
    name: str, verdict: int = XDP_PASS, kind: bpf.ProgramType = bpf.ProgramType.XDP
) -> Iterator[AttachableProgram]:
    descriptor = bpf.load_program(_verdict(verdict), kind, name=name)
    try:
        yield AttachableProgram(descriptor, bpf.program_info(descriptor).id, name)
    finally:
        os.close(descriptor)


def stand_ins(folder: Path, compiled: CompiledObject) -> tuple[dict[MapName, Map], dict[str, int]]:
    """Return maps by which the programs of today pass for older ones, and their descriptors by today's names."""
    definitions = {one.name: one for one in compiled.maps}
    renamed = [msgspec.structs.replace(definitions[name], name=older) for name, older in NEWER_THAN_MARKS.items()]
    made = open_maps(folder, renamed, MapSizes(**dict.fromkeys(NEWER_THAN_MARKS.values(), 1)))
    return made, {name: made[MapName(older)].descriptor for name, older in NEWER_THAN_MARKS.items()}


def owning(*programs: AttachableProgram) -> ProgramOwnership:
    ids = {program.program_id for program in programs}
    return ProgramOwnership(ids.__contains__, bpf.program_by_id)
