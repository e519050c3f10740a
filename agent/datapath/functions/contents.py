"""Reads the entries of a function's maps as Python values, by the descriptions of its program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions.map_limits import TYPES
from agent.datapath.functions.record import MAPS
from agent.datapath.functions.user_program import Field, UserMap

Value: TypeAlias = "int | str | list[int] | dict[str, int | str | list[int]]"
"""A number, bytes in hexadecimal digits, several numbers, or fields by name."""


class Contents(NamedTuple):
    """A map and its entries, each a key with a value or, for per-CPU maps, with one value for each CPU."""

    name: str
    type: str
    max_entries: int
    entries: list[tuple[Value, Value | list[Value]]]
    truncated: bool
    """There are more entries than were asked for."""


def read_maps(build: Path, maps: Sequence[UserMap], most: int = 1000) -> list[Contents]:
    """Read the maps pinned in a build's folder, at most so many entries of each; OSError if one is not there.

    Entries of an array that are zeros are left out.
    """
    return [_read(build / MAPS / one.name, one, most) for one in maps]


def _read(path: Path, declared: UserMap, most: int) -> Contents:
    descriptor = bpf.open_pin(path)
    try:
        info = bpf.map_info(descriptor)
        per_cpu = info.type in (bpf.MapType.PERCPU_HASH, bpf.MapType.PERCPU_ARRAY)
        is_array = info.type in (bpf.MapType.ARRAY, bpf.MapType.PERCPU_ARRAY)
        found = (pair for pair in bpf.entries(descriptor, info) if not is_array or any(pair[1]))
        taken = list(islice(found, most + 1))
    finally:
        os.close(descriptor)
    entries: list[tuple[Value, Value | list[Value]]] = []
    for key, value in taken[:most]:
        read = _per_cpu(value, declared) if per_cpu else decode(value, declared.value_fields)
        entries.append((decode(key, declared.key_fields), read))
    name = TYPES[bpf.MapType(info.type)]
    return Contents(declared.name, name, info.max_entries, entries, len(taken) > most)


def _per_cpu(value: bytes, declared: UserMap) -> list[Value]:
    stride = bpf.percpu_stride(declared.value_size)
    parts = (value[at : at + declared.value_size] for at in range(0, len(value), stride))
    return [decode(part, declared.value_fields) for part in parts]


def decode(data: bytes, fields: Sequence[Field]) -> Value:
    """Return a key or value by its fields, in the machine's byte order; without a description, as hexadecimal digits.

    A plain number or array, whose field has no name, comes without one.
    """
    if not fields:
        return data.hex()
    if len(fields) == 1 and not fields[0].name:
        return _field(data, fields[0])
    return {one.name: _field(data, one) for one in fields}


def _field(data: bytes, field: Field) -> int | str | list[int]:
    if field.kind == "bytes":
        return data[field.offset : field.offset + field.size * field.count].hex()
    numbers = [
        int.from_bytes(data[at : at + field.size], "little", signed=field.kind == "s")
        for at in range(field.offset, field.offset + field.size * field.count, field.size)
    ]
    return numbers if field.count > 1 else numbers[0]
