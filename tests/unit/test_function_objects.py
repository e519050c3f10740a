"""Object files of users' functions: what is read from one, and that a damaged one ends in one clear error."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.functions.btf_types import Types
from agent.datapath.functions.checks import check
from agent.datapath.functions.elf import MOST_BYTES, read_object
from agent.datapath.functions.map_limits import check_maps
from agent.datapath.functions.refusals import FunctionError, ObjectError
from agent.datapath.functions.user_program import Field

OBJECTS = Path(__file__).parent / "objects"
DAMAGED = 400


@pytest.fixture(scope="module")
def closed_port() -> bytes:
    return (OBJECTS / "closed_port.o").read_bytes()


def test_an_object_gives_its_entry_with_the_functions_that_it_calls(closed_port: bytes) -> None:
    program = read_object(closed_port)
    check(program)
    calls = [at for at in range(0, len(program.instructions), 8) if program.instructions[at : at + 2] == b"\x85\x10"]
    (called,) = calls
    distance = int.from_bytes(program.instructions[called + 4 : called + 8], "little", signed=True)
    target = called // 8 + 1 + distance
    assert "is_closed" in program.lines[target]
    assert "stage_function" in program.lines[0]


def test_maps_come_with_the_names_of_their_fields(closed_port: bytes) -> None:
    program = read_object(closed_port)
    seen, limit = program.maps
    assert (seen.name, seen.type, seen.key_size, seen.value_size, seen.max_entries) == ("seen", 9, 8, 32, 1000)
    assert seen.key_fields == (Field("vni", 0, 4), Field("port", 4, 2), Field("pad", 6, 2))
    assert seen.value_fields == (
        *(Field("packets", 0, 8), Field("mac", 8, 6, "bytes")),
        *(Field("inner.low", 16, 4, "s"), Field("inner.words", 20, 2, "u", 3)),
    )
    assert (limit.name, limit.type, limit.max_entries, limit.value_fields) == ("limit", 2, 4, (Field("", 0, 8),))
    assert {one.map for one in program.relocations} == {"seen", "limit"}
    assert all(program.instructions[one.index * 8] == 0x18 for one in program.relocations)
    assert program.relocations[0] == Relocation(program.relocations[0].index, "seen")
    check_maps(program.maps, cpus=2)


def test_global_variables_are_refused_with_the_way_out() -> None:
    with pytest.raises(ObjectError, match="no global variables"):
        read_object((OBJECTS / "global_variable.o").read_bytes())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no object file"),
        (b"\x7fELF", "no object file"),
        (b"#!/bin/sh\n", "no object file"),
        (bytes(MOST_BYTES + 1), "the limit is"),
    ],
)
def test_what_is_no_object_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ObjectError, match=reason):
        read_object(data)


def test_an_object_for_another_machine_is_refused(closed_port: bytes) -> None:
    with pytest.raises(ObjectError, match="for the BPF target"):
        read_object(closed_port[:18] + (62).to_bytes(2, "little") + closed_port[20:])


def test_every_truncation_ends_in_one_error_or_a_program(closed_port: bytes) -> None:
    for length in range(0, len(closed_port), 97):
        _read(closed_port[:length])


def test_damaged_objects_end_in_one_error_or_a_program(closed_port: bytes) -> None:
    generator = random.Random(20261130)
    for _ in range(DAMAGED):
        data = bytearray(closed_port)
        for _ in range(generator.choice((1, 2, 5, 50))):
            at = generator.randrange(len(data))
            data[at : at + 4] = generator.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", generator.randbytes(4)))
        _read(bytes(data))


def _read(data: bytes) -> None:
    with contextlib.suppress(FunctionError):
        program = read_object(data)
        check(program)
        check_maps(program.maps, cpus=2)


def test_type_information_that_refers_to_itself_ends() -> None:
    header = bytes.fromhex("9feb0100") + b"".join(n.to_bytes(4, "little") for n in (24, 0, 12, 12, 1))
    circle = b"".join(n.to_bytes(4, "little") for n in (0, 8 << 24, 1))  # a typedef of itself
    with pytest.raises(ObjectError, match="circle"):
        Types(header + circle + b"\0").size_of(1)
