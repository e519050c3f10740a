"""Messages of msgspec's validation in words for the people who wrote a document. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import msgspec

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a map",
    "bytes": "binary",
    "null": "nil",
}
"""msgspec's names of types."""
ONE_PER_FAMILY = {"addresses": "addresses", "cidrs": "CIDRs", "gateways": "gateways"}
"""Fields with at most two values, one of each family, and what their values are."""
_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_LENGTH = re.compile(r"Expected `(array|str|bytes)` of length (<=|>=) (\d+)")
_RANGE = re.compile(r"Expected `(?:int|float)` (<=|>=) (-?[\d.]+)")
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `([^`]*)`")
_CHOICE = re.compile(r"Invalid enum value ('.*')", re.DOTALL)


def in_words(text: str, path: str, choices: tuple[str, ...] = ()) -> str:
    """Return a message about the field at `path` in words; one that is not known stays as it is."""
    if choices and (found := _CHOICE.fullmatch(text)):
        return f"must be one of {', '.join(choices)}, not {found[1]}"
    if found := _TYPE.fullmatch(text):
        return f"must be {_types(found[1])}, not {_types(found[2])}"
    if found := _LENGTH.fullmatch(text):
        return _length(found[1], found[2], int(found[3]), path)
    if found := _RANGE.fullmatch(text):
        return f"must be {_limit(found[1])} {found[2]}"
    if found := _FIELD.fullmatch(text):
        return f"field {found[1]} is needed" if "missing" in text else f"no such field: {found[1]}"
    return text


def choices_of(kind: Any, field: str) -> tuple[str, ...]:
    """Return the texts that a field takes, none if it takes any; `field` is empty for `kind` itself, else `.name`."""
    for name in field.split(".")[1:]:
        kind = next((one.type for one in _fields(kind) if one.encode_name == name), None)
    texts = [text for one in (kind, *get_args(kind)) if get_origin(one) is Literal for text in get_args(one)]
    return tuple(map(str, texts))


def _fields(kind: Any) -> tuple[Any, ...]:
    """Return the fields of a struct, which may be optional."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return msgspec.structs.fields(one)
    return ()


def _length(kind: str, sign: str, number: int, path: str) -> str:
    field = path.rpartition(".")[2]
    if kind == "array" and sign == "<=" and number == 2 and field in ONE_PER_FAMILY:
        return f"at most two {ONE_PER_FAMILY[field]}, one of each family"
    thing = {"str": "character", "bytes": "byte"}.get(kind, "entr")
    plural = ("ies" if number != 1 else "y") if kind == "array" else ("s" if number != 1 else "")
    return f"must have {_limit(sign)} {number} {thing}{plural}"


def _limit(sign: str) -> str:
    return "at most" if sign == "<=" else "at least"


def _types(names: str) -> str:
    return " or ".join(TYPES.get(name, name) for name in names.split(" | "))
