"""A function in one frame with its copy of struct stage: what is copied, and what becomes of exits, calls and maps."""

from __future__ import annotations

import struct

import pytest

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.instructions import StageUse
from agent.datapath.functions.isolation import isolate, isolate_in_one_frame
from agent.datapath.functions.user_program import CONFIGURATION, UserProgram

NOTHING: frozenset[int] = frozenset()
RESULT, VNI, PEER = 96, 40, 24


def op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, imm)


EXIT, ZERO, LOAD_MAP, LOWER = op(0x95), op(0xB7), op(0x18, 1) + op(0), op(0xBC)
CLEARED = b"".join(op(0xB7, register) for register in range(2, 6))


def call(distance: int) -> bytes:
    return op(0x85, 0, 1, 0, distance)


def stage_at(at: int) -> bytes:
    return op(0xBF, 1, 10) + op(0x07, 1, 0, 0, at)


def test_a_function_that_uses_nothing_gets_nothing() -> None:
    isolated = isolate_in_one_frame(UserProgram(ZERO + EXIT), StageUse(NOTHING, NOTHING), 0)
    assert isolated.instructions == stage_at(-104) + CLEARED + ZERO + op(0x05) + LOWER + EXIT
    assert isolated.relocations == ()


def test_only_the_words_that_a_function_reads_are_copied_below_its_stack() -> None:
    use = StageUse(frozenset((0, VNI)), NOTHING)
    isolated = isolate_in_one_frame(UserProgram(ZERO + EXIT), use, 12)
    copied = op(0x7B, 10, 2, -120) + op(0x79, 5, 1, VNI) + op(0x7B, 10, 5, VNI - 120)
    assert isolated.instructions.startswith(copied + stage_at(-120) + CLEARED + ZERO)


def test_reason_and_changed_are_returned_above_the_verdict() -> None:
    isolated = isolate_in_one_frame(UserProgram(ZERO + EXIT), StageUse(NOTHING, frozenset((RESULT,))), 8)
    at = RESULT - 112
    returned = op(0x79, 5, 10, at) + op(0x57, 5, 0, 0, 0xFFFF) + op(0x67, 5, 0, 0, 32) + op(0x4F, 0, 5)
    assert isolated.instructions.startswith(op(0x7A, 10, 0, at))
    assert isolated.instructions.endswith(LOWER + returned + EXIT)


def test_exits_become_jumps_and_calls_maps_and_lines_follow() -> None:
    code = (call(5), op(0x55, 0, 0, 1), EXIT, LOAD_MAP, EXIT, ZERO, EXIT)
    program = UserProgram(b"".join(code), (Relocation(3, "table"),), lines={3: "1: a", 6: "2: b"})
    isolated = isolate_in_one_frame(program, StageUse(NOTHING, NOTHING), 0)
    moved = (call(7), op(0x55, 0, 0, 1), op(0x05, offset=3), LOAD_MAP, op(0x05), LOWER, EXIT, ZERO, EXIT)
    assert isolated.instructions == stage_at(-104) + CLEARED + b"".join(moved)
    assert isolated.relocations == (Relocation(9, "table"),)
    assert isolated.lines == {9: "1: a", 14: "2: b"}


def test_the_configurations_address_is_a_relocation() -> None:
    isolated = isolate_in_one_frame(UserProgram(ZERO + EXIT), StageUse(frozenset((0, 16)), NOTHING), 0)
    assert isolated.relocations == (Relocation(1, CONFIGURATION),)
    assert isolated.instructions[8:24] == op(0x18, 5, 2) + op(0)


@pytest.mark.parametrize("one_frame", [True, False])
def test_a_function_that_may_not_know_droplets_gets_zeros(one_frame: bool) -> None:
    program, use = UserProgram(ZERO + EXIT), StageUse(frozenset((PEER, VNI)), NOTHING)
    isolated = isolate_in_one_frame(program, use, 0, peer=False) if one_frame else isolate(program, peer=False)
    assert op(0x79, 5, 1, PEER) not in isolated.instructions
    assert op(0x7A, 10, 0, PEER - 104) in isolated.instructions
    assert op(0x79, 5, 1, VNI) in isolated.instructions
