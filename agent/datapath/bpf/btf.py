"""Reads the offsets of struct fields from the kernel's type information (BTF), which tracing programs need.

Format: Documentation/bpf/btf.rst, include/uapi/linux/btf.h. Only direct members of named structs are looked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")
MAGIC = 0xEB9F
KIND_STRUCT = 4

_HEADER = struct.Struct("=HBBIIIII")
"""struct btf_header { u16 magic; u8 version, flags; u32 hdr_len, type_off, type_len, str_off, str_len }."""
_TYPE = struct.Struct("=III")
"""struct btf_type { u32 name_off, info, size }."""
_MEMBER = struct.Struct("=III")
"""struct btf_member { u32 name_off, type, offset }; the offset is in bits."""
_FOLLOWED_BY = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12)}
"""The bytes that follow a type of each kind: a fixed part, and the size of each member."""
_FOLLOWED_BY |= {17: (4, 0), 19: (0, 12)}


def field_offsets(wanted: Mapping[str, tuple[str, ...]], path: Path = VMLINUX) -> dict[tuple[str, str], int]:
    """Return the offset in bytes of each wanted field, by (struct, field); `wanted` has the fields by struct.

    Raises FileNotFoundError if the kernel was built without BTF, ValueError if the data is not BTF or lacks one of the
    fields.
    """
    found = _offsets(tuple(wanted.items()), path)
    missing = [f"{name}.{field}" for name, fields in wanted.items() for field in fields if (name, field) not in found]
    if missing:
        raise ValueError(f"{path} does not say where {', '.join(missing)} is")
    return found


@cache
def _offsets(wanted: tuple[tuple[str, tuple[str, ...]], ...], path: Path) -> dict[tuple[str, str], int]:
    """Return the offsets that are there; read once, as the running kernel's types do not change."""
    data = path.read_bytes()
    if len(data) < _HEADER.size or (head := _HEADER.unpack_from(data))[0] != MAGIC:
        raise ValueError(f"{path} is not BTF of this machine's byte order")
    _, _, _, header, type_at, type_length, names_at, names_length = head
    names = data[header + names_at : header + names_at + names_length]
    types = memoryview(data)[header + type_at : header + type_at + type_length]
    left = {(name, field) for name, fields in wanted for field in fields}
    found: dict[tuple[str, str], int] = {}
    for name, members in _structs(types, {_name_offset(names, name): name for name, _ in wanted}):
        for name_offset, _, place in _MEMBER.iter_unpack(members):
            key = name, names[name_offset : names.index(b"\0", name_offset)].decode()
            if key in left:
                left.remove(key)
                found[key] = (place & 0xFFFFFF) // 8
        if not left:
            break
    return found


def _structs(types: memoryview, wanted: Mapping[int, str]) -> Iterator[tuple[str, memoryview]]:
    """Yield the wanted structs' names, by offset, with their members."""
    at = 0
    while at < len(types):
        name, info, _ = _TYPE.unpack_from(types, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        at += _TYPE.size
        if kind == KIND_STRUCT and name in wanted:
            yield wanted[name], types[at : at + count * _MEMBER.size]
        once, each = _FOLLOWED_BY.get(kind, (0, 0))
        at += once + count * each


def _name_offset(names: bytes, name: str) -> int:
    """Return the offset of a name in the string section, -1 if it is not there. Each name is there once."""
    at = names.find(f"\0{name}\0".encode())
    return at + 1 if at >= 0 else -1
