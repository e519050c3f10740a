"""Smallest programs and maps for tests: what the real ones do has tests of its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from agent.datapath.attach.xdp import AttachableProgram, ProgramOwnership
from agent.datapath.bpf import syscall as bpf

XDP_PASS = 2


def _verdict(value: int) -> bytes:
    return struct.pack("=BBhi", 0xB7, 0, 0, value) + struct.pack("=BBhi", 0x95, 0, 0, 0)


@contextmanager
def loaded(name: str, verdict: int = XDP_PASS) -> Iterator[AttachableProgram]:
    descriptor = bpf.load_program(_verdict(verdict), name=name)
    try:
        yield AttachableProgram(descriptor, bpf.program_info(descriptor).id, name)
    finally:
        os.close(descriptor)


def owning(*programs: AttachableProgram) -> ProgramOwnership:
    ids = {program.program_id for program in programs}
    return ProgramOwnership(ids.__contains__, bpf.program_by_id)
