"""Functions at every stage point for random frames: what becomes of a frame must be the same as without them."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from fuzz_model import SLOTS, VNIS
from fuzz_taps import tapped

from agent.core.model import map_layout
from agent.core.model.hooks import Hook
from agent.core.model.map_layout import STAGE_ARRAYS, STAGE_SLOTS, U32, MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.functions.isolation import isolate, isolate_in_one_frame
from agent.datapath.functions.linker import link, map_of
from agent.datapath.functions.pointer_flow import follow
from agent.datapath.functions.user_program import CONFIGURATION, CONFIGURATION_SIZE, UserProgram

CHANGED = 97
"""Offset of `changed` in struct stage."""
CHAIN = 0x321
"""All functions in their order."""


def _functions() -> list[UserProgram]:
    """Return functions that let every packet go on, isolated in both ways; the second says that it changed it."""
    declare = struct.pack("<BBhi", 0x72, 1, CHANGED, 1)  # *(u8 *)(r1 + CHANGED) = 1
    go_on = UserProgram(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0))
    changes = UserProgram(declare + go_on.instructions)
    return [*(isolate_in_one_frame(one, follow(one), 0) for one in (go_on, changes)), isolate(go_on)]


def install(compiled: CompiledObject, hook: Hook, fds: Mapping[str, int], leaves: int) -> list[int]:
    """Put functions at every point into the chains of every endpoint and VPC; return the descriptors to close."""
    kind = bpf.ProgramType.XDP if hook is Hook.XDP else bpf.ProgramType.SCHED_CLS
    own = bpf.create_map(bpf.MapType.ARRAY, 4, CONFIGURATION_SIZE, 1, 0, "configuration")
    opened = [own]
    for place, shell in enumerate(compiled.shells):
        for slot, function in enumerate(_functions()):
            index = place * STAGE_SLOTS + slot
            linked = link(shell, function, index=index, closed=True)
            fd = bpf.load_program(tapped(linked, {**fds, map_of(CONFIGURATION): own}, leaves), kind, name=shell.name)
            bpf.update(fds[STAGE_ARRAYS[hook]], U32.pack(index), U32.pack(fd))
            opened.append(fd)
    for number in range(SLOTS):
        bpf.update(fds[MapName.ENDPOINT_STAGES], U32.pack(number), map_layout.ENDPOINT_STAGES.pack(CHAIN, CHAIN))
    for vni in VNIS:
        bpf.update(fds[MapName.VPC_STAGES], U32.pack(vni), map_layout.VPC_STAGES.pack(CHAIN, CHAIN, CHAIN))
    vnis = sum({1 << (vni & 63) for vni in VNIS})
    bpf.update(fds[MapName.HOST_STAGES], U32.pack(0), map_layout.HOST_STAGES.pack(vnis, CHAIN, CHAIN, 0))
    return opened
