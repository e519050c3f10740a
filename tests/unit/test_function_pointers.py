"""No address of kernel memory leaves a function: what is refused, what passes, and what is known of struct stage."""

from __future__ import annotations

import struct

import pytest

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.pointer_flow import follow
from agent.datapath.functions.refusals import CheckError
from agent.datapath.functions.user_program import UserMap, UserProgram

TABLE = UserMap("table", 1, 4, 8, 100)
START, END, CONFIGURATION, VNI, TARGET, REASON = 0, 8, 16, 40, 80, 96


def op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, imm)


def move(to: int, source: int) -> bytes:
    return op(0xBF, to, source)


def number(to: int, value: int) -> bytes:
    return op(0xB7, to, imm=value)


def load(to: int, base: int, at: int) -> bytes:
    return op(0x79, to, base, at)


def store(base: int, at: int, source: int) -> bytes:
    return op(0x7B, base, source, at)


def stack(to: int, at: int) -> bytes:
    return move(to, 10) + op(0x07, to, imm=at)


EXIT = number(0, 1) + op(0x95)
MAP = op(0x18, 1) + op(0)
LOOKUP = MAP + op(0x62, 10, 0, -4) + stack(2, -4) + op(0x85, imm=1)
"""R0 = table.lookup(&zero); R6 to R9 stay."""
FOUND = LOOKUP + op(0x55, 0, 0, 2) + EXIT
"""The same, and return where there is no entry."""
KEEP = move(6, 1)


def program(*code: bytes) -> UserProgram:
    whole = b"".join(code)
    maps = (at // 8 for at in range(0, len(whole), 8) if whole[at : at + 8] == op(0x18, 1))
    return UserProgram(whole, tuple(Relocation(at, "table") for at in maps), (TABLE,), {0: "12: a line"})


UPDATE = MAP + stack(2, -4) + stack(3, -16) + number(4, 0) + op(0x85, imm=2)
LEAKS = {
    "stores struct stage's address in a map": (KEEP, FOUND, store(0, 0, 6)),
    "stores an address on the stack in a map": (FOUND, store(0, 0, 10)),
    "stores a packet's address in a map": (load(6, 1, START), FOUND, store(0, 0, 6)),
    "stores the configuration's address in a map": (load(6, 1, CONFIGURATION), FOUND, store(0, 0, 6)),
    "stores an entry's address in itself": (FOUND, store(0, 0, 0)),
    "stores a map's address in a map": (MAP, move(6, 1), FOUND, store(0, 0, 6)),
    "stores one after arithmetic": (KEEP, FOUND, op(0x07, 6, imm=8), store(0, 0, 6)),
    "stores one that was on the stack": (store(10, -16, 1), FOUND, load(6, 10, -16), store(0, 0, 6)),
    "stores one from one path of two": (KEEP, FOUND, op(0x15, 0, 0, 1, 7), number(6, 0), store(0, 0, 6)),
    "adds one to an entry": (KEEP, FOUND, op(0xDB, 0, 6)),
    "exchanges one with an entry": (KEEP, FOUND, op(0xDB, 0, 6, 0, 0xE1)),
    "writes one into the packet": (KEEP, load(2, 1, START), store(2, 0, 6)),
    "writes one into struct stage": (store(1, TARGET, 1),),
    "updates a map with one on the stack": (store(10, -16, 1), op(0x62, 10, 0, -4), UPDATE),
    "looks one up": (store(10, -8, 1), MAP, stack(2, -8), op(0x85, imm=1)),
    "looks up the pointers in struct stage": (move(2, 1), MAP, op(0x85, imm=1)),
    "sums one up": (store(10, -8, 1), number(1, 0), number(2, 0), stack(3, -8), number(4, 8), op(0x85, imm=28)),
    "reads half of one": (op(0x61, 2, 1, START),),
    "reads half of one on the stack": (store(10, -8, 1), op(0x61, 2, 10, -8)),
    "reads one across two": (op(0x79, 2, 1, 4),),
    "stores half of one": (op(0x63, 10, 1, -8),),
    "copies half of one": (op(0xBC, 2, 1),),
    "copies a byte of one": (op(0xBF, 2, 1, 8),),
    "negates one": (op(0x87, 1),),
    "shifts one": (op(0x67, 1, imm=8),),
    "masks one": (op(0x57, 1, imm=255),),
    "subtracts one from a number": (number(2, 0), op(0x1F, 2, 1)),
    "subtracts one on the stack from struct stage": (op(0x1F, 1, 10),),
    "subtracts an entry from a packet": (load(6, 1, START), FOUND, op(0x1F, 6, 0)),
    "compares one with a number": (op(0x35, 1, 0, 0, 7),),
    "compares half of one": (op(0x16, 1, 0, 0, 0),),
    "compares an entry with a packet": (load(6, 1, START), FOUND, op(0x2D, 6, 0, 0)),
    "reads the kernel's description of a map": (MAP, load(2, 1, 0)),
    "reads in front of struct stage": (load(2, 1, -8),),
    "reads behind struct stage": (load(2, 1, 104),),
}


@pytest.mark.parametrize("code", LEAKS.values(), ids=LEAKS)
def test_a_function_through_which_an_address_may_leave_is_refused(code: tuple[bytes, ...]) -> None:
    with pytest.raises(CheckError, match=r"^line 12: a line \(instruction \d+\) .*, which functions may not: "):
        follow(program(*code, EXIT))


def test_a_function_that_returns_an_address_is_refused() -> None:
    with pytest.raises(CheckError, match="returns an address"):
        follow(program(move(0, 1), op(0x95)))


def test_an_address_that_a_called_function_leaves_in_the_callers_stack_is_followed() -> None:
    """R1 is struct stage, R2 where the called function stores it."""
    called = (store(2, 0, 1), EXIT)
    caller = (stack(2, -16), op(0x85, 0, 1, 0, len(b"".join((FOUND, load(6, 10, -16), store(0, 0, 6), EXIT))) // 8))
    with pytest.raises(CheckError, match="stores an address"):
        follow(program(*caller, FOUND, load(6, 10, -16), store(0, 0, 6), EXIT, *called))


def test_a_function_that_calls_itself_is_refused() -> None:
    with pytest.raises(CheckError, match="too deeply"):
        follow(program(op(0x85, 0, 1, 0, -1), EXIT))


PASSES = {
    "stores the length of the packet in a map": (
        *(load(6, 1, END), load(2, 1, START), op(0x1F, 6, 2), FOUND, store(0, 0, 6)),
    ),
    "stores what it read from the packet in a map": (load(2, 1, START), load(6, 2, 0), FOUND, store(0, 0, 6)),
    "stores what it read from the configuration": (load(2, 1, CONFIGURATION), load(6, 2, 0), FOUND, store(0, 0, 6)),
    "adds to an entry": (FOUND, number(2, 1), op(0xDB, 0, 2)),
    "compares with the packet's end": (
        *(load(2, 1, START), load(3, 1, END), op(0x07, 2, imm=14), op(0x2D, 2, 3, 1), op(0x71, 4, 2, -2)),
    ),
    "keeps struct stage on the stack over a call": (store(10, -16, 1), FOUND, load(1, 10, -16), load(2, 1, START)),
    "uses a pointer that may be NULL after it compared it": (
        *(load(2, 1, START), op(0x15, 2, 0, 1, 0), number(2, 0), op(0x15, 2, 0, 1, 0), op(0x71, 3, 2, 0)),
    ),
    "puts a number where an address was": (
        *(store(10, -16, 1), number(2, 0), store(10, -16, 2), op(0x62, 10, 0, -4), UPDATE),
    ),
    "walks over its own stack": (stack(2, -16), stack(3, 0), op(0x07, 2, imm=4), op(0x5D, 2, 3, -2)),
}


@pytest.mark.parametrize("code", PASSES.values(), ids=PASSES)
def test_a_function_that_uses_addresses_as_they_are_meant_passes(code: tuple[bytes, ...]) -> None:
    follow(program(*code, EXIT))


def test_what_a_function_uses_of_struct_stage_is_known() -> None:
    code = (load(2, 1, START), op(0x61, 3, 1, VNI + 4), op(0x72, 1, 0, REASON, 3), EXIT)
    assert follow(program(*code)) == ({START, VNI}, {REASON})


def test_a_function_that_reads_struct_stage_at_a_variable_offset_may_use_all_of_it() -> None:
    code = (op(0x61, 2, 1, VNI), op(0x57, 2, imm=8), op(0x0F, 1, 2), op(0x61, 3, 1, VNI), EXIT)
    assert follow(program(*code)).read == set(range(0, 104, 8))


def test_a_function_that_passes_struct_stage_to_another_one_uses_what_that_one_does() -> None:
    code = (op(0x85, 0, 1, 0, 2), EXIT, load(2, 1, START), EXIT)
    assert follow(program(*code)).read == {START}


def test_a_program_whose_paths_are_too_many_is_refused() -> None:
    """Each function calls the next one twice."""
    call = op(0x85, 0, 1, 0, 3) + op(0x85, 0, 1, 0, 2) + EXIT
    filler = number(0, 0) * 400
    with pytest.raises(CheckError, match="too many paths"):
        follow(program(call * 7, filler, EXIT))
