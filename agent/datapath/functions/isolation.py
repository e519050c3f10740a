"""Puts a frame of its own around a user's function, so that it reaches nothing of its caller. Pure.

A BPF-to-BPF call passes R1 to R5 as they are, and a pointer to the caller's stack reaches the whole of that frame: what
the compiler left there may be the context or an entry of the agent's maps. So the function gets a copy of struct stage
in a frame that holds nothing but it, and no other registers; the fields that it may write are copied back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.user_program import UserProgram

STAGE_SIZE = 104
"""Bytes of struct stage (bpf/stage.h)."""
READ = (
    *((at, 8) for at in range(0, 40, 8)),
    *((at, 4) for at in range(40, 64, 4)),
    *((at, 2) for at in range(64, 72, 2)),
    *((at, 1) for at in range(72, 76)),
)
"""Offset and size of each field that the function reads: they are copied as they were written, which is fastest."""
TARGET = ((80, 4), (84, 4), (88, 4), (92, 4))
"""Of the field that the function writes for the verdict SEND_TO."""
WRITTEN = ((96, 1), (97, 1))
"""Of the other fields that the function writes: reason, changed."""
PADDING = ((76, 4), (98, 1), (99, 1), (100, 4))
SEND_TO = 4
"""Of enum stage_verdict."""

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
_STORE = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
_STORE_ZERO = {1: 0x72, 4: 0x62}
_MOVE, _MOVE_IMM, _ADD_IMM, _NOT_EQUAL, _CALL, _EXIT = 0xBF, 0xB7, 0x07, 0x55, 0x85, 0x95
_PSEUDO_CALL = 1
_SCRATCH, _VERDICT, _STAGE, _KEPT, _FRAME = 0, 0, 1, 6, 10


def isolate(program: UserProgram) -> UserProgram:
    """Return the program behind its own frame: it still takes struct stage in R1 and returns the verdict in R0."""
    before, after = _enter(), _leave()
    count = len(before) + 1 + len(after)
    call = _op(_CALL, 0, _PSEUDO_CALL, 0, len(after))
    code = b"".join((*before, call, *after)) + program.instructions
    relocations = tuple(Relocation(one.index + count, one.map) for one in program.relocations)
    lines = {index + count: line for index, line in program.lines.items()}
    return UserProgram(code, relocations, program.maps, lines)


def _enter() -> list[bytes]:
    """Copy what the function may read, clear what it may write, and clear all registers but R1."""
    code = [_op(_MOVE, _KEPT, _STAGE)]
    for at, size in READ:
        code += [_op(_LOAD[size], _SCRATCH, _KEPT, at), _op(_STORE[size], _FRAME, _SCRATCH, at - STAGE_SIZE)]
    code += [_op(_STORE_ZERO[size], _FRAME, 0, at - STAGE_SIZE) for at, size in (*PADDING, *TARGET, *WRITTEN)]
    code += [_op(_MOVE, _STAGE, _FRAME), _op(_ADD_IMM, _STAGE, 0, 0, -STAGE_SIZE)]
    return code + [_op(_MOVE_IMM, register) for register in range(2, 6)]


def _leave() -> list[bytes]:
    """Copy back what the function wrote. R0 holds its verdict."""
    target = _copied_back(TARGET)
    return [_op(_NOT_EQUAL, _VERDICT, 0, len(target), SEND_TO), *target, *_copied_back(WRITTEN), _op(_EXIT)]


def _copied_back(fields: Iterable[tuple[int, int]]) -> list[bytes]:
    code = []
    for at, size in fields:
        code += [_op(_LOAD[size], _STAGE, _FRAME, at - STAGE_SIZE), _op(_STORE[size], _KEPT, _STAGE, at)]
    return code


def _op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, source << 4 | to, offset, imm)
