"""Puts a frame around a user's function, so that it reaches nothing of its caller. Pure.

A BPF-to-BPF call passes R1 to R5 as they are, and a pointer to the caller's stack reaches the whole of that frame: what
the compiler left there may be the context or an entry of the agent's maps. So the program around the function passes
where the fields of struct stage are in R1, and where the packet starts and ends in R2 and R3; the function gets a copy
of all in a frame that holds nothing else, and no other registers.

There are two forms. `isolate` calls the function behind a frame of its own. `isolate_in_one_frame` puts the copy below
the function's own stack, and copies only what the function uses: a call less, which is a third of what a function
costs. For that it has to be known what the function uses (`pointer_flow`), and how much stack (the verifier).

Both return the verdict in the lower half of R0, `reason` and `changed` above it, and whether `target` was written.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.bpf.syscall import PSEUDO_MAP_VALUE
from agent.datapath.functions.frames import calls, starts
from agent.datapath.functions.instructions import STAGE_SIZE, StageUse
from agent.datapath.functions.user_program import CONFIGURATION, UserProgram

START, END, CONFIGURED, PEER = 0, 8, 16, (24, 32)
READ = range(24, 80, 8)
"""Offsets of the words with the fields that the function reads."""
TARGET, RESULT = (80, 88), 96
"""Offsets of the words that the function writes: target; reason and changed."""
_EVERYTHING = frozenset(range(0, STAGE_SIZE, 8))

_INSTRUCTION = struct.Struct("<BBhi")
_SIZE = 8
_LOAD, _STORE, _STORE_ZERO, _LOAD_IMM64 = 0x79, 0x7B, 0x7A, 0x18
_MOVE, _MOVE_IMM, _MOVE_LOWER, _ADD_IMM, _CALL, _JUMP, _EXIT = 0xBF, 0xB7, 0xBC, 0x07, 0x85, 0x05, 0x95
_AND_IMM, _OR_IMM, _OR, _SHIFT_LEFT = 0x57, 0x47, 0x4F, 0x67
_PSEUDO_CALL = 1
_VERDICT, _STAGE, _PACKET, _PACKET_END, _SCRATCH, _KEPT, _FRAME = 0, 1, 2, 3, 5, 6, 10
_WRITTEN_TARGET = 1 << 16
"""Above reason and changed (bpf/entry/function.h)."""


def isolate(program: UserProgram, *, peer: bool = True) -> UserProgram:
    """Return the program behind a frame of its own; `peer`: it may know the droplet that a packet came from."""
    enter, configured = _enter(_EVERYTHING, frozenset(), -STAGE_SIZE, peer=peer)
    before = [_op(_MOVE, _KEPT, _STAGE), *enter]
    after = _leave()
    call = _op(_CALL, 0, _PSEUDO_CALL, 0, len(after))
    around = [*before, call, *after]
    relocations = [Relocation(1 + configured, CONFIGURATION)]
    relocations += [Relocation(one.index + len(around), one.map) for one in program.relocations]
    lines = {index + len(around): line for index, line in program.lines.items()}
    return UserProgram(b"".join(around) + program.instructions, tuple(relocations), program.maps, lines)


def isolate_in_one_frame(program: UserProgram, use: StageUse, depth: int, *, peer: bool = True) -> UserProgram:
    """Return the program with the copy in its own frame, below `depth` bytes of its stack; it does not write `target`.

    `use` is what it uses of struct stage: nothing else is there.
    """
    below = -(-(-depth // _SIZE) * _SIZE) - STAGE_SIZE
    enter, configured = _enter(use.read, use.written, below, peer=peer)
    end = next(iter(starts(program.instructions)[1:]), len(program.instructions) // _SIZE)
    after = _result(below) if RESULT in use.written else []
    after = [_op(_MOVE_LOWER, _VERDICT, _VERDICT), *after, _op(_EXIT)]
    own = bytearray(program.instructions[: end * _SIZE])
    for index in range(end):
        if own[index * _SIZE] == _EXIT:
            own[index * _SIZE : (index + 1) * _SIZE] = _op(_JUMP, offset=end - index - 1)
    for index, called in calls(program.instructions).items():
        if index < end <= called:
            own[index * _SIZE : (index + 1) * _SIZE] = _op(_CALL, 0, _PSEUDO_CALL, 0, called + len(after) - index - 1)

    def moved(index: int) -> int:
        return index + len(enter) + (len(after) if index >= end else 0)

    code = b"".join((*enter, bytes(own), *after, program.instructions[end * _SIZE :]))
    relocations = [Relocation(configured, CONFIGURATION)] if CONFIGURED in use.read else []
    relocations += [Relocation(moved(one.index), one.map) for one in program.relocations]
    return UserProgram(code, tuple(relocations), program.maps, {moved(at): line for at, line in program.lines.items()})


def _enter(read: Collection[int], written: Collection[int], to_at: int, *, peer: bool) -> tuple[list[bytes], int]:
    """Copy words that the function may read, and clear all registers but R1.

    Returns also which instruction loads the configuration's address.
    """
    code = [_op(_STORE, _FRAME, register, at + to_at) for at, register in _POINTERS if at in read]
    configured = len(code)
    if CONFIGURED in read:
        code += [_op(_LOAD_IMM64, _SCRATCH, PSEUDO_MAP_VALUE), _op(0)]
        code += [_op(_STORE, _FRAME, _SCRATCH, CONFIGURED + to_at)]
    hidden = () if peer else PEER
    code += _copied([at for at in READ if at in read and at not in hidden], _STAGE, 0, _FRAME, to_at)
    zeros = [at for at in (*hidden, *TARGET) if at in read]
    zeros += [RESULT] if RESULT in read or RESULT in written else []
    code += [_op(_STORE_ZERO, _FRAME, 0, at + to_at) for at in zeros]
    code += [_op(_MOVE, _STAGE, _FRAME), _op(_ADD_IMM, _STAGE, 0, 0, to_at)]
    return code + [_op(_MOVE_IMM, register) for register in range(2, 6)], configured


def _leave() -> list[bytes]:
    """Copy `target` back, and return."""
    code = [_op(_MOVE_LOWER, _VERDICT, _VERDICT), *_copied(TARGET, _FRAME, -STAGE_SIZE, _KEPT, 0)]
    return [*code, *_result(-STAGE_SIZE, _WRITTEN_TARGET), _op(_EXIT)]


def _result(at: int, flag: int = 0) -> list[bytes]:
    """Put `reason` and `changed` above the verdict."""
    code = [_op(_LOAD, _SCRATCH, _FRAME, at + RESULT), _op(_AND_IMM, _SCRATCH, 0, 0, 0xFFFF)]
    code += [_op(_OR_IMM, _SCRATCH, 0, 0, flag)] if flag else []
    return [*code, _op(_SHIFT_LEFT, _SCRATCH, 0, 0, 32), _op(_OR, _VERDICT, _SCRATCH)]


def _copied(words: Iterable[int], source: int, source_at: int, to: int, to_at: int) -> list[bytes]:
    """Copy words of struct stage, which begins at an offset from a register here and there."""
    code = []
    for at in words:
        code += [_op(_LOAD, _SCRATCH, source, at + source_at), _op(_STORE, to, _SCRATCH, at + to_at)]
    return code


def _op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, source << 4 | to, offset, imm)


_POINTERS = ((START, _PACKET), (END, _PACKET_END))
