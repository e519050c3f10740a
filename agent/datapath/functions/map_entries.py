"""Reads entries of functions' own maps as values for people: numbers, bytes, and fields by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions.user_program import Field, UserMap
from protocol.rpc import FieldValue, FunctionMapEntry, MapValue

MOST_SCANNED = 4096
"""Keys that are looked up for one page: in arrays, entries of zeros are left out."""
MOST_BYTES = 256 << 10
"""Bytes of keys and values in one page, about; the values of all CPUs counted."""
PERCPU = (bpf.MapType.PERCPU_HASH, bpf.MapType.PERCPU_ARRAY)
_ARRAYS = (bpf.MapType.ARRAY, bpf.MapType.PERCPU_ARRAY)


def as_value(raw: bytes, fields: Sequence[Field]) -> MapValue:
    """Return a key or value: a number, a map of its fields, or bytes where it is not described."""
    if not fields:
        return raw
    if len(fields) == 1 and not fields[0].name:
        return _field(raw, fields[0])
    return {field.name: _field(raw, field) for field in fields if field.kind != "pad"}


def _field(raw: bytes, field: Field) -> FieldValue:
    part = raw[field.offset : field.offset + field.size * field.count]
    if field.kind == "bytes":
        return part
    numbers = tuple(
        int.from_bytes(part[at : at + field.size], sys.byteorder, signed=field.kind == "s")
        for at in range(0, len(part), field.size)
    )
    return numbers[0] if field.count == 1 else numbers


def read_entries(
    descriptor: int, declared: UserMap, after: bytes, limit: int
) -> tuple[tuple[FunctionMapEntry, ...], bytes]:
    """Return entries behind the key `after` (empty: from the first on), and the `after` of the next page, if any.

    Entries that come or go meanwhile may be missing or come twice.
    """
    found: list[FunctionMapEntry] = []
    key: bytes | None = after or None
    left = MOST_BYTES
    for _ in range(MOST_SCANNED):
        following = bpf.next_key(descriptor, key, declared.key_size)
        if following is None:
            return tuple(found), b""
        if len(found) == limit or left <= 0:
            return tuple(found), key or b""
        key = following
        values = _values(descriptor, declared, key)
        if values and (declared.type not in _ARRAYS or any(map(any, values))):
            found.append(
                FunctionMapEntry(
                    as_value(key, declared.key_fields), tuple(as_value(one, declared.value_fields) for one in values)
                )
            )
            left -= len(key) + sum(map(len, values))
    return tuple(found), key or b""


def _values(descriptor: int, declared: UserMap, key: bytes) -> tuple[bytes, ...]:
    """Return the value of a key, those of all CPUs in a per-CPU map; nothing if the entry is gone."""
    if declared.type in PERCPU:
        return bpf.lookup_percpu(descriptor, key, declared.value_size)
    value = bpf.lookup(descriptor, key, declared.value_size)
    return () if value is None else (value,)
