"""BPF instructions as numbers: classes, modes and operations. Pure. RFC 9669 has them all."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
DW, IMM, MEM, MEMSX, ATOMIC = 0x18, 0x00, 0x60, 0x80, 0xC0
LD_IMM64 = LD | IMM | DW
ADD, SUB, MOV = 0x00, 0x10, 0xB0
JA, JEQ, JNE, CALL, EXIT, MAY_GOTO = 0x00, 0x10, 0x50, 0x80, 0x90, 0xE0
PSEUDO_CALL, PSEUDO_KFUNC = 1, 2
HIGHEST_REGISTER = 10
FETCH, CMPXCHG = 0x01, 0xF1
STAGE_SIZE = 104
"""Bytes of struct stage (bpf/stage.h)."""
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_INSTRUCTION = struct.Struct("=BBhi")


class Instruction(NamedTuple):
    """struct bpf_insn { u8 code; u8 registers; s16 offset; s32 imm }."""

    code: int
    registers: int
    offset: int
    imm: int

    @property
    def source(self) -> int:
        """The source register, or the kind of a pseudo instruction."""
        return self.registers >> 4

    @property
    def to(self) -> int:
        """The destination register."""
        return self.registers & 15

    @property
    def kind(self) -> int:
        """The instruction's class: LD to ALU64."""
        return self.code & 7

    @property
    def operation(self) -> int:
        """The operation of an arithmetic instruction or a jump."""
        return self.code & 0xF0

    @property
    def by_register(self) -> bool:
        """Whether the second operand of an arithmetic instruction or a jump is a register."""
        return bool(self.code & 0x08)

    @property
    def size(self) -> int:
        """The bytes of a memory access."""
        return _SIZES[self.code & DW]


class StageUse(NamedTuple):
    """The words of 8 bytes of struct stage that a program reads and writes, by their offsets."""

    read: frozenset[int]
    written: frozenset[int]


def decode(instructions: bytes) -> list[Instruction]:
    """Return the instructions; the bytes are a multiple of 8."""
    return [Instruction(*fields) for fields in _INSTRUCTION.iter_unpack(instructions)]


def second_halves(code: Sequence[Instruction]) -> frozenset[int]:
    """Return the numbers of the instructions that are the second half of a 64-bit load."""
    found: set[int] = set()
    for index, instruction in enumerate(code[:-1]):
        if instruction.code == LD_IMM64 and index not in found:
            found.add(index + 1)
    return frozenset(found)
