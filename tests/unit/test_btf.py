"""Offsets of the kernel's struct fields, read from type information that the test builds."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from agent.datapath.bpf.btf import field_offsets

STRUCT, INT = 4, 1
NAMES = b"\0int\0packet\0owner\0length\0packet_list\0"


def type_of(kind: int, name: str, count: int, rest: bytes) -> bytes:
    return struct.pack("=III", NAMES.index(b"\0" + name.encode() + b"\0") + 1, kind << 24 | count, 8) + rest


def member(name: str, offset: int) -> bytes:
    return struct.pack("=III", NAMES.index(b"\0" + name.encode() + b"\0") + 1, 1, 8 * offset)


def btf(path: Path, *types: bytes) -> Path:
    body = b"".join(types)
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(NAMES))
    path.write_bytes(head + body + NAMES)
    return path


def test_fields_are_found_behind_types_of_other_kinds_and_other_structs(tmp_path: Path) -> None:
    other = type_of(STRUCT, "packet_list", 1, member("owner", 99))
    wanted = type_of(STRUCT, "packet", 2, member("owner", 4) + member("length", 12))
    path = btf(tmp_path / "btf", type_of(INT, "int", 0, bytes(4)), other, wanted)
    assert field_offsets({"packet": ("owner", "length")}, path) == {("packet", "owner"): 4, ("packet", "length"): 12}


@pytest.mark.parametrize("asked", [{"packet": ("absent",)}, {"missing": ("owner",)}])
def test_what_is_not_there_is_named(tmp_path: Path, asked: dict[str, tuple[str, ...]]) -> None:
    path = btf(tmp_path / "btf", type_of(STRUCT, "packet", 1, member("owner", 4)))
    (name, (field,)), *_ = asked.items()
    with pytest.raises(ValueError, match=rf"{name}\.{field}"):
        field_offsets(asked, path)


@pytest.mark.parametrize("content", [b"", bytes(24), b"\x7fELF" + bytes(60)])
def test_other_files_are_told_apart(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="is not BTF"):
        field_offsets({"packet": ("owner",)}, tmp_path / "file")
