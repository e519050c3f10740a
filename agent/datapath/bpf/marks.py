"""Marks that identify the owner of a loaded program. They live as long as it does, even if its pins are lost.

A mark is a small map that is bound to the program (BPF_PROG_BIND_MAP, since Linux 5.10) and frozen, so that its id
stands among the program's and its content cannot change. Only root can load programs, so a mark is no proof against
root; it keeps apart what may be taken over and what is another's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import NamedTuple

import structlog

from agent.core.model.hooks import PROGRAMS, Hook
from agent.core.model.map_layout import LAYOUT_VERSION, MapName
from agent.datapath.bpf import syscall as bpf

MAP_NAME = "droplet_mark"
_MARK = struct.Struct("=8sI4x64s64s")
"""struct { char magic[8]; u32 layout; u32 pad; char instance[64]; char content[64] }."""
_MAGIC = b"droplet\0"
_FIRST = bytes(4)
_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)

_FEWEST_MAPS = 5
_UNMARKED_KEYS = {
    MapName.ENDPOINTS: 20,
    MapName.INTERFACES: 4,
    MapName.NETWORKS: 24,
    MapName.VPCS: 4,
    MapName.DROPLETS: 16,
    MapName.NEXT_HOPS: 20,
    MapName.LOCAL_DROPLETS: 4,
    MapName.DIRECT: 20,
    MapName.FRAGMENTS: 28,
    "told": 4,  # icmp_ratelimit was called so
    MapName.OUTCOMES: 4,
    MapName.ENDPOINT_COUNTERS: 4,
    MapName.PROGRAMS: 4,
}
"""Maps of programs that were loaded before marks existed (layouts up to 3), with their key sizes."""

log = structlog.get_logger()


class Mark(NamedTuple):
    """A program's owner: the agent's instance, the version of its maps' layout, and the hash of its content."""

    instance: str
    layout: int
    content: str


def mark(program: int, instance: str, content: str) -> None:
    """Bind a mark to a program. Kernels without the command, and programs on a card, do without."""
    made = bpf.create_map(bpf.MapType.ARRAY, 4, _MARK.size, 1, name=MAP_NAME)
    try:
        bpf.update(made, _FIRST, _MARK.pack(_MAGIC, LAYOUT_VERSION, instance.encode()[:64], content.encode()[:64]))
        bpf.freeze_map(made)
        bpf.bind_map(program, made)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        log.warning("program_not_marked", reason=str(error))
    finally:
        os.close(made)


def read_mark(info: bpf.ProgramInfo) -> tuple[int, Mark] | None:
    """Return the id and content of a program's mark, None if it has none."""
    for number in info.map_ids:
        with contextlib.suppress(FileNotFoundError):
            found = _read(number)
            if found is not None:
                return number, found
    return None


def _read(number: int) -> Mark | None:
    descriptor = bpf.map_by_id(number)
    try:
        info = bpf.map_info(descriptor)
        if (info.type, info.name, info.value_size) != (bpf.MapType.ARRAY, MAP_NAME, _MARK.size):
            return None
        value = bpf.lookup(descriptor, _FIRST, _MARK.size)
    finally:
        os.close(descriptor)
    if value is None:
        return None
    magic, layout, instance, content = _MARK.unpack(value)
    if magic != _MAGIC:
        return None
    return Mark(_text(instance), layout, _text(content))


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")


def is_like_ours(info: bpf.ProgramInfo) -> bool:
    """Return whether an unmarked program is that of an agent from before marks existed, of any instance.

    It has the name of one of our programs, and all its maps have names and keys of ours. A name alone proves nothing.
    """
    if info.type != bpf.ProgramType.XDP or info.name not in PROGRAMS[Hook.XDP] or len(info.map_ids) < _FEWEST_MAPS:
        return False
    known = {str(name)[:15]: size for name, size in _UNMARKED_KEYS.items()}
    try:
        return all(known.get(found.name) == found.key_size for found in map(_map_info, info.map_ids))
    except FileNotFoundError:
        return False


def _map_info(number: int) -> bpf.MapInfo:
    descriptor = bpf.map_by_id(number)
    try:
        return bpf.map_info(descriptor)
    finally:
        os.close(descriptor)
