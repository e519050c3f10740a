"""The bpf(2) system call, typed: maps, programs, pins and their descriptions. Other packages import this module.

`uapi` has the call and its numbers, `map_calls`, `program_calls` and `object_calls` the rest by subject. They own the
layout of `union bpf_attr` (include/uapi/linux/bpf.h) and nothing else: they hold no state, close no descriptor, and
know none of the project's maps. Every refusal of the kernel is an OSError with its errno.
"""

from __future__ import annotations

from agent.datapath.bpf.map_calls import (
    BATCH,
    create_map,
    delete,
    delete_batch,
    entries,
    freeze_map,
    lookup,
    lookup_percpu,
    next_key,
    percpu_stride,
    possible_cpus,
    update,
    update_batch,
)
from agent.datapath.bpf.object_calls import (
    MapInfo,
    ProgramInfo,
    link_program,
    map_by_id,
    map_info,
    open_pin,
    pin,
    program_by_id,
    program_info,
    verified_instructions,
)
from agent.datapath.bpf.program_calls import VerifierError, attach_tracepoint, bind_map, load_program, run_program
from agent.datapath.bpf.uapi import (
    BPF_ANY,
    BPF_EXIST,
    BPF_F_NO_PREALLOC,
    BPF_F_TEST_XDP_LIVE_FRAMES,
    BPF_F_XDP_HAS_FRAGS,
    BPF_NOEXIST,
    PSEUDO_MAP_FD,
    Command,
    MapType,
    ProgramType,
    XdpAction,
)

__all__ = [
    "BATCH",
    "BPF_ANY",
    "BPF_EXIST",
    "BPF_F_NO_PREALLOC",
    "BPF_F_TEST_XDP_LIVE_FRAMES",
    "BPF_F_XDP_HAS_FRAGS",
    "BPF_NOEXIST",
    "PSEUDO_MAP_FD",
    "Command",
    "MapInfo",
    "MapType",
    "ProgramInfo",
    "ProgramType",
    "VerifierError",
    "XdpAction",
    "attach_tracepoint",
    "bind_map",
    "create_map",
    "delete",
    "delete_batch",
    "entries",
    "freeze_map",
    "link_program",
    "load_program",
    "lookup",
    "lookup_percpu",
    "map_by_id",
    "map_info",
    "next_key",
    "open_pin",
    "percpu_stride",
    "pin",
    "possible_cpus",
    "program_by_id",
    "program_info",
    "run_program",
    "update",
    "update_batch",
    "verified_instructions",
]
