"""Reads a BPF object file (ELF, `clang -target bpf -g -O2`) into a UserProgram.

The entry is the function `stage_function`, or the only one in section `stage`. Maps are declared as libbpf has them, in
section `.maps` with type information. Functions that the entry calls are appended. What else an object may hold, such
as global variables, is refused. The bytes are untrusted: whatever is wrong with them is an ObjectError.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

from agent.datapath.bpf.compiler import Relocation
from agent.datapath.bpf.uapi import MapType
from agent.datapath.functions.btf_types import Types, has_core_relocations
from agent.datapath.functions.refusals import ObjectError
from agent.datapath.functions.user_program import ENTRY, MAX_INSTRUCTIONS, UserMap, UserProgram

MOST_BYTES = 1 << 20
MOST_SECTIONS, MOST_SYMBOLS, MOST_RELOCATIONS = 256, 4096, 4096
ENTRY_SECTION, MAPS = "stage", ".maps"
_MEMBERS = frozenset(("type", "max_entries", "map_flags", "key", "value", "key_size", "value_size"))
_CALL, _LD_IMM64, _PSEUDO_CALL, _SIZE = 0x85, 0x18, 1, 8
_TO_64, _TO_CALL = 1, 10
"""R_BPF_64_64: the address of a map or variable; R_BPF_64_32: a call."""


class _Symbol(NamedTuple):
    """A symbol: where it is in its section, in bytes."""

    name: str
    section: int
    at: int
    size: int
    kind: str


class _Function(NamedTuple):
    """A function's section and the range of its bytes."""

    section: int
    start: int
    end: int


class _Object(NamedTuple):
    """The parts of an object file that are needed: sections by number, symbols, and relocations by place."""

    names: Mapping[int, str]
    data: Mapping[int, bytes]
    symbols: tuple[_Symbol, ...]
    relocations: Mapping[tuple[int, int], tuple[int, int]]
    """(section, offset) -> (type, number of the symbol)."""

    def section(self, name: str) -> bytes:
        """Return a section's bytes, empty if there is none."""
        return next((self.data[number] for number, one in self.names.items() if one == name), b"")


def read_object(data: bytes) -> UserProgram:
    """Return the program of an object file, or raise ObjectError."""
    if len(data) > MOST_BYTES:
        raise ObjectError(f"the object has {len(data)} bytes, the limit is {MOST_BYTES}: use llvm-strip -g")
    try:
        return _link(_parse(data))
    except ObjectError:
        raise
    except (ELFError, struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ObjectError(f"this is no object file that can be read: {type(error).__name__}: {error}"[:200]) from error
    except (RecursionError, MemoryError, OSError) as error:
        raise ObjectError(f"this is no object file that can be read: {type(error).__name__}") from error


def _parse(data: bytes) -> _Object:
    file = ELFFile(io.BytesIO(data))
    if (file.elfclass, file.little_endian, file["e_machine"], file["e_type"]) != (64, True, "EM_BPF", "ET_REL"):
        raise ObjectError("this is no object file for the BPF target: compile it with clang -target bpf -g -O2 -c")
    if file.num_sections() > MOST_SECTIONS:
        raise ObjectError(f"the object has {file.num_sections()} sections, the limit is {MOST_SECTIONS}")
    names, contents = {}, {}
    symbols: tuple[_Symbol, ...] = ()
    relocations: dict[tuple[int, int], tuple[int, int]] = {}
    for number, section in enumerate(file.iter_sections()):
        names[number] = section.name
        if isinstance(section, SymbolTableSection):
            symbols = tuple(_symbols(section))
        elif isinstance(section, RelocationSection):
            relocations |= _relocations(section)
        elif section["sh_type"] == "SHT_PROGBITS":
            contents[number] = _contents(section)
    return _Object(names, contents, symbols, relocations)


def _contents(section: Section) -> bytes:
    if section.compressed:  # a few bytes may stand for any number of them
        raise ObjectError(f"the section {section.name} is compressed: compile it without")
    found: bytes = section.data()
    return found


def _symbols(table: SymbolTableSection) -> Iterator[_Symbol]:
    if table.num_symbols() > MOST_SYMBOLS:
        raise ObjectError(f"the object has {table.num_symbols()} symbols, the limit is {MOST_SYMBOLS}")
    for one in table.iter_symbols():
        section = one["st_shndx"]
        number = section if isinstance(section, int) else -1
        yield _Symbol(one.name, number, one["st_value"], one["st_size"], one["st_info"]["type"])


def _relocations(section: RelocationSection) -> dict[tuple[int, int], tuple[int, int]]:
    if section.num_relocations() > MOST_RELOCATIONS:
        raise ObjectError(f"the object has more than {MOST_RELOCATIONS} relocations in one section")
    target = section["sh_info"]
    return {(target, one["r_offset"]): (one["r_info_type"], one["r_info_sym"]) for one in section.iter_relocations()}


def _link(parsed: _Object) -> UserProgram:
    """Put the entry and what it calls behind one another, with their calls and maps."""
    functions = [_entry(parsed)]
    starts: dict[_Function, int] = {}
    code, relocations, total = bytearray(), [], 0
    calls: list[tuple[int, _Function]] = []
    for function in functions:  # grows while it is walked
        starts[function] = len(code) // _SIZE
        body = parsed.data[function.section][function.start : function.end]
        total += len(body) // _SIZE
        if total > MAX_INSTRUCTIONS:
            raise ObjectError(f"the program has more than {MAX_INSTRUCTIONS} instructions, the limit: split it")
        for index, called, used in _references(parsed, function):
            if called is not None:
                calls.append((starts[function] + index, called))
                if called not in functions:
                    functions.append(called)
            else:
                relocations.append(Relocation(starts[function] + index, used))
        code += body
    for index, called in calls:
        struct.pack_into("<i", code, index * _SIZE + 4, starts[called] - index - 1)
    for one in relocations:
        code[one.index * _SIZE + 4 : one.index * _SIZE + 8] = bytes(4)
    maps = _maps(parsed, {one.map for one in relocations})
    return UserProgram(bytes(code), tuple(relocations), maps, _lines(parsed, starts))


def _entry(parsed: _Object) -> _Function:
    functions = [one for one in parsed.symbols if one.kind == "STT_FUNC" and one.section in parsed.data]
    named = [one for one in functions if one.name == ENTRY]
    placed = [one for one in functions if parsed.names[one.section] == ENTRY_SECTION]
    found = named or placed
    if len(found) != 1:
        raise ObjectError(
            f"the object has {len(found) or 'no'} entry functions: name one {ENTRY}, or put one alone into section "
            f'"{ENTRY_SECTION}"'
        )
    return _function(parsed, found[0])


def _function(parsed: _Object, symbol: _Symbol) -> _Function:
    size = len(parsed.data.get(symbol.section, b""))
    start, end = symbol.at, symbol.at + symbol.size
    if start % _SIZE or symbol.size % _SIZE or not 0 <= start < end <= size:
        raise ObjectError(f"the function {symbol.name} does not lie within its section")
    return _Function(symbol.section, start, end)


def _references(parsed: _Object, function: _Function) -> Iterator[tuple[int, _Function | None, str]]:
    """Yield the number of each instruction that calls a function or uses a map, with the function or the map's name."""
    body = parsed.data[function.section]
    skip = False
    for at in range(function.start, function.end, _SIZE):
        if skip:
            skip = False
            continue
        skip = body[at] == _LD_IMM64
        index, found = (at - function.start) // _SIZE, parsed.relocations.get((function.section, at))
        if found is not None and found[0] == _TO_64 and body[at] == _LD_IMM64:
            yield index, None, _map_name(parsed, parsed.symbols[found[1]])
        elif body[at] == _CALL and body[at + 1] >> 4 == _PSEUDO_CALL:
            yield index, _called(parsed, function.section, at, found), ""
        elif found is not None:
            raise ObjectError(f"instruction {index} has a relocation that is not supported (type {found[0]})")


def _map_name(parsed: _Object, symbol: _Symbol) -> str:
    section = parsed.names.get(symbol.section, "")
    if section == MAPS and symbol.name:
        return symbol.name
    if section == "maps":
        raise ObjectError("maps in section maps have no type information: declare them in .maps, as libbpf does")
    what = symbol.name or section or "something outside"
    raise ObjectError(f"the program uses {what}: functions have no global variables; put it into a map or on the stack")


def _called(parsed: _Object, section: int, at: int, found: tuple[int, int] | None) -> _Function:
    """Return the function that an instruction calls, by its relocation or by the distance in its own section."""
    (distance,) = struct.unpack_from("<i", parsed.data[section], at + 4)
    if found is None:
        target, place = section, at + (distance + 1) * _SIZE
    else:
        kind, number = found
        symbol = parsed.symbols[number]
        if kind != _TO_CALL or symbol.section not in parsed.data:
            name = symbol.name or "a function"
            raise ObjectError(f"the program calls {name}, which is not in the object: define it, or use a helper")
        target = symbol.section
        place = symbol.at + ((distance + 1) * _SIZE if symbol.kind == "STT_SECTION" else 0)
    for one in parsed.symbols:
        if one.kind == "STT_FUNC" and (one.section, one.at) == (target, place):
            return _function(parsed, one)
    raise ObjectError("the program calls a place where no function begins: compile it anew")


def _maps(parsed: _Object, used: set[str]) -> tuple[UserMap, ...]:
    """Return the maps of section .maps, also those that no instruction uses."""
    if not used and not parsed.section(MAPS):
        return ()
    types = _types(parsed)
    found = types.map_definitions() if types is not None else {}
    if missing := sorted(used.difference(found)):
        raise ObjectError(f"the map {missing[0]} has no type information: compile with -g, and declare it in .maps")
    return tuple(_map(name, members, types) for name, members in found.items() if types is not None)


def _map(name: str, members: Mapping[str, int], types: Types) -> UserMap:
    if unknown := sorted(members.keys() - _MEMBERS):
        raise ObjectError(f"the map {name} has a member {unknown[0]}, which functions' maps may not have: remove it")
    array = members.get("type") in (MapType.ARRAY, MapType.PERCPU_ARRAY)
    key = types.size_of(members["key"]) if "key" in members else members.get("key_size", 4 if array else 0)
    value = types.size_of(members["value"]) if "value" in members else members.get("value_size", 0)
    return UserMap(
        *(name, members.get("type", 0), key, value, members.get("max_entries", 0), members.get("map_flags", 0)),
        key_fields=types.fields_of(members["key"]) if "key" in members else (),
        value_fields=types.fields_of(members["value"]) if "value" in members else (),
    )


def _types(parsed: _Object) -> Types | None:
    if has_core_relocations(parsed.section(".BTF.ext")):
        raise ObjectError(
            "the object reads structs of the kernel (CO-RE): functions see packets and struct stage alone"
        )
    data = parsed.section(".BTF")
    return Types(data) if data else None


def _lines(parsed: _Object, starts: Mapping[_Function, int]) -> dict[int, str]:
    """Return the source lines by the numbers of the linked program's instructions, without those of headers."""
    types = _types(parsed)
    if types is None:
        return {}
    by_section = types.lines(parsed.section(".BTF.ext"))
    found: dict[int, str] = {}
    entry = next(iter(starts))
    own = next(
        (line.file for line in by_section.get(parsed.names[entry.section], ()) if line.offset == entry.start), ""
    )
    for function, start in starts.items():
        for line in by_section.get(parsed.names[function.section], ()):
            if function.start <= line.offset < function.end and line.number and line.file == own:
                found[start + (line.offset - function.start) // _SIZE] = f"{line.number}: {line.text}"
    return found
