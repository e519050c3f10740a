"""Reads the entries of a function's maps as Python values, by the descriptions of its program."""

from __future__ import annotations

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
                    decode(key, declared.key_fields), tuple(decode(one, declared.value_fields) for one in values)
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


def decode(data: bytes, fields: Sequence[Field]) -> MapValue:
    """Return a key or value by its fields, in the machine's byte order; without a description, as hexadecimal digits.

    A plain number or array, whose field has no name, comes without one.
    """
    if not fields:
        return data.hex()
    if len(fields) == 1 and not fields[0].name:
        return _field(data, fields[0])
    return {one.name: _field(data, one) for one in fields}


def _field(data: bytes, field: Field) -> FieldValue:
    if field.kind == "bytes":
        return data[field.offset : field.offset + field.size * field.count].hex()
    numbers = [
        int.from_bytes(data[at : at + field.size], "little", signed=field.kind == "s")
        for at in range(field.offset, field.offset + field.size * field.count, field.size)
    ]
    return numbers if field.count > 1 else numbers[0]
