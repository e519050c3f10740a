"""Reads the type information (BTF) of an object file: maps, fields of keys and values, source lines. Pure.

Format: Documentation/bpf/btf.rst. The bytes are untrusted: whatever does not fit is an ObjectError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from agent.datapath.functions.descriptions import MOST_FIELDS
from agent.datapath.functions.refusals import ObjectError
from agent.datapath.functions.user_program import Field

MAGIC = 0xEB9F
MOST_TYPES = 20_000
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(1, 12)
_FUNC, _PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(12, 20)
_TRANSPARENT = frozenset((_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG))
_MOST_DEPTH = 16
_MOST_STEPS = 1000
_HEADER = struct.Struct("<HBBIIIII")
"""struct btf_header { u16 magic; u8 version, flags; u32 hdr_len, type_off, type_len, str_off, str_len }."""
_TYPE = struct.Struct("<III")
"""struct btf_type { u32 name_off, info, size_or_type }."""
_MEMBER = struct.Struct("<III")
_FIXED = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _PROTO: 8, _DATASEC: 12, _ENUM64: 12}
_SIGNED, _EXT_HEADER = 1, struct.Struct("<HBBIIIIIII")
"""struct btf_ext_header { u16 magic; u8 version, flags; u32 hdr_len, func_info_off, func_info_len, line_info_off,
line_info_len, core_relo_off, core_relo_len }; the last two may be absent."""
_EXT_SHORT = struct.Struct("<HBBIIIII")
_SECTION = struct.Struct("<II")


class _Type(NamedTuple):
    """One type: `size` is also the number of another type, by kind; `rest` is what follows it."""

    name: str
    kind: int
    size: int
    rest: bytes
    bits: bool
    """A struct with bit fields: offsets and sizes share a word."""


class Line(NamedTuple):
    """The source line of the instruction at an offset in bytes of its section."""

    offset: int
    file: str
    number: int
    text: str


class Types:
    """All types of one object."""

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, header, type_at, type_length, names_at, names_length = _HEADER.unpack_from(data)
        except struct.error as error:
            raise ObjectError("its type information (.BTF) is cut short") from error
        if magic != MAGIC:
            raise ObjectError("its type information (.BTF) is not that of a little-endian machine")
        self._names = data[header + names_at : header + names_at + names_length]
        self._budget = 0
        self._types = list(self._read(data[header + type_at : header + type_at + type_length]))

    def _read(self, data: bytes) -> Iterator[_Type]:
        yield _Type("void", 0, 0, b"", False)
        at = 0
        for _ in range(MOST_TYPES):
            if at + _TYPE.size > len(data):
                return
            name, info, size = _TYPE.unpack_from(data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            at += _TYPE.size
            length = _FIXED.get(kind, 0) + count * _EACH.get(kind, 0)
            yield _Type(self.name(name), kind, size, data[at : at + length], bool(info >> 31))
            at += length
        raise ObjectError(f"it has more than {MOST_TYPES} types")

    def name(self, at: int) -> str:
        """Return a string of the string section."""
        end = self._names.find(b"\0", at)
        return self._names[at:end].decode(errors="replace") if 0 <= at < len(self._names) and end >= 0 else ""

    def map_definitions(self) -> dict[str, dict[str, int]]:
        """Return the members of each map of section `.maps`, by map and by member: numbers, and types of key and value.

        `type`, `max_entries` and others are numbers that libbpf's macros write as the length of an array.
        """
        section = next((one for one in self._types if one.kind == _DATASEC and one.name == ".maps"), None)
        found: dict[str, dict[str, int]] = {}
        for number, _, _ in _MEMBER.iter_unpack(_whole(section.rest, 12)) if section is not None else ():
            variable = self._get(number)
            if variable.kind == _VAR:
                found[variable.name] = self._members_of_map(self._resolve(variable.size))
        return found

    def _members_of_map(self, definition: _Type) -> dict[str, int]:
        members: dict[str, int] = {}
        for name, number, _ in _MEMBER.iter_unpack(_whole(definition.rest, 12)):
            pointer, label = self._resolve(number), self.name(name)
            if label in ("key", "value"):
                members[label] = pointer.size
            elif pointer.kind == _PTR and (array := self._resolve(pointer.size)).kind == _ARRAY:
                members[label] = struct.unpack("<III", _whole(array.rest, 12))[2]
            else:
                raise ObjectError(f"the map's member {label} is not understood: declare maps with libbpf's macros")
        return members

    def size_of(self, number: int, depth: int = 0) -> int:
        """Return the size of a type in bytes."""
        one = self._resolve(number)
        if one.kind == _ARRAY and depth < _MOST_DEPTH:
            element, _, count = struct.unpack("<III", _whole(one.rest, 12))
            return int(count) * self.size_of(element, depth + 1)
        if one.kind == _PTR:
            return 8
        if one.kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT):
            return one.size
        raise ObjectError(f"the size of type {one.name or number} is unknown")

    def fields_of(self, number: int) -> tuple[Field, ...]:
        """Return the fields of a key or value; empty if they cannot be expressed, such as bit fields."""
        self._budget = _MOST_STEPS
        try:
            return tuple(self._fields("", number, 0, 0))
        except _UnreadableError:
            return ()

    def _fields(self, name: str, number: int, at: int, depth: int) -> list[Field]:
        one = self._resolve(number)
        self._budget -= 1
        if depth > _MOST_DEPTH or self._budget < 0:
            raise _UnreadableError
        if one.kind == _ARRAY:
            return self._array(name, one, at, depth)
        if one.kind in (_STRUCT, _UNION):
            return self._struct(name, one, at, depth)
        signed = one.kind == _INT and _whole(one.rest, 4)[3] & _SIGNED
        return [Field(name, at, self.size_of(number), "s" if signed else "u")]

    def _array(self, name: str, one: _Type, at: int, depth: int) -> list[Field]:
        element, _, count = struct.unpack("<III", _whole(one.rest, 12))
        size, kind = self.size_of(element), self._resolve(element).kind
        if kind == _INT and size == 1:
            return [Field(name, at, count, "bytes")]
        if kind not in (_STRUCT, _UNION, _ARRAY):
            (first,) = self._fields(name, element, at, depth + 1)
            return [Field(name, at, size, first.kind, count)]
        if count > MOST_FIELDS:
            raise _UnreadableError
        parts = (self._fields(f"{name}[{n}]", element, at + n * size, depth + 1) for n in range(count))
        return _bounded([field for part in parts for field in part])

    def _struct(self, name: str, one: _Type, at: int, depth: int) -> list[Field]:
        found: list[Field] = []
        for label, number, place in _MEMBER.iter_unpack(_whole(one.rest, 12)):
            if (one.bits and place >> 24) or place & 7:
                raise _UnreadableError
            offset = (place & 0xFFFFFF if one.bits else place) // 8
            text = self.name(label)
            whole = f"{name}.{text}" if name and text else name or text
            found += self._fields(whole, number, at + offset, depth + 1)
            _bounded(found)
        filled = [field for field in found if (field.kind, field.offset, field.size) == ("bytes", at, one.size)]
        return [Field(name, at, one.size, "bytes")] if one.kind == _UNION and filled else found

    def _get(self, number: int) -> _Type:
        if not 0 <= number < len(self._types):
            raise ObjectError(f"its type information names type {number}, which is not there")
        return self._types[number]

    def _resolve(self, number: int) -> _Type:
        """Return a type behind typedefs and qualifiers."""
        for _ in range(_MOST_DEPTH):
            one = self._get(number)
            if one.kind not in _TRANSPARENT:
                return one
            number = one.size
        raise ObjectError("its type information has a circle of typedefs")

    def lines(self, extension: bytes) -> dict[str, list[Line]]:
        """Return the source lines of each section, from the bytes of `.BTF.ext`."""
        if len(extension) < _EXT_SHORT.size or _EXT_SHORT.unpack_from(extension)[0] != MAGIC:
            return {}
        fields = _EXT_SHORT.unpack_from(extension)
        start, length = fields[3] + fields[6], fields[7]
        data = extension[start : start + length]
        found: dict[str, list[Line]] = {}
        size, at = int.from_bytes(data[:4], "little"), 4
        while 16 <= size <= 64 and at + _SECTION.size <= len(data):
            section, count = _SECTION.unpack_from(data, at)
            at += _SECTION.size
            records = data[at : at + size * count]
            found[self.name(section)] = list(self._records(records, size))
            at += size * count
        return found

    def _records(self, records: bytes, size: int) -> Iterator[Line]:
        for at in range(0, len(records) - size + 1, size):
            offset, file, text, column = struct.unpack_from("<IIII", records, at)
            yield Line(offset, self.name(file), column >> 10, self.name(text).strip())


def has_core_relocations(extension: bytes) -> bool:
    """Return whether an object wants offsets of kernel structs filled in (CO-RE)."""
    if len(extension) < _EXT_HEADER.size:
        return False
    fields = _EXT_HEADER.unpack_from(extension)
    return bool(fields[3] >= _EXT_HEADER.size and fields[9] > 0)


class _UnreadableError(Exception):
    """A type that fields cannot express."""


def _bounded(fields: list[Field]) -> list[Field]:
    if len(fields) > MOST_FIELDS:
        raise _UnreadableError
    return fields


def _whole(data: bytes, size: int) -> bytes:
    """Return as many whole records as there are; at least one where exactly one is needed."""
    if size and len(data) < size and data:
        raise ObjectError("its type information (.BTF) is cut short")
    return data[: len(data) - len(data) % size]
