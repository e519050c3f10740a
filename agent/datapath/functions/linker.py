"""Links a user's function into the program around it: `bpf/entry/function.h`. Pure.

The shell, as the compiler wrote it, calls a helper that does not exist and loads two numbers that stand for the
function's. The user's instructions are appended as a BPF-to-BPF subprogram, which the calls are then directed to
(Documentation/bpf/standardization/instruction-set.rst in the kernel's source).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from agent.datapath.bpf.compiler import PENDING as SHELL_PENDING
from agent.datapath.bpf.compiler import SOCKETS as SHELL_SOCKETS
from agent.datapath.bpf.compiler import CompiledProgram, Relocation
from agent.datapath.functions.user_program import PENDING, SOCKETS, UserProgram

MAGIC_CALL, MAGIC_INDEX, MAGIC_CLOSED, MAGIC_LANE = 0x7FD20001, 0x5FD20002, 0x5FD20003, 0x5FD20004
"""Numbers in `bpf/entry/function.h`."""

_CALL, _LD_IMM64 = 0x85, 0x18
_PSEUDO_CALL = 1
_SIZE = 8
_IMM = struct.Struct("<i")


class LinkError(Exception):
    """The shell is not one: it was compiled from other sources than this module expects."""


def map_of(function_map: str) -> str:
    """Return the name by which a linked program refers to a map of its function."""
    return f"function:{function_map}"


def link(shell: CompiledProgram, user: UserProgram, *, index: int, closed: bool) -> CompiledProgram:
    """Return the program to load: shell, then user's function.

    `index` is the function's in the map `function_counters`, `closed` whether a fault drops the packet. Relocations
    name the agent's maps as they are, and those of the function by `map_of`.
    """
    code = bytearray(shell.instructions)
    start = len(code) // _SIZE
    if not _patch(code, {MAGIC_INDEX: index, MAGIC_CLOSED: int(closed)}):
        raise LinkError(f"{shell.name} calls no function")
    return CompiledProgram(shell.name, bytes(code) + user.instructions, (*_shells(shell), *_users(user, start)))


def link_process(program: CompiledProgram, *, index: int, closed: bool, lane: int = 0) -> CompiledProgram:
    """Return a program of a function in a process to load; `lane` is the entry of its pair in the XSKMAP."""
    code = bytearray(program.instructions)
    _patch(code, {MAGIC_INDEX: index, MAGIC_CLOSED: int(closed), MAGIC_LANE: lane})
    return CompiledProgram(program.name, bytes(code), _shells(program))


def _patch(code: bytearray, numbers: Mapping[int, int]) -> int:
    """Put numbers in the place of constants, and direct calls of the function to the end; return how many calls."""
    start, calls, position = len(code) // _SIZE, 0, 0
    while position < start:
        at = position * _SIZE
        opcode, registers = code[at], code[at + 1]
        (imm,) = _IMM.unpack_from(code, at + 4)
        if opcode == _CALL and registers >> 4 == 0 and imm == MAGIC_CALL:
            code[at + 1] = registers & 0x0F | _PSEUDO_CALL << 4
            _IMM.pack_into(code, at + 4, start - position - 1)
            calls += 1
        elif opcode == _LD_IMM64 and registers >> 4 == 0 and imm in numbers:
            _IMM.pack_into(code, at + 4, numbers[imm])
        position += 2 if opcode == _LD_IMM64 else 1
    return calls


def _shells(shell: CompiledProgram) -> tuple[Relocation, ...]:
    own = {SHELL_PENDING: PENDING, SHELL_SOCKETS: SOCKETS}
    names = {theirs: map_of(name) for theirs, name in own.items()}
    return tuple(Relocation(one.index, names.get(one.map, one.map)) for one in shell.relocations)


def _users(user: UserProgram, start: int) -> tuple[Relocation, ...]:
    return tuple(Relocation(start + one.index, map_of(one.map)) for one in user.relocations)
