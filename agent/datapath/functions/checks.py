"""Checks a user's instructions before the kernel sees them: only what functions may do passes. Pure.

The verifier proves memory accesses and the end of every path; these checks hold what it does not know: which helpers a
function may call, and that it uses no maps but its own. Instruction set: Documentation/bpf/standardization, RFC 9669.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.datapath.functions.helper_names import HELPER_NAMES
from agent.datapath.functions.instructions import (
    ALU,
    ALU64,
    ATOMIC,
    CALL,
    DW,
    EXIT,
    HIGHEST_REGISTER,
    JA,
    JMP,
    JMP32,
    LD,
    LD_IMM64,
    LDX,
    MAY_GOTO,
    MEM,
    MEMSX,
    PSEUDO_CALL,
    PSEUDO_KFUNC,
    ST,
    STX,
    Instruction,
    decode,
    second_halves,
)
from agent.datapath.functions.pointer_flow import follow
from agent.datapath.functions.refusals import CheckError
from agent.datapath.functions.user_program import MAX_INSTRUCTIONS, UserProgram

ALLOWED_HELPERS: Mapping[int, str] = {
    1: "map_lookup_elem",
    2: "map_update_elem",
    3: "map_delete_elem",
    5: "ktime_get_ns",
    7: "get_prandom_u32",
    8: "get_smp_processor_id",
    28: "csum_diff",
    118: "jiffies64",
    160: "ktime_get_coarse_ns",
}
"""The helpers that functions may call, by number (enum bpf_func_id): none takes the context or leaves the function."""

_ALU_OPERATIONS = frozenset(range(0x00, 0xD1, 0x10))
_CONDITIONS = frozenset((0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0))
_ATOMIC_OPERATIONS = frozenset((0x00, 0x40, 0x50, 0xA0, 0x01, 0x41, 0x51, 0xA1, 0xE1, 0xF1))
_IMM64_KINDS = {
    2: "the value of a map",
    3: "kernel memory (BTF)",
    4: "the address of a function",
    5: "a map by its index",
    6: "a map's value by its index",
}


def check(program: UserProgram) -> None:
    """Raise CheckError for the first instruction that functions may not use."""
    count, rest = divmod(len(program.instructions), 8)
    if rest or not count:
        raise CheckError("the program has no whole instructions: compile it anew")
    if count > MAX_INSTRUCTIONS:
        raise CheckError(
            f"the program has {count} instructions, the limit is {MAX_INSTRUCTIONS}: use loops instead of unrolling, "
            "or split it into several functions"
        )
    code = decode(program.instructions)
    _Walk(program, code).run()
    follow(program)


class _Walk:
    """One pass over a program's instructions."""

    def __init__(self, program: UserProgram, code: Sequence[Instruction]) -> None:
        self._program = program
        self._code = code
        self._maps = {one.index: one.map for one in program.relocations}
        self._names = {one.name for one in program.maps}
        self._second_halves = second_halves(code)
        self._by_class: Mapping[int, Callable[[int, Instruction], None]] = {
            LD: self._load_immediate,
            LDX: self._access,
            ST: self._access,
            STX: self._store_register,
            ALU: self._compute,
            ALU64: self._compute,
            JMP: self._jump,
            JMP32: self._jump,
        }

    def run(self) -> None:
        """Check every instruction, and that the relocations fit."""
        for index, instruction in enumerate(self._code):
            if index not in self._second_halves:
                if max(instruction.registers & 15, self._register(instruction)) > HIGHEST_REGISTER:
                    raise self._refusal(index, "names a register that does not exist", "compile the program anew")
                self._by_class[instruction.kind](index, instruction)
        for index in self._maps:
            if index >= len(self._code) or self._code[index].code != LD_IMM64 or index in self._second_halves:
                raise CheckError(f"a map is to go into instruction {index}, which loads none: compile the program anew")
        self._check_end()

    @staticmethod
    def _register(instruction: Instruction) -> int:
        """Return the source register; 0 where the field says something else."""
        pseudo = instruction.code in (LD_IMM64, JMP | CALL)
        return 0 if pseudo else instruction.source

    def _check_end(self) -> None:
        last = len(self._code) - 1
        exits = self._code[last].code in (JMP | EXIT, JMP | JA, JMP32 | JA)
        if last in self._second_halves or not exits:
            raise self._refusal(last, "is the last one, and goes on behind the program", "end it with return")

    def _load_immediate(self, index: int, instruction: Instruction) -> None:
        if instruction.code != LD_IMM64:
            raise self._refusal(index, "is a packet access of classic BPF", "read through the pointers in struct stage")
        if index + 1 not in self._second_halves:
            raise self._refusal(index, "is half of a 64-bit load", "compile the program anew")
        second = self._code[index + 1]
        if (second.code, second.registers, second.offset) != (0, 0, 0):
            raise self._refusal(index, "is a malformed 64-bit load", "compile the program anew")
        self._check_map(index, instruction, second)

    def _check_map(self, index: int, instruction: Instruction, second: Instruction) -> None:
        name = self._maps.get(index)
        if name is not None:
            if name not in self._names or instruction.source not in (0, 1) or instruction.imm or second.imm:
                raise self._refusal(index, f"uses the map {name}, which is not one of its own", "declare the map")
        elif instruction.source == 1:
            raise self._refusal(index, "uses a map by its descriptor", "declare the map, and use it by its name")
        elif instruction.source:
            what = _IMM64_KINDS.get(instruction.source, "something unknown")
            raise self._refusal(index, f"loads {what}", "use only maps of its own and the fields of struct stage")

    def _access(self, index: int, instruction: Instruction) -> None:
        mode, signed = instruction.code & 0xE0, instruction.kind == LDX and instruction.code & DW != DW
        if mode != MEM and not (mode == MEMSX and signed):
            raise self._refusal(index, f"accesses memory in a way that is unknown ({instruction.code:#04x})", _ANEW)

    def _store_register(self, index: int, instruction: Instruction) -> None:
        if instruction.code & 0xE0 != ATOMIC:
            return self._access(index, instruction)
        if instruction.code & DW not in (0x00, 0x18) or instruction.imm not in _ATOMIC_OPERATIONS:
            raise self._refusal(index, "is an atomic operation that is unknown", "use those of 4 and 8 bytes")
        return None

    def _compute(self, index: int, instruction: Instruction) -> None:
        if instruction.code & 0xF0 not in _ALU_OPERATIONS:
            raise self._refusal(index, f"is an unknown operation ({instruction.code:#04x})", _ANEW)

    def _jump(self, index: int, instruction: Instruction) -> None:
        operation, wide = instruction.code & 0xF0, instruction.kind == JMP
        if operation == EXIT and wide and not instruction.code & 0x08:
            return
        if operation == CALL and wide and not instruction.code & 0x08:
            self._call(index, instruction)
        elif operation == JA and not instruction.code & 0x08:
            self._check_target(index, instruction.offset if wide else instruction.imm)
        elif operation in _CONDITIONS:
            self._check_target(index, instruction.offset)
        elif operation == MAY_GOTO:
            raise self._refusal(index, "is may_goto", "bound the loop by a constant")
        else:
            raise self._refusal(index, f"is an unknown jump ({instruction.code:#04x})", _ANEW)

    def _call(self, index: int, instruction: Instruction) -> None:
        if instruction.source == PSEUDO_CALL:
            if instruction.imm == -1:
                raise self._refusal(index, "calls a function that is not there", "make it static __always_inline")
            return self._check_target(index, instruction.imm)
        if instruction.source == PSEUDO_KFUNC:
            raise self._refusal(index, "calls a function of the kernel (kfunc)", _HELPERS)
        if instruction.source:
            raise self._refusal(index, "is an unknown kind of call", _ANEW)
        if instruction.imm not in ALLOWED_HELPERS:
            name = HELPER_NAMES.get(instruction.imm, "")
            what = f"bpf_{name}" if name else f"helper {instruction.imm}, which is unknown"
            raise self._refusal(index, f"calls {what}", _WAY_OUT.get(name, _HELPERS))
        return None

    def _check_target(self, index: int, distance: int) -> None:
        target = index + 1 + distance
        if not 0 <= target < len(self._code) or target in self._second_halves:
            raise self._refusal(index, "leaves the program", _ANEW)

    def _refusal(self, index: int, what: str, way_out: str) -> CheckError:
        line = self._program.line_of(index)
        where = f"line {line} (instruction {index})" if line else f"instruction {index}"
        return CheckError(f"{where} {what}, which functions may not: {way_out}")


_ANEW = "compile the program anew, for the BPF target of version 3 or lower"
_HELPERS = f"use only {', '.join(f'bpf_{name}' for name in ALLOWED_HELPERS.values())}"
_WAY_OUT = {
    "tail_call": "return a verdict; the agent calls the next function",
    "redirect": "return the verdict that sends the packet",
    "redirect_map": "return the verdict that sends the packet",
    "loop": "bound the loop by a constant",
    "for_each_map_elem": "look entries up by their keys",
    "trace_printk": "count in a map, and read it with dropletctl function NAME maps",
    "trace_vprintk": "count in a map, and read it with dropletctl function NAME maps",
}
