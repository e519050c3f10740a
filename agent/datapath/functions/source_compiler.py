"""Compiles a user's source with bcc in a process of its own: `python -m agent.datapath.functions.source_compiler`.

Reads the source from standard input. Writes a UserProgram as MessagePack to standard output; clang's errors go to
standard error. `compile` starts it. Nothing here is trusted by the agent: `checks` sees the result like any other.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.datapath.bpf.compiler import SOURCES, flags, program_of
from agent.datapath.functions.bpf_requests import BpfRequests
from agent.datapath.functions.descriptions import fields_of
from agent.datapath.functions.sandbox import SandboxError, enter, forbid_calls, notify_bpf
from agent.datapath.functions.user_program import ENTRY, UserMap, UserProgram

SOURCE_NAME = "function.c"
"""The name of the user's source in clang's messages."""
HOST_CANNOT = 3
"""The exit status where the source is not at fault."""
_READABLE = (Path("/usr/include"), SOURCES)
_XDP = 6


def main() -> int:
    """Compile standard input; return the exit status."""
    source = sys.stdin.buffer.read()
    try:
        from bcc import lib
    except ImportError as error:
        sys.stderr.write(f"bcc is missing (Debian package python3-bpfcc): {error}\n")
        return HOST_CANNOT
    os.chdir(SOURCES / "shim")
    given = _flags()
    requests = BpfRequests()
    try:
        enter(_READABLE)
        requests.begin()
        forbid_calls()
        requests.listen(notify_bpf())
    except SandboxError as error:
        sys.stderr.write(f"sources of functions cannot be compiled on this host: {error}\n")
        return HOST_CANNOT
    program = compile_here(lib, source, given, requests)
    if program is None:
        return 1
    sys.stdout.buffer.write(msgspec.msgpack.encode(program))
    return 0


def _flags() -> list[str]:
    """Return clang's flags; the agent's folders are relative, as the user nobody may not pass through those above."""
    theirs = [flag for flag in flags() if not flag.startswith(("-I", "-D"))]
    return [*theirs, "-Iinclude", "-I..", "-U__has_include", "-U__has_include_next", "-Wno-builtin-macro-redefined"]


def compile_here(lib: Any, source: bytes, given: list[str], requests: BpfRequests) -> UserProgram | None:
    """Compile in this process, which is confined; None if clang wrote errors."""
    # bcc's Python declares only some of libbcc's functions, and ctypes would cut pointers to 32 bits.
    lib.bpf_module_create_c_from_string.restype = ctypes.c_void_p
    lib.bpf_function_start.restype, lib.bpf_function_size.restype = ctypes.c_void_p, ctypes.c_size_t
    text = numbered(source)
    array = (ctypes.c_char_p * len(given))(*(flag.encode() for flag in given))
    handle = lib.bpf_module_create_c_from_string(text, 0, array, len(given), False, None)
    if not handle:
        return None
    module = ctypes.c_void_p(handle)
    start, name = lib.bpf_function_start(module, ENTRY.encode()), ENTRY.encode()
    if not start:
        sys.stderr.write(f"{SOURCE_NAME}: no function int {ENTRY}(struct stage *stage): write one\n")
        return None
    code = ctypes.string_at(start, lib.bpf_function_size(module, name))
    maps, by_fd = _maps(lib, module)
    lib.bcc_func_load(module, _XDP, name, ctypes.c_char_p(code), len(code), b"GPL", 0, 0, None, 0, None, 0)
    program = program_of(ENTRY, code, by_fd)
    return UserProgram(program.instructions, program.relocations, maps, _lines(source, requests.lines))


def _lines(source: bytes, places: Mapping[int, tuple[str, int]]) -> dict[int, str]:
    """Return the user's lines, with their numbers, by the numbers of instructions."""
    text = source.decode(errors="replace").splitlines()
    return {
        index: f"{line}: {text[line - 1].strip()}"
        for index, (file, line) in places.items()
        if file.endswith(SOURCE_NAME) and 0 < line <= len(text)
    }


def numbered(source: bytes) -> bytes:
    """Return the source with the number of each statement's line: bcc adds lines of its own before functions."""
    out, ended = [], True
    for number, line in enumerate(source.split(b"\n"), 1):
        if ended:
            out.append(f'#line {number} "{SOURCE_NAME}"'.encode())
        out.append(line)
        ended = line.rstrip().endswith((b";", b"{", b"}")) or (ended and not line.strip())
    return b"\n".join(out)


def _maps(lib: Any, module: ctypes.c_void_p) -> tuple[tuple[UserMap, ...], dict[int, str]]:
    """Return the maps that the source declares, and their names by the descriptors in the instructions."""
    lib.bpf_num_tables.restype, lib.bpf_table_name.restype = ctypes.c_size_t, ctypes.c_char_p
    lib.bpf_table_key_size_id.restype = lib.bpf_table_leaf_size_id.restype = ctypes.c_size_t
    lib.bpf_table_key_desc_id.restype = lib.bpf_table_leaf_desc_id.restype = ctypes.c_char_p
    found, by_fd = [], {}
    for number in range(lib.bpf_num_tables(module)):
        index = ctypes.c_size_t(number)
        one = UserMap(
            lib.bpf_table_name(module, index).decode(),
            lib.bpf_table_type_id(module, index),
            lib.bpf_table_key_size_id(module, index),
            lib.bpf_table_leaf_size_id(module, index),
            lib.bpf_table_max_entries_id(module, index),
            lib.bpf_table_flags_id(module, index),
            fields_of(_described(lib.bpf_table_key_desc_id(module, index))),
            fields_of(_described(lib.bpf_table_leaf_desc_id(module, index))),
        )
        found.append(one)
        by_fd[lib.bpf_table_fd_id(module, index)] = one.name
    return tuple(found), by_fd


def _described(text: bytes | None) -> object:
    """Return bcc's description of a type, which is JSON; None if it has none."""
    return json.loads(text) if text else None


if __name__ == "__main__":
    sys.exit(main())
