"""Pins, ids and descriptions of maps, programs and links, by bpf(2).

Closes no descriptor: whoever opens one owns it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, pack, unpack_from

from agent.datapath.bpf.uapi import Command, address, call


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The head of struct bpf_map_info; sizes in bytes, of one CPU's value."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A program as struct bpf_prog_info describes it: `tag` is the kernel's hash of its instructions."""

    type: int
    id: int
    tag: bytes
    map_ids: tuple[int, ...]
    name: str


def pin(fd: int, path: Path) -> None:
    """Pin a map, a program or a link in a bpf file system; EEXIST when the name is taken."""
    _object(Command.OBJ_PIN, path, fd)


def open_pin(path: Path) -> int:
    """Open the object pinned at `path`; return the descriptor of a map, program or link."""
    return _object(Command.OBJ_GET, path, 0)


def _object(command: Command, path: Path, fd: int) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    return call(command, pack("=QII", address(name), fd, 0))[0]


def map_by_id(number: int) -> int:
    """Open a map by the kernel's id; ENOENT when there is none."""
    return call(Command.MAP_GET_FD_BY_ID, pack("=III", number, 0, 0))[0]


def program_by_id(number: int) -> int:
    """Open a program by the kernel's id; ENOENT when there is none."""
    return call(Command.PROG_GET_FD_BY_ID, pack("=III", number, 0, 0))[0]


def _info(fd: int, size: int, seed: bytes = b"") -> bytes:
    info = ctypes.create_string_buffer(seed, size)
    call(Command.OBJ_GET_INFO_BY_FD, pack("=IIQ", fd, size, address(info)))
    return info.raw


def map_info(fd: int) -> MapInfo:
    """Describe a map."""
    raw = _info(fd, 40)
    type_, number, key_size, value_size, max_entries, flags, name = unpack_from("=6I16s", raw)
    return MapInfo(type_, number, key_size, value_size, max_entries, flags, name.rstrip(b"\0").decode())


_PROGRAM_INFO = Struct("=II8sIIQQQIIQ16s")
_VERIFIED, _VERIFIED_AT = Struct("=I"), 216
"""The field `verified_insns` of struct bpf_prog_info, and where it is."""


def program_info(fd: int) -> ProgramInfo:
    """Describe a program, with the ids of the maps that it really uses."""
    count = _PROGRAM_INFO.unpack(_info(fd, _PROGRAM_INFO.size))[9]
    ids = (ctypes.c_uint32 * max(count, 1))()
    seed = _PROGRAM_INFO.pack(0, 0, bytes(8), 0, 0, 0, 0, 0, 0, count, ctypes.addressof(ids), bytes(16))
    fields = _PROGRAM_INFO.unpack(_info(fd, _PROGRAM_INFO.size, seed))
    return ProgramInfo(fields[0], fields[1], fields[2], tuple(ids)[:count], fields[11].rstrip(b"\0").decode())


def verified_instructions(fd: int) -> int:
    """Return how many instructions the verifier processed before it accepted a program; its limit is 1,000,000.

    Since Linux 5.16 (`verified_insns` of struct bpf_prog_info); 0 before.
    """
    found: int = _VERIFIED.unpack_from(_info(fd, _VERIFIED_AT + _VERIFIED.size), _VERIFIED_AT)[0]
    return found


def link_program(fd: int) -> int:
    """Return the kernel's id of the program that a link attaches: struct bpf_link_info { u32 type, id, prog_id }."""
    return int(unpack_from("=3I", link_info(fd, 16))[2])


def link_info(fd: int, size: int) -> bytes:
    """Return the first bytes of a link's struct bpf_link_info."""
    return _info(fd, size)


def link_by_id(number: int) -> int:
    """Open a link by the kernel's id; ENOENT when there is none."""
    return call(Command.LINK_GET_FD_BY_ID, pack("=III", number, 0, 0))[0]


def all_ids(command: Command) -> Iterator[int]:
    """Yield the ids of all programs (PROG_GET_NEXT_ID) or links (LINK_GET_NEXT_ID) of the host, in their order."""
    number = 0
    with contextlib.suppress(FileNotFoundError):
        while True:
            number = unpack_from("=I", call(command, pack("=III", number, 0, 0))[1], 4)[0]
            yield number
