"""Reads bcc's descriptions of keys and values (JSON of C types) into fields with offsets. Pure.

A type is a name (`"unsigned int"`), or `[name, members, "struct" | "struct_packed" | "union"]`. A member is `[name,
type]`, `[name, type, [count]]` for an array, `[name, type, bits]` for a bit field, or a struct without a name.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.datapath.functions.user_program import Field

MOST_FIELDS = 64
"""Fields of one key or value that are described; beyond that it is read as bytes."""
MOST_DEPTH = 8
_NUMBERS = {
    "_Bool": ("u", 1),
    "char": ("s", 1),
    "wchar_t": ("u", 4),
    "unsigned char": ("u", 1),
    "short": ("s", 2),
    "unsigned short": ("u", 2),
    "int": ("s", 4),
    "unsigned int": ("u", 4),
    "long": ("s", 8),
    "unsigned long": ("u", 8),
    "long long": ("s", 8),
    "unsigned long long": ("u", 8),
    "__int128": ("bytes", 16),
    "unsigned __int128": ("bytes", 16),
    "signed char": ("s", 1),
}


class UnreadableError(ValueError):
    """A description that holds what fields cannot express, such as bit fields."""


def fields_of(description: object) -> tuple[Field, ...]:
    """Return the fields of a key or value, empty if its description cannot be read."""
    if description is None:
        return ()
    try:
        fields, _, _ = _read("", description, 0, 0)
    except UnreadableError:
        return ()
    return tuple(fields)


def _read(name: str, kind: object, at: int, depth: int) -> tuple[list[Field], int, int]:
    """Return the fields of a type at an offset, its size and its alignment in bytes."""
    if isinstance(kind, str):
        if kind not in _NUMBERS:
            raise UnreadableError(kind)
        how, size = _NUMBERS[kind]
        return [Field(name, at, size, how)], size, size
    if not isinstance(kind, list) or len(kind) != 3 or not isinstance(kind[1], list) or depth > MOST_DEPTH:
        raise UnreadableError(repr(kind))
    members = list(_members(kind[1]))
    if kind[2] == "union":
        return _union(name, members, at, depth)
    return _struct(name, members, at, depth, packed=kind[2] == "struct_packed")


def _members(members: list[object]) -> Iterator[tuple[str, object, int | None]]:
    """Yield name, type and count of each member; None as the count of what is no array."""
    for member in members:
        match member:
            case [str(name), kind]:
                yield name, kind, None
            case [str(name), kind, [int(count)]]:
                yield name, kind, count
            case [str(), list(), "struct" | "struct_packed" | "union"]:
                yield "", member, None
            case _:
                raise UnreadableError(repr(member))


def _struct(
    prefix: str, members: list[tuple[str, object, int | None]], at: int, depth: int, *, packed: bool
) -> tuple[list[Field], int, int]:
    fields: list[Field] = []
    offset, widest = 0, 1
    for name, kind, count in members:
        _, _, alignment = _member(_join(prefix, name), kind, None, at, depth)
        alignment = 1 if packed else alignment
        offset = -(-offset // alignment) * alignment
        found, size, _ = _member(_join(prefix, name), kind, count, at + offset, depth)
        fields += [] if name.startswith("__pad_") else found
        offset, widest = offset + size, max(widest, alignment)
        _bound(fields)
    return fields, -(-offset // widest) * widest, widest


def _union(
    prefix: str, members: list[tuple[str, object, int | None]], at: int, depth: int
) -> tuple[list[Field], int, int]:
    """Read a union: as bytes if one of its members is an array of bytes that fills it, else each of its members."""
    read = [_member(_join(prefix, name), kind, count, at, depth) for name, kind, count in members]
    size = max((size for _, size, _ in read), default=0)
    alignment = max((alignment for _, _, alignment in read), default=1)
    size = -(-size // alignment) * alignment
    for found, width, _ in read:
        if len(found) == 1 and found[0].kind == "bytes" and width == size:
            return [Field(prefix, at, size, "bytes")], size, alignment
    fields = [field for found, _, _ in read for field in found]
    _bound(fields)
    return fields, size, alignment


def _member(name: str, kind: object, count: int | None, at: int, depth: int) -> tuple[list[Field], int, int]:
    first, size, alignment = _read(name, kind, at, depth + 1)
    if count is None:
        return first, size, alignment
    if kind in ("char", "unsigned char", "signed char"):
        return [Field(name, at, count, "bytes")], count, 1
    if isinstance(kind, str):
        return [Field(name, at, size, first[0].kind, count)], size * count, alignment
    if count * len(first) > MOST_FIELDS:
        raise UnreadableError(f"{count} structs")
    fields = [
        field for number in range(count) for field in _read(f"{name}[{number}]", kind, at + number * size, depth + 1)[0]
    ]
    return fields, size * count, alignment


def _bound(fields: list[Field]) -> None:
    if len(fields) > MOST_FIELDS:
        raise UnreadableError(f"more than {MOST_FIELDS} fields")


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
