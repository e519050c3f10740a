"""What the pins of a function say of it: a small map beside its programs, and the names of its folders.

    functions/<point>/<id>/<number>/record           which function, where, of which program
    functions/<point>/<id>/<number>/configuration
    functions/<point>/<id>/<number>/maps/<map>
    functions/<point>/<id>/<number>/programs/<hook>

A number stands for one build: it grows with every new one, and one that is finished is never changed, but for its
configuration. `maps` of two builds may be the same maps.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from hashlib import blake2s
from pathlib import Path
from typing import NamedTuple

from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions import checks, frames, instructions, isolation, linker, pointer_flow, pointer_values

RECORD, CONFIGURATION_PIN, MAPS, PROGRAM_PINS = "record", "configuration", "maps", "programs"
_MAP_NAME = "droplet_record"
_RECORD = struct.Struct("=8sIIIIII64s192s64s")
"""struct { char magic[8]; u32 version, point, slot, flags, configuration, maps; char content[64], id[192], vpc[64]
}."""
_MAGIC, _VERSION = b"function", 2
_CLOSED = 1
_ONLY = bytes(4)


class Record(NamedTuple):
    """One build: `length` is that of the configuration in bytes, `maps` the number of the function's own maps.

    With a `vpc`, it is limited to that VPC, so its program does not learn droplets' addresses.
    """

    id: str
    point: int
    slot: int
    content: str
    closed: bool
    length: int
    maps: int
    vpc: str = ""

    def same_program(self, other: Record) -> bool:
        """Return whether two builds run the same program in the same way: all but the configuration."""
        return (*self[:5], self.vpc) == (*other[:5], other.vpc)


def folder_of(root: Path, id_: str, point: int) -> Path:
    """Return the folder of a function at a point. A bpf file system takes no dots in names, and 255 bytes."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    name = "".join(chr(byte) if byte in plain else f"%{byte:02x}" for byte in id_.encode())
    return root / str(point) / name


def build_of(record: Record, shells: str) -> str:
    """Return the digest that marks programs of a build; `shells` is the hash of the agent's programs around it.

    A program that an older agent checked or linked by other rules is of another build, and is loaded anew.
    """
    text = f"{record.content} {shells} {_rules()} {record.point} {record.slot} {record.closed} {record.vpc}"
    return blake2s(text.encode(), digest_size=16).hexdigest()


@cache
def _rules() -> str:
    """Return the digest of the modules that decide what a checked and linked program looks like."""
    modules = (checks, frames, instructions, isolation, linker, pointer_flow, pointer_values)
    return blake2s(b"".join(Path(str(one.__file__)).read_bytes() for one in modules), digest_size=16).hexdigest()


def pin_record(record: Record, path: Path) -> None:
    """Create and pin the map that holds a record."""
    descriptor = bpf.create_map(bpf.MapType.ARRAY, 4, _RECORD.size, 1, name=_MAP_NAME)
    try:
        bpf.update(descriptor, _ONLY, _pack(record))
        bpf.pin(descriptor, path)
    finally:
        os.close(descriptor)


def write_record(record: Record, path: Path) -> None:
    """Replace the content of a pinned record."""
    descriptor = bpf.open_pin(path)
    try:
        bpf.update(descriptor, _ONLY, _pack(record))
    finally:
        os.close(descriptor)


def read_record(path: Path) -> Record | None:
    """Read a pinned record; None if there is none, or if it is of another version."""
    try:
        descriptor = bpf.open_pin(path)
    except FileNotFoundError:
        return None
    try:
        info = bpf.map_info(descriptor)
        if (info.name, info.value_size) != (_MAP_NAME, _RECORD.size):
            return None
        return _unpack(bpf.lookup(descriptor, _ONLY, _RECORD.size) or b"")
    finally:
        os.close(descriptor)


def _pack(one: Record) -> bytes:
    numbers = (one.point, one.slot, _CLOSED if one.closed else 0, one.length, one.maps)
    return _RECORD.pack(_MAGIC, _VERSION, *numbers, *(text.encode() for text in (one.content, one.id, one.vpc)))


def _unpack(value: bytes) -> Record | None:
    if len(value) != _RECORD.size:
        return None
    magic, version, point, slot, flags, length, maps, content, id_, vpc = _RECORD.unpack(value)
    if (magic, version) != (_MAGIC, _VERSION):
        return None
    return Record(_text(id_), point, slot, _text(content), bool(flags & _CLOSED), length, maps, _text(vpc))


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")
