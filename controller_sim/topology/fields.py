"""Fields that several objects of a topology file share: names, addresses, CIDRs, one word of several.

Each function takes a field from a `Reader`, which remembers what is wrong with it, and returns None then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import TypeVar

from controller_sim.topology.reader import Reader
from protocol.addresses import parse_cidr

MAX_NAME = 31
NAME = re.compile(rf"^[a-z0-9][a-z0-9-]{{0,{MAX_NAME - 1}}}$")
_T = TypeVar("_T")


def name_of(reader: Reader, pattern_hint: str = "") -> str | None:
    """Return an object's name. `pattern_hint` ends the error about a name that contains `{n}`."""
    name = reader.text("name", "a name")
    if name is not None and not NAME.match(name):
        hint = pattern_hint if "{n}" in name else ""
        rule = f"use lower-case letters, digits and dashes, at most {MAX_NAME}"
        reader.wrong(f"{name!r} is not a valid name: {rule}{hint}", "name")
        return None
    return name


def add(reader: Reader, known: dict[str, _T], name: str | None, item: _T) -> None:
    """Keep an object by its name; a name that is there already is a mistake."""
    if name is None:
        return
    if name in known:
        reader.wrong(f"{name!r} is listed twice: give each a name of its own", "name")
    known[name] = item


def parsed(reader: Reader, key: str, parse: Callable[[str], object], wanted: str) -> str | None:
    """Return a needed text that `parse` accepts."""
    text = reader.text(key, wanted)
    if text is None:
        return None
    try:
        parse(text)
    except ValueError as error:
        reader.wrong(str(error), key)
        return None
    return text


def optional(reader: Reader, key: str, parse: Callable[[str], object], wanted: str) -> str | None:
    """Return a text that `parse` accepts, or None where none is written."""
    if not reader.has(key):
        reader.take(key, str, wanted, None)
        return None
    return parsed(reader, key, parse, wanted)


def choice(reader: Reader, key: str, words: tuple[str, ...]) -> str:
    """Return one of some words, the first where none is written."""
    word = reader.text(key, " or ".join(words), words[0])
    if word not in words:
        reader.wrong(f"{word!r} is not {' or '.join(words)}", key)
        return words[0]
    return word


def one_or_list(reader: Reader, key: str, parse: Callable[[str], object], wanted: str) -> tuple[str, ...] | None:
    """Return the texts of a needed field that is one text or a list of them, when `parse` accepts all."""
    if not reader.has(key) or not isinstance(reader.node[key], list):
        text = parsed(reader, key, parse, wanted)
        return None if text is None else (text,)
    before = len(reader.mistakes)
    texts = reader.names(key)
    for text in texts:
        try:
            parse(text)
        except ValueError as error:
            reader.wrong(str(error), key)
    if not texts:
        reader.wrong(f"expected {wanted}, not an empty list", key)
    return tuple(texts) if len(reader.mistakes) == before else None


def cidrs_of(reader: Reader, wanted: str) -> tuple[str, ...] | None:
    """Return the needed field `cidr`: one CIDR, or a list of one for each family."""
    found = one_or_list(reader, "cidr", parse_cidr, wanted)
    if found is not None and repeats_a_family(found):
        reader.wrong("more than one CIDR of a family: give at most one of each", "cidr")
        return None
    return found


def repeats_a_family(texts: Iterable[str]) -> bool:
    """Say whether two of some addresses or CIDRs are of the same family."""
    versions = [ip_network(text, strict=False).version for text in texts]
    return len(set(versions)) != len(versions)
