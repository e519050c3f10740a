"""Attaches programs to tcx hooks, and finds what is attached to an interface: links (bpf_link) and programs of tcx.

Formats: union bpf_attr and struct bpf_link_info of include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from struct import pack, unpack_from

from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.uapi import BPF_F_BEFORE, BPF_F_REPLACE, Command, call

LINK_TYPE_XDP, LINK_TYPE_TCX = 6, 11
LINK_INFO_SIZE = 32
"""struct bpf_link_info up to `xdp` and `tcx`: { u32 type, id, prog_id, pad, ifindex, tcx.attach_type, ... }."""
TCX_HOOKS = {"ingress": 46, "egress": 47}
"""BPF_TCX_INGRESS and BPF_TCX_EGRESS of enum bpf_attach_type, since Linux 6.6."""
MOST_PROGRAMS = 64
"""The most programs of one hook: BPF_MPROG_MAX (kernel/bpf/mprog.c)."""


def link_of(program_id: int, ifindex: int) -> int:
    """Return the id of the link that attaches a program to an interface, at XDP or at tcx ingress; 0 if none does."""
    for number, info in _links():
        kind, _, program, _, index, hook = unpack_from("=6I", info)
        at_hook = kind == LINK_TYPE_XDP or (kind, hook) == (LINK_TYPE_TCX, TCX_HOOKS["ingress"])
        if at_hook and (program, index) == (program_id, ifindex):
            return number
    return 0


def _links() -> Iterator[tuple[int, bytes]]:
    """Yield the id and the description of each link of the host, without those that come or go meanwhile.

    The kernel answers EAGAIN about a link that it is still attaching (bpf_link_by_id() in kernel/bpf/syscall.c).
    """
    for number in bpf.all_ids(bpf.Command.LINK_GET_NEXT_ID):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = bpf.link_by_id(number)
            try:
                info = bpf.link_info(descriptor, LINK_INFO_SIZE)
            finally:
                os.close(descriptor)
            yield number, info


def tcx_programs(ifindex: int, hook: str) -> list[int]:
    """Return the ids of the programs in one of an interface's tcx hooks, in their order.

    OSError: EINVAL before Linux 6.6, ENODEV if the interface is gone.
    """
    ids = (ctypes.c_uint32 * MOST_PROGRAMS)()
    attr = pack("=4IQI36x", ifindex, TCX_HOOKS[hook], 0, 0, ctypes.addressof(ids), MOST_PROGRAMS)
    (count,) = unpack_from("=I", bpf.query_programs(attr), 24)
    return list(ids)[:count]


def attach_tcx(ifindex: int, program: int, replaced: int | None = None) -> None:
    """Attach a program in front of all others at an interface's tcx ingress hook, or in the place of another one.

    Both are descriptors. OSError: ENOENT if `replaced` is not attached, EEXIST if `program` is.
    """
    flags = BPF_F_BEFORE if replaced is None else BPF_F_REPLACE
    attr = pack("=6IQ", ifindex, program, TCX_HOOKS["ingress"], flags, replaced or 0, 0, 0)
    call(Command.PROG_ATTACH, attr)


def detach_tcx(ifindex: int, program: int) -> None:
    """Detach a program, a descriptor, from an interface's tcx ingress hook; OSError (ENOENT) if it is not attached."""
    call(Command.PROG_DETACH, pack("=6IQ", ifindex, program, TCX_HOOKS["ingress"], 0, 0, 0, 0))
