"""What users' instructions and maps may be: the rules that hold before the kernel sees a program."""

from __future__ import annotations

import struct

import pytest

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.checks import ALLOWED_HELPERS, check
from agent.datapath.functions.helper_names import HELPER_NAMES
from agent.datapath.functions.isolation import isolate
from agent.datapath.functions.map_limits import bytes_of, check_maps
from agent.datapath.functions.refusals import CheckError
from agent.datapath.functions.user_program import CONFIGURATION, MAX_INSTRUCTIONS, UserMap, UserProgram

TABLE = UserMap("table", 1, 4, 8, 100)


def op(code: int, to: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, imm)


EXIT, ZERO = op(0x95), op(0xB7)
LOAD_MAP = op(0x18, 1) + op(0)


def program(*code: bytes, maps: tuple[UserMap, ...] = (), used: tuple[Relocation, ...] = ()) -> UserProgram:
    return UserProgram(b"".join(code), used, maps, {0: "12: a line of the user's"})


def refusal(one: UserProgram) -> str:
    with pytest.raises(CheckError) as refused:
        check(one)
    return str(refused.value)


def test_a_program_with_a_map_a_helper_a_loop_and_a_subprogram_passes() -> None:
    code = (LOAD_MAP, op(0x85, imm=1), op(0x85, 0, 1, 0, 1), EXIT, ZERO, op(0x55, 0, 0, -2), EXIT)
    check(program(*code, maps=(TABLE,), used=(Relocation(0, "table"),)))


def test_only_helpers_of_the_list_may_be_called() -> None:
    for number in range(1, len(HELPER_NAMES) + 20):
        code = (op(0xB7, 1), op(0xB7, 2), op(0xB7, 3), op(0x85, imm=number), ZERO, EXIT)
        one = program(*code)
        if number in ALLOWED_HELPERS:
            check(one)
        else:
            said = refusal(one)
            assert HELPER_NAMES.get(number, str(number)) in said
            assert said.startswith("line 12: a line of the user's (instruction 3)")


def test_the_names_of_helpers_are_those_of_the_list() -> None:
    assert all(HELPER_NAMES[number] == name for number, name in ALLOWED_HELPERS.items())


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ((op(0x85, 0, 2, 0, 5),), "kfunc"),
        ((op(0x85, 0, 3, 0, 5),), "unknown kind of call"),
        ((op(0x85, 0, 1, 0, -1),), "is not there"),
        ((op(0x85, 0, 1, 0, 7),), "leaves the program"),
        ((op(0x8D, 1),), "unknown jump"),
        ((op(0x20, imm=14),), "classic BPF"),
        ((op(0x48, 0, 1),), "classic BPF"),
        ((op(0x18, 1, 1, 0, 7), op(0)), "by its descriptor"),
        ((op(0x18, 1, 2, 0, 7), op(0)), "value of a map"),
        ((op(0x18, 1, 3, 0, 7), op(0)), "kernel memory"),
        ((op(0x18, 1, 4, 0, 7), op(0)), "address of a function"),
        ((op(0x18, 1, 5, 0, 7), op(0)), "by its index"),
        ((op(0x18, 1), op(0x07, 1)), "malformed"),
        ((op(0x05, offset=5),), "leaves the program"),
        ((op(0x05, offset=-9),), "leaves the program"),
        ((op(0x05, offset=1), LOAD_MAP), "leaves the program"),
        ((op(0xE5, offset=1), ZERO), "may_goto"),
        ((op(0x07, 11),), "does not exist"),
        ((op(0xBF, 1, 12),), "does not exist"),
        ((op(0xF7),), "unknown operation"),
        ((op(0xDB, 1, 2, 0, 0x99),), "atomic"),
        ((op(0xC3 | 0x10, 1, 2),), "atomic"),
        ((op(0xA1, 1, 2),), "accesses memory"),
    ],
)
def test_other_instructions_are_refused(code: tuple[bytes, ...], reason: str) -> None:
    assert reason in refusal(program(*code, EXIT))


def test_programs_that_run_over_their_end_are_refused() -> None:
    assert "behind the program" in refusal(program(ZERO))
    assert "half of a 64-bit load" in refusal(program(EXIT, op(0x18)))
    assert "whole instructions" in refusal(program(b"\x95\0\0"))
    assert "whole instructions" in refusal(program())


def test_a_map_of_another_is_refused() -> None:
    assert "not one of its own" in refusal(program(LOAD_MAP, EXIT, used=(Relocation(0, "endpoints"),)))
    assert "loads none" in refusal(program(ZERO, EXIT, maps=(TABLE,), used=(Relocation(0, "table"),)))
    assert "loads none" in refusal(program(ZERO, EXIT, maps=(TABLE,), used=(Relocation(9, "table"),)))


def test_a_program_has_a_limited_number_of_instructions() -> None:
    check(program(*[ZERO] * (MAX_INSTRUCTIONS - 1), EXIT))
    assert "the limit is 4096" in refusal(program(*[ZERO] * MAX_INSTRUCTIONS, EXIT))


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        ((UserMap("progs", 3, 4, 4, 1),), "type 3"),
        ((UserMap("ring", 27, 0, 0, 4096),), "type 27"),
        ((UserMap("a/b", 1, 4, 4, 1),), "rename"),
        ((UserMap("configuration", 1, 4, 4, 1),), "rename"),
        ((TABLE, TABLE), "two maps"),
        ((UserMap("none", 1, 4, 4, 0),), "0 entries"),
        ((UserMap("wide", 1, 4, 9000, 1),), "9000"),
        ((UserMap("list", 2, 8, 4, 1),), "u32"),
        ((UserMap("flags", 1, 4, 4, 1, 1 << 11),), "flags 0x800"),
        ((UserMap("big", 2, 4, 8, 1 << 31),), "MiB"),
        (tuple(UserMap(f"m{number}", 1, 4, 4, 1) for number in range(17)), "17 maps"),
    ],
)
def test_maps_are_limited(maps: tuple[UserMap, ...], reason: str) -> None:
    with pytest.raises(CheckError, match=reason):
        check_maps(maps, cpus=2)


def test_per_cpu_values_count_once_for_each_cpu() -> None:
    check_maps((UserMap("each", 6, 4, 8, 1_000_000),), cpus=2)
    assert bytes_of(UserMap("each", 6, 4, 8, 1000), 4) == 4 * bytes_of(UserMap("all", 2, 4, 8, 1000), 4)
    with pytest.raises(CheckError, match="MiB"):
        check_maps((UserMap("each", 6, 4, 8, 1_000_000),), cpus=64)


def test_an_isolated_program_keeps_its_relocations_and_lines_at_their_instructions() -> None:
    one = program(LOAD_MAP, EXIT, maps=(TABLE,), used=(Relocation(0, "table"),))
    isolated = isolate(one)
    configuration, moved = isolated.relocations
    assert configuration.map == CONFIGURATION
    assert isolated.instructions[moved.index * 8 :] == one.instructions
    assert isolated.lines == {moved.index: "12: a line of the user's"}
