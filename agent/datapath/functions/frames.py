"""Clears the stack that a user's functions use, before they use it. Pure.

Since Linux 6.3 the verifier lets privileged programs read stack that they did not write. There may be what other
programs and the kernel left behind: packets of other tenants, addresses of the kernel. So each function of a program
begins with stores of zeros to all of its frame, as deep as the verifier found it to be. One that uses no stack does
not change.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.instructions import STAGE_SIZE
from agent.datapath.functions.refusals import FunctionError
from agent.datapath.functions.user_program import UserProgram

_DEPTHS = re.compile(r"^stack depth (\d+(?:\+\d+)*)", re.MULTILINE)
_CALL, _LD_IMM64, _PSEUDO_CALL, _STORE_ZERO, _FRAME = 0x85, 0x18, 1, 0x7A, 10
_SIZE = 8
_AROUND = 2
"""The functions before the user's in a linked program: the shell and its isolation."""


def depths_of(log: str) -> tuple[int, ...]:
    """Return the bytes of stack of each function of a program, in the order of its instructions.

    `log` is the verifier's (BPF_LOG_STATS); empty if it does not say so.
    """
    found = _DEPTHS.search(log)
    return tuple(int(one) for one in found[1].split("+")) if found else ()


def depth_of_entry(program: UserProgram, depths: Sequence[int]) -> int | None:
    """Return the bytes of stack of a user's first function; None if they cannot be told from those of others."""
    users = depths[_AROUND:]
    return users[0] if len(users) == len(starts(program.instructions)) else None


def clear_frames(program: UserProgram, depths: Sequence[int]) -> UserProgram:
    """Return a user's program that clears its frames; `depths` are those of the program linked with it before.

    Raises FunctionError if it reads more of its caller's frame than struct stage.
    """
    if len(depths) <= _AROUND:
        raise FunctionError("the kernel does not say how much stack the program uses: update the kernel")
    if depths[1] > STAGE_SIZE:
        raise FunctionError(
            "it accesses stack in front of struct stage, which functions may not: stay within its fields"
        )
    begins = starts(program.instructions)
    users = tuple(depths[_AROUND:])
    if len(users) != len(begins):  # the kernel removed functions that nothing reaches, and does not say which
        users = (max(users),) * len(begins)
    return _with_prologues(program, {start: _zeros(depth) for start, depth in zip(begins, users, strict=True)})


def _zeros(depth: int) -> bytes:
    return b"".join(struct.pack("<BBhi", _STORE_ZERO, _FRAME, -at, 0) for at in range(_SIZE, depth + _SIZE, _SIZE))


def calls(instructions: bytes) -> dict[int, int]:
    """Return the number of the instruction where each called function begins, by the number of the call."""
    found, position = {}, 0
    while position < len(instructions) // _SIZE:
        code, registers, _, imm = struct.unpack_from("<BBhi", instructions, position * _SIZE)
        if code == _CALL and registers >> 4 == _PSEUDO_CALL:
            found[position] = position + 1 + imm
        position += 2 if code == _LD_IMM64 else 1
    return found


def starts(instructions: bytes) -> list[int]:
    """Return the numbers of the instructions where functions begin."""
    return sorted({0, *calls(instructions).values()})


def _with_prologues(program: UserProgram, prologues: Mapping[int, bytes]) -> UserProgram:
    """Insert instructions where functions begin. Jumps stay within a function, behind what is inserted there."""
    old = program.instructions

    def moved(index: int, *, before: bool = False) -> int:
        added = (len(code) for start, code in prologues.items() if start < index or (start == index and not before))
        return index + sum(added) // _SIZE

    parts = bytearray()
    for index in range(len(old) // _SIZE):
        parts += prologues.get(index, b"") + old[index * _SIZE : (index + 1) * _SIZE]
    for call, target in calls(old).items():
        place = moved(call)
        struct.pack_into("<i", parts, place * _SIZE + 4, moved(target, before=True) - place - 1)
    relocations = tuple(Relocation(moved(one.index), one.map) for one in program.relocations)
    lines = {moved(index): line for index, line in program.lines.items()}
    return UserProgram(bytes(parts), relocations, program.maps, lines)
