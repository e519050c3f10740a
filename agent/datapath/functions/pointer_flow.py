"""Follows addresses of kernel memory through a user's program, so that none leaves it. Pure.

The verifier runs with the agent's privileges and lets a program store an address into a map, which its owner can read.
So the program's paths are followed here: which registers and stack slots may hold addresses, at every instruction. A
slot or register that holds an address on one path counts as one. Numbers come from the packet, from maps, from struct
stage and from helpers. What the verifier refuses in any case, such as reading through a number, is not looked at.

It also finds what a program reads and writes of struct stage, which is what `isolation` has to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from agent.datapath.functions import instructions as bpf
from agent.datapath.functions.instructions import STAGE_SIZE, Instruction, StageUse, decode
from agent.datapath.functions.pointer_values import ANY, ENTRY, NUMBER, PACKET, Frame, Kind, State, Value
from agent.datapath.functions.refusals import CheckError
from agent.datapath.functions.user_program import UserMap, UserProgram

POINTERS_END = 24
"""Where its pointers end: start, end, configuration."""
MOST_STEPS = 50_000
MOST_DEPTH = 8
"""Functions that call each other; the kernel's limit."""
_LOOKUP, _UPDATE, _DELETE, _CSUM_DIFF = 1, 2, 3, 28


def follow(program: UserProgram) -> StageUse:
    """Return what a checked program uses of struct stage; CheckError if an address may leave it."""
    return _Flow(program).run()


class _Flow:
    def __init__(self, program: UserProgram) -> None:
        self._program = program
        self._code = decode(program.instructions)
        self._relocations = {one.index: one.map for one in program.relocations}
        self._maps = {one.name: one for one in program.maps}
        self._read: set[int] = set()
        self._written: set[int] = set()
        self._known: dict[tuple[tuple[int, ...], int], State] = {}
        self._waiting: list[tuple[int, tuple[int, ...]]] = []
        self._queued: set[tuple[tuple[int, ...], int]] = set()
        self._joins = frozenset(
            index + 1 + (one.imm if one.code == bpf.JMP32 | bpf.JA else one.offset)
            for index, one in enumerate(self._code)
            if one.kind in _JUMPS
        )
        self._steps = self._index = 0
        self._by_class: Mapping[int, Callable[[State, Instruction], None]] = {
            bpf.LD: self._load_immediate,
            bpf.LDX: self._load,
            bpf.ST: self._store_number,
            bpf.STX: self._store_register,
            bpf.ALU: self._compute,
            bpf.ALU64: self._compute,
        }

    def run(self) -> StageUse:
        """Follow all paths until nothing new is found."""
        entry = Frame(-1)
        entry.registers[1] = Value(Kind.STAGE, 0)
        entry.registers[10] = Value(Kind.STACK, 0)
        self._reach(0, State([entry]))
        while self._waiting:
            index, calls = heappop(self._waiting)
            self._queued.discard((calls, index))
            self._walk(index, self._known[calls, index].copy())
        return StageUse(frozenset(self._read), frozenset(self._written))

    def _reach(self, index: int, state: State) -> None:
        key = (state.calls, index)
        known = self._known.get(key)
        if known is None:
            self._known[key] = state.copy()
        elif not known.join(state):
            return
        if key not in self._queued:
            self._queued.add(key)
            heappush(self._waiting, (index, key[0]))

    def _walk(self, index: int, state: State) -> None:
        """Follow a path to the next jump, or to where another path comes in."""
        while True:
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise CheckError("the program has too many paths to check them: use fewer loops and calls")
            self._index, instruction = index, self._code[index]
            if instruction.kind in _JUMPS:
                return self._jump(index, state, instruction)
            self._by_class[instruction.kind](state, instruction)
            index += 2 if instruction.code == bpf.LD_IMM64 else 1
            if index in self._joins:
                return self._reach(index, state)

    def _refusal(self, what: str, way_out: str) -> CheckError:
        line = self._program.line_of(self._index)
        where = f"line {line} (instruction {self._index})" if line else f"instruction {self._index}"
        return CheckError(f"{where} {what}, which functions may not: {way_out}")

    def _number(self, value: Value | None, what: str) -> None:
        if value is not None and value.is_address:
            raise self._refusal(f"{what} an address of kernel memory", "store and return numbers only")

    # Memory

    def _load_immediate(self, state: State, instruction: Instruction) -> None:
        name = self._relocations.get(self._index)
        low, high = instruction.imm & 0xFFFFFFFF, self._code[self._index + 1].imm & 0xFFFFFFFF
        value = Value(Kind.NUMBER, high << 32 | low) if name is None else Value(Kind.MAP, map=name)
        state.registers[instruction.to] = value

    def _load(self, state: State, instruction: Instruction) -> None:
        base = state.registers[instruction.source] or NUMBER
        whole = instruction.size == 8 and instruction.code & 0xE0 == bpf.MEM
        state.registers[instruction.to] = self._loaded(state, base.moved(instruction.offset), instruction.size, whole)

    def _loaded(self, state: State, base: Value, size: int, whole: bool) -> Value:
        """Return what memory holds; `whole`: an aligned address can be read there without losing a part of it."""
        if base.kind in (Kind.MAP, Kind.ANY):
            raise self._refusal("reads through an address that is not always of the same kind", _ONE_KIND)
        if base.kind is Kind.STACK:
            frame = state.frames[base.frame]
            touched = frame.touched(base.at, size)
            if touched and base.at in frame.slots and whole:
                return frame.slots[base.at]
            return self._part_of(touched, base)
        if base.kind is Kind.STAGE:
            self._use(self._read, base.at, size)
            if base.at is None:
                return ANY
            if base.at < POINTERS_END:
                if not whole or base.at % 8:
                    raise self._refusal("reads a part of an address", _WHOLE)
                return ANY if state.overwritten else ENTRY if base.at == 16 else PACKET
        return NUMBER

    def _part_of(self, touched: list[int], base: Value) -> Value:
        if touched and base.at is not None:
            raise self._refusal("reads a part of an address", _WHOLE)
        return ANY if touched else NUMBER

    def _use(self, words: set[int], at: int | None, size: int) -> None:
        if at is not None and not 0 <= at <= STAGE_SIZE - size:
            raise self._refusal("leaves struct stage", "use its fields")
        words.update(range(0, STAGE_SIZE, 8) if at is None else range(at // 8 * 8, at + size, 8))

    def _store_number(self, state: State, instruction: Instruction) -> None:
        base = (state.registers[instruction.to] or NUMBER).moved(instruction.offset)
        self._store(state, base, instruction.size, NUMBER)

    def _store_register(self, state: State, instruction: Instruction) -> None:
        base = (state.registers[instruction.to] or NUMBER).moved(instruction.offset)
        value = state.registers[instruction.source] or NUMBER
        if instruction.code & 0xE0 != bpf.ATOMIC:
            return self._store(state, base, instruction.size, value)
        self._number(value, "stores")
        if base.kind in (Kind.STAGE, Kind.ANY) or (base.kind is Kind.STACK and base.at is None):
            raise self._refusal("is an atomic operation that is not on a map's entry", "use a map's entry")
        found = self._loaded(state, base, instruction.size, whole=False)
        self._store(state, base, instruction.size, NUMBER)
        if instruction.imm == bpf.CMPXCHG:
            self._number(state.registers[0], "stores")
            state.registers[0] = found
        elif instruction.imm & bpf.FETCH:
            state.registers[instruction.source] = found
        return None

    def _store(self, state: State, base: Value, size: int, value: Value) -> None:
        if base.kind is Kind.STACK:
            return self._store_on_stack(state.frames[base.frame], base.at, size, value)
        self._number(value, "stores")
        if base.kind is Kind.STAGE:
            self._use(self._written, base.at, size)
            state.overwritten |= base.at is None or base.at < POINTERS_END
        elif base.kind in (Kind.ANY, Kind.MAP):
            raise self._refusal("writes through an address that is not always of the same kind", _ONE_KIND)
        return None

    def _store_on_stack(self, frame: Frame, at: int | None, size: int, value: Value) -> None:
        for slot in frame.touched(at, size):
            frame.slots[slot] = ANY
        if at is not None and size == 8 and at % 8 == 0:
            frame.slots.pop(at, None)
            if value.is_address:
                frame.slots[at] = value
        elif value.is_address:
            raise self._refusal("stores a part of an address, or one at a variable offset", _WHOLE)

    # Arithmetic

    def _compute(self, state: State, instruction: Instruction) -> None:
        registers = state.registers
        first, second = registers[instruction.to] or NUMBER, Value(Kind.NUMBER, instruction.imm)
        if instruction.by_register:
            second = registers[instruction.source] or NUMBER
        wide = instruction.kind == bpf.ALU64
        if instruction.operation == bpf.MOV:
            whole = wide and not instruction.offset
            if second.is_address and not whole:
                raise self._refusal("takes a part of an address", _WHOLE)
            small = second.at is not None and 0 <= second.at < 128
            registers[instruction.to] = second if whole or small else NUMBER
            return
        registers[instruction.to] = self._computed(instruction, wide, first, second)

    def _computed(self, instruction: Instruction, wide: bool, first: Value, second: Value) -> Value:
        if not first.is_address and not (second.is_address and instruction.operation not in _OF_ONE):
            return NUMBER
        if wide and instruction.operation == bpf.ADD and not (first.is_address and second.is_address):
            address, number = (first, second) if first.is_address else (second, first)
            return address.moved(number.at)
        if wide and instruction.operation == bpf.SUB and first.is_address:
            if not second.is_address:
                return first.moved(None if second.at is None else -second.at)
            if _same_object(first, second):
                return NUMBER
        raise self._refusal("computes with an address", "subtract only pointers into the packet from each other")

    # Jumps and calls

    def _jump(self, index: int, state: State, instruction: Instruction) -> None:
        wide = instruction.kind == bpf.JMP
        if instruction.operation == bpf.JA:
            self._reach(index + 1 + (instruction.offset if wide else instruction.imm), state)
        elif instruction.operation == bpf.EXIT:
            self._exit(state)
        elif instruction.operation == bpf.CALL and instruction.source == bpf.PSEUDO_CALL:
            self._call(index, state, instruction.imm)
        elif instruction.operation == bpf.CALL:
            self._call_helper(state, instruction.imm)
            self._reach(index + 1, state)
        else:
            self._branch(index, state, instruction)

    def _branch(self, index: int, state: State, instruction: Instruction) -> None:
        """Follow both ways; behind a comparison with 0 an address is known to be one, or not."""
        first = state.registers[instruction.to] or NUMBER
        second = Value(Kind.NUMBER, instruction.imm)
        if instruction.by_register:
            second = state.registers[instruction.source] or NUMBER
        taken = state.copy()
        if first.is_address or second.is_address:
            equal = instruction.operation == bpf.JEQ
            null = second.kind is Kind.NUMBER and second.at == 0 and instruction.kind == bpf.JMP
            if null and (equal or instruction.operation == bpf.JNE):
                is_null, is_not = (taken, state) if equal else (state, taken)
                is_null.registers[instruction.to] = Value(Kind.NUMBER, 0)
                is_not.registers[instruction.to] = first._replace(null=False)
            elif instruction.kind != bpf.JMP or not _same_object(first, second):
                raise self._refusal("compares an address with something else", _COMPARE)
        self._reach(index + 1 + instruction.offset, taken)
        self._reach(index + 1, state)

    def _call(self, index: int, state: State, distance: int) -> None:
        if len(state.frames) >= MOST_DEPTH:
            raise self._refusal("calls functions too deeply", "make them static __always_inline")
        called = Frame(index + 1)
        called.registers[1:6] = state.registers[1:6]
        called.registers[10] = Value(Kind.STACK, 0, len(state.frames))
        state.registers[0:6] = [None] * 6
        state.frames.append(called)
        self._reach(index + 1 + distance, state)

    def _exit(self, state: State) -> None:
        left = state.frames.pop()
        if not state.frames:
            return self._number(left.registers[0], "returns")
        if left.registers[0] is not None and left.registers[0].kind is Kind.STACK and left.registers[0].frame:
            raise self._refusal("returns an address on the stack", "return numbers")
        state.registers[0] = left.registers[0]
        return self._reach(left.back, state)

    def _call_helper(self, state: State, number: int) -> None:
        registers = state.registers
        if number in (_LOOKUP, _UPDATE, _DELETE):
            one = self._map(registers[1])
            self._given(state, registers[2], one.key_size if one else None)
            if number == _UPDATE:
                self._given(state, registers[3], one.value_size if one else None)
                self._number(registers[4], "passes")
        elif number == _CSUM_DIFF:
            for place in (1, 3):
                size = registers[place + 1] or NUMBER
                self._number(size, "passes")
                self._given(state, registers[place], size.at)
            self._number(registers[5], "passes")
        registers[0:6] = [ENTRY if number == _LOOKUP else NUMBER, *[None] * 5]

    def _map(self, value: Value | None) -> UserMap | None:
        """Return the map that a helper uses, None if it is not always the same one, or none."""
        return self._maps.get(value.map) if value is not None and value.kind is Kind.MAP else None

    def _given(self, state: State, value: Value | None, size: int | None) -> None:
        """Check memory that a helper reads."""
        value = value or NUMBER
        if value.kind in (Kind.NUMBER, Kind.PACKET, Kind.ENTRY):
            return
        if value.kind is Kind.STACK:
            touched = bool(state.frames[value.frame].touched(value.at, size))
        else:
            touched = value.kind is not Kind.STAGE or value.at is None or value.at < POINTERS_END
            self._use(self._read, None if size is None else value.at, size or 0)
        if touched:
            raise self._refusal("passes an address of kernel memory to a helper", "pass numbers only")


def _same_object(first: Value, second: Value) -> bool:
    """Return whether the difference of two addresses says nothing but a distance in what a function has anyway."""
    if first.kind not in (Kind.PACKET, Kind.STACK, Kind.STAGE) or first.null or second.null:
        return False
    return first.kind is second.kind and first.frame == second.frame


_JUMPS = (bpf.JMP, bpf.JMP32)
_OF_ONE = frozenset((0x80, 0xD0))
"""BPF_NEG and BPF_END, which have one operand."""
_WHOLE = "copy pointers as a whole"
_ONE_KIND = "use a pointer for one purpose only"
_COMPARE = "compare pointers with NULL, and those into the packet with each other"
