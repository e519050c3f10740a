"""Functions clear their stack before they use it; what calls and relocations refer to stays the same."""

from __future__ import annotations

import struct

import pytest

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.frames import clear_frames, depths_of
from agent.datapath.functions.refusals import FunctionError
from agent.datapath.functions.user_program import UserProgram


def op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, imm)


EXIT, ZERO, LOAD_MAP = op(0x95), op(0xB7), op(0x18, 1) + op(0)


def call(distance: int) -> bytes:
    return op(0x85, 0, 1, 0, distance)


def test_the_depths_are_read_from_the_verifiers_statistics() -> None:
    assert depths_of("verification time 9 usec\nstack depth 112+104+8+0\nprocessed 9 insns\n") == (112, 104, 8, 0)
    assert depths_of("processed 9 insns\n") == ()


def test_a_program_that_uses_no_stack_stays_as_it_is() -> None:
    program = UserProgram(ZERO + EXIT, lines={0: "1: return 0;"})
    assert clear_frames(program, (112, 104, 0)) == program


def test_each_function_clears_its_own_frame_and_calls_and_maps_follow() -> None:
    code = (call(4), op(0x55, 0, 0, -2), LOAD_MAP, EXIT, ZERO, EXIT)
    program = UserProgram(b"".join(code), (Relocation(2, "table"),), lines={0: "1: a", 5: "2: b"})
    cleared = clear_frames(program, (112, 104, 12, 8))
    own, called = op(0x7A, 10, 0, -8), op(0x7A, 10, 0, -8)
    assert cleared.instructions == b"".join((own, op(0x7A, 10, 0, -16), *code[:4], called, ZERO, EXIT))
    assert (cleared.relocations, cleared.lines) == ((Relocation(4, "table"),), {2: "1: a", 8: "2: b"})


def test_functions_that_the_kernel_removed_are_cleared_as_deep_as_the_deepest() -> None:
    program = UserProgram(call(1) + EXIT + ZERO + EXIT)
    cleared = clear_frames(program, (112, 104, 8))
    assert cleared.instructions == op(0x7A, 10, 0, -8) + call(1) + EXIT + op(0x7A, 10, 0, -8) + ZERO + EXIT


def test_what_lies_in_front_of_struct_stage_is_not_to_be_accessed() -> None:
    with pytest.raises(FunctionError, match="in front of struct stage"):
        clear_frames(UserProgram(ZERO + EXIT), (112, 112, 0))


def test_a_kernel_that_does_not_say_the_depth_runs_no_functions() -> None:
    with pytest.raises(FunctionError, match="does not say"):
        clear_frames(UserProgram(ZERO + EXIT), ())
