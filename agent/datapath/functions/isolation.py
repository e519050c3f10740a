"""Puts a frame of its own around a user's function, so that it reaches nothing of its caller. Pure.

A BPF-to-BPF call passes R1 to R5 as they are, and a pointer to the caller's stack reaches the whole of that frame: what
the compiler left there may be the context or an entry of the agent's maps. So the program around the function passes
where the fields of struct stage are in R1, and its three pointers in R2 to R4; the function gets a copy of all in a
frame that holds nothing else, and no other registers. What it wrote is copied back behind the fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.user_program import UserProgram

STAGE_SIZE = 104
"""Bytes of struct stage (bpf/stage.h)."""
POINTERS = (0, 8, 16)
"""Offsets of the pointers: start, end, configuration."""
READ = range(24, 80, 8)
"""Offsets of the words with the fields that the function reads."""
WRITTEN = range(80, STAGE_SIZE, 8)
"""Offsets of the words that the function writes: target, then reason and changed."""

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD, _STORE, _STORE_ZERO = 0x79, 0x7B, 0x7A
_MOVE, _MOVE_IMM, _ADD_IMM, _CALL, _EXIT = 0xBF, 0xB7, 0x07, 0x85, 0x95
_PSEUDO_CALL = 1
_SCRATCH, _STAGE, _KEPT, _FRAME = 5, 1, 6, 10


def isolate(program: UserProgram) -> UserProgram:
    """Return the program behind its own frame: it takes R1 to R4 as the module says, and returns the verdict in R0."""
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
    code += [_op(_STORE, _FRAME, 2 + place, at - STAGE_SIZE) for place, at in enumerate(POINTERS)]
    code += _copied(READ, _KEPT, 0, _FRAME, -STAGE_SIZE)
    code += [_op(_STORE_ZERO, _FRAME, 0, at - STAGE_SIZE) for at in WRITTEN]
    code += [_op(_MOVE, _STAGE, _FRAME), _op(_ADD_IMM, _STAGE, 0, 0, -STAGE_SIZE)]
    return code + [_op(_MOVE_IMM, register) for register in range(2, 6)]


def _leave() -> list[bytes]:
    """Copy back what the function wrote. R0 holds its verdict."""
    return [*_copied(WRITTEN, _FRAME, -STAGE_SIZE, _KEPT, 0), _op(_EXIT)]


def _copied(words: Iterable[int], source: int, source_at: int, to: int, to_at: int) -> list[bytes]:
    """Copy words of struct stage, which begins at an offset from a register here and there."""
    code = []
    for at in words:
        code += [_op(_LOAD, _SCRATCH, source, at + source_at), _op(_STORE, to, _SCRATCH, at + to_at)]
    return code


def _op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, source << 4 | to, offset, imm)
