"""The bpf(2) system call, typed: maps, programs, pins and their descriptions.

Owns the layout of `union bpf_attr` (include/uapi/linux/bpf.h) and nothing else: it holds no state, closes no
descriptor, and knows none of the project's maps. Every refusal of the kernel is an OSError with its errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from pathlib import Path
from struct import Struct, iter_unpack, pack, unpack_from

_NUMBER = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 280)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2
BPF_F_NO_PREALLOC = 1
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1
PSEUDO_MAP_FD = 1

BATCH = 16384
"""Entries moved by one call at most; larger batches gain nothing and hold the CPU longer."""


class Command(IntEnum):
    """enum bpf_cmd, as far as it is used."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    RAW_TRACEPOINT_OPEN = 17
    MAP_FREEZE = 22
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    PROG_BIND_MAP = 35


class MapType(IntEnum):
    """enum bpf_map_type, as far as it is used."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11


class ProgramType(IntEnum):
    """enum bpf_prog_type, as far as it is used."""

    SCHED_CLS = 3
    XDP = 6
    RAW_TRACEPOINT = 17


class XdpAction(IntEnum):
    """enum xdp_action: what an XDP program returns."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


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


class VerifierError(OSError):
    """The kernel refused a program; `log` is the verifier's text."""

    def __init__(self, number: int, name: str, log: str) -> None:
        super().__init__(number, f"{os.strerror(number)}: program {name}\n{log}")
        self.log = log


def _call(command: Command, attr: bytes) -> tuple[int, bytes]:
    """Make the call with a copy of `attr`; return its result and the attributes as the kernel left them."""
    size = len(attr)
    buffer = ctypes.create_string_buffer(attr, size)
    result = _libc.syscall(_NUMBER, int(command), buffer, ctypes.c_uint(size))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf {command.name}: {os.strerror(number)}")
    return result, buffer.raw


def _name(name: str) -> bytes:
    """Return an object's name as the kernel takes it: 15 bytes at most."""
    return name.encode()[:15].ljust(16, b"\0")


# Maps: one element at a time


def create_map(
    map_type: MapType, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = ""
) -> int:
    """Create a map and return its descriptor; sizes in bytes."""
    attr = pack("=7I16s", map_type, key_size, value_size, max_entries, flags, 0, 0, _name(name))
    return _call(Command.MAP_CREATE, attr)[0]


def _element(command: Command, fd: int, key: object, value: object, flags: int = 0) -> None:
    _call(command, pack("=I4xQQQ", fd, _address(key), _address(value), flags))


def _address(buffer: object) -> int:
    if isinstance(buffer, int):
        return buffer
    return ctypes.addressof(buffer) if isinstance(buffer, ctypes.Array) else 0


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value under `key`, `value_size` bytes of it, or None when there is none."""
    value = ctypes.create_string_buffer(value_size)
    try:
        _element(Command.MAP_LOOKUP_ELEM, fd, _buffer(key), value)
    except FileNotFoundError:
        return None
    return value.raw


def lookup_percpu(fd: int, key: bytes, value_size: int) -> tuple[bytes, ...]:
    """Return one value for each possible CPU, empty when there is no such key."""
    stride = percpu_stride(value_size)
    raw = lookup(fd, key, stride * possible_cpus()) or b""
    return tuple(raw[at : at + value_size] for at in range(0, len(raw), stride))


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    """Create or replace one entry; EEXIST and ENOENT by `flags`, E2BIG when the map is full."""
    _element(Command.MAP_UPDATE_ELEM, fd, _buffer(key), _buffer(value), flags)


def delete(fd: int, key: bytes) -> None:
    """Remove one entry; ENOENT when there is none."""
    _element(Command.MAP_DELETE_ELEM, fd, _buffer(key), None)


def next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """Return the key after `key`, the first one for None or a key that is gone, or None at the end."""
    following = ctypes.create_string_buffer(key_size)
    try:
        _element(Command.MAP_GET_NEXT_KEY, fd, None if key is None else _buffer(key), following)
    except FileNotFoundError:
        return None
    return following.raw


def possible_cpus() -> int:
    """Return how many values an entry of a per-CPU map has."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(text.replace("-", ",").rsplit(",", 1)[-1]) + 1


def percpu_stride(value_size: int) -> int:
    """Return the distance in bytes between two CPUs' values: the size rounded up to 8."""
    return (value_size + 7) & ~7


# Maps: batches

_BATCH_ATTR = Struct("=QQQQIIQQ")


def _batch(
    command: Command, fd: int, count: int, buffers: tuple[object, object, object, object], flags: int = 0
) -> tuple[int, int]:
    """Make one batch call; return how many entries it processed and the errno with which it stopped, or 0."""
    attr = ctypes.create_string_buffer(
        _BATCH_ATTR.pack(*(_address(buffer) for buffer in buffers), count, fd, flags, 0), _BATCH_ATTR.size
    )
    result = _libc.syscall(_NUMBER, int(command), attr, ctypes.c_uint(_BATCH_ATTR.size))
    number = ctypes.get_errno() if result < 0 else 0
    return _BATCH_ATTR.unpack(attr.raw)[4], number


def update_batch(fd: int, entries: Iterable[tuple[bytes, bytes]], flags: int = BPF_ANY) -> int:
    """Create or replace entries, `BATCH` in one call; return how many.

    The OSError of the first refused entry carries `done`, the number of entries written before it.
    """
    done = 0
    iterator = iter(entries)
    while chunk := list(islice(iterator, BATCH)):
        keys = _buffer(b"".join(key for key, _ in chunk))
        values = _buffer(b"".join(value for _, value in chunk))
        count, number = _batch(Command.MAP_UPDATE_BATCH, fd, len(chunk), (None, None, keys, values), flags)
        if number:
            raise _batch_error(Command.MAP_UPDATE_BATCH, number, done + _processed(count, len(chunk), number))
        done += len(chunk)
    return done


def delete_batch(fd: int, keys: Sequence[bytes]) -> int:
    """Remove entries; a key that is not there is skipped. Return how many were there."""
    removed = 0
    for first in range(0, len(keys), BATCH):
        removed += _delete_chunk(fd, keys[first : first + BATCH], removed)
    return removed


def _delete_chunk(fd: int, keys: Sequence[bytes], before: int) -> int:
    """Remove one chunk's entries: the kernel stops at each key that is not there, and goes on behind it."""
    packed, size = _buffer(b"".join(keys)), len(keys[0])
    start, at, removed = _address(packed), 0, 0
    while at < len(keys):
        count, number = _batch(Command.MAP_DELETE_BATCH, fd, len(keys) - at, (None, None, start + at * size, None))
        if number not in (0, errno.ENOENT):
            raise _batch_error(Command.MAP_DELETE_BATCH, number, before + removed)
        processed = count if number else len(keys) - at
        removed += processed
        at += processed + (1 if number else 0)
    return removed


def _processed(count: int, asked: int, number: int) -> int:
    """Return how many were processed: on EFAULT and EINVAL the kernel leaves `count` as it was asked."""
    return 0 if number in (errno.EFAULT, errno.EINVAL) and count == asked else count


def _batch_error(command: Command, number: int, done: int) -> OSError:
    error = OSError(number, f"bpf {command.name}: {os.strerror(number)} after {done} entries")
    error.done = done  # type: ignore[attr-defined]
    return error


def entries(fd: int, info: MapInfo | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield every entry of a hash, an LRU hash, an array or an LPM trie; per-CPU values come as one string.

    An entry that is changed meanwhile comes once or not at all, as with any walk through a living map.
    """
    info = info or map_info(fd)
    value_size = info.value_size
    if info.type in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY):
        value_size = percpu_stride(value_size) * possible_cpus()
    count, ended = min(BATCH, max(info.max_entries, 64)), False
    position: ctypes.Array[ctypes.c_char] | None = None
    while not ended:
        following = ctypes.create_string_buffer(max(4, info.key_size))
        keys = ctypes.create_string_buffer(count * info.key_size)
        values = ctypes.create_string_buffer(count * value_size)
        got, number = _batch(Command.MAP_LOOKUP_BATCH, fd, count, (position, following, keys, values))
        if number == errno.ENOSPC:  # one bucket holds more than asked for: ask for more from the same place
            count *= 2
            continue
        if number not in (0, errno.ENOENT):
            raise _batch_error(Command.MAP_LOOKUP_BATCH, number, 0)
        ended, position = number == errno.ENOENT, following
        yield from _pairs(keys, values, got, info.key_size, value_size)


def _pairs(
    keys: ctypes.Array[ctypes.c_char],
    values: ctypes.Array[ctypes.c_char],
    count: int,
    key_size: int,
    value_size: int,
) -> Iterator[tuple[bytes, bytes]]:
    if not count:
        return iter(())
    all_keys = (key for (key,) in iter_unpack(f"{key_size}s", memoryview(keys)[: count * key_size]))
    all_values = (value for (value,) in iter_unpack(f"{value_size}s", memoryview(values)[: count * value_size]))
    return zip(all_keys, all_values, strict=True)


# Programs


def load_program(
    instructions: bytes,
    program_type: ProgramType = ProgramType.XDP,
    *,
    license_name: str = "GPL",
    flags: int = 0,
    name: str = "",
    device: int = 0,
) -> int:
    """Load a program (8 bytes per instruction) and return its descriptor; VerifierError carries the log.

    `device`: the ifindex of a network card to offload it to.
    """
    try:
        return _load(instructions, program_type, license_name, flags, name, device, None)
    except OSError as error:
        # Load again only for the log: requesting it always would slow down every load.
        log = ctypes.create_string_buffer(16 << 20)
        try:
            return _load(instructions, program_type, license_name, flags, name, device, log)
        except OSError:
            text = log.value.decode(errors="replace")
            raise VerifierError(error.errno or errno.EINVAL, name, text) from None


def _load(
    instructions: bytes,
    program_type: ProgramType,
    license_name: str,
    flags: int,
    name: str,
    device: int,
    log: ctypes.Array[ctypes.c_char] | None,
) -> int:
    code, text = _buffer(instructions), ctypes.create_string_buffer(license_name.encode())
    attr = pack(
        "=IIQQIIQII16sI",
        program_type,
        len(instructions) // 8,
        _address(code),
        _address(text),
        1 if log else 0,
        len(log) if log else 0,
        _address(log),
        0,
        flags,
        _name(name),
        device,
    )
    return _call(Command.PROG_LOAD, attr)[0]


def run_program(
    fd: int,
    data: bytes,
    *,
    repeat: int = 1,
    ifindex: int = 0,
    flags: int = 0,
    cpu: int = 0,
    batch: int = 0,
    metadata: int = 0,
    kind: ProgramType = ProgramType.XDP,
) -> tuple[int, bytes, int]:
    """Run a program on a frame as if it came in on `ifindex`; return verdict, frame and nanoseconds a run.

    With BPF_F_TEST_XDP_LIVE_FRAMES the kernel really sends the frames, and returns none. For XDP, `metadata` bytes of
    `data` stand in front of the frame, in its head room (Documentation/bpf/bpf_prog_run.rst).
    """
    live = bool(flags & BPF_F_TEST_XDP_LIVE_FRAMES)
    frame = _buffer(data)
    out = None if live else ctypes.create_string_buffer(len(data) + 512)
    if kind is ProgramType.SCHED_CLS:
        context = _buffer(pack("=40xI", ifindex))  # the start of struct __sk_buff
    else:
        context = _buffer(pack("=6I", metadata, len(data), 0, ifindex, 0, 0))  # struct xdp_md
    attr = pack(
        "=4IQQ4IQQ3I4x",
        fd,
        0,
        len(data),
        len(out) if out else 0,
        _address(frame),
        _address(out),
        repeat,
        0,
        len(context),
        0,
        _address(context),
        0,
        flags,
        cpu,
        batch,
    )
    _, after = _call(Command.PROG_TEST_RUN, attr)
    verdict, out_size = unpack_from("=I4xI", after, 4)
    return verdict, out.raw[:out_size] if out else b"", unpack_from("=I", after, 36)[0]


def attach_tracepoint(name: str, fd: int) -> int:
    """Attach a program of type RAW_TRACEPOINT and return the link: it is attached while that is open or pinned.

    ENOENT where the kernel has no such tracepoint, EINVAL where it was built without BPF on tracepoints, or where the
    tracepoint has fewer arguments than the program reads.
    """
    text = ctypes.create_string_buffer(name.encode())
    return _call(Command.RAW_TRACEPOINT_OPEN, pack("=QI4x", _address(text), fd))[0]


def link_program(fd: int) -> int:
    """Return the kernel's id of the program that a link attaches: struct bpf_link_info { u32 type, id, prog_id }."""
    return int(unpack_from("=3I", link_info(fd, 16))[2])


def link_info(fd: int, size: int) -> bytes:
    """Return the first bytes of a link's struct bpf_link_info."""
    return _info(fd, size)


def link_by_id(number: int) -> int:
    """Open a link by the kernel's id; ENOENT when there is none."""
    return _call(Command.LINK_GET_FD_BY_ID, pack("=III", number, 0, 0))[0]


def all_ids(command: Command) -> Iterator[int]:
    """Yield the ids of all programs (PROG_GET_NEXT_ID) or links (LINK_GET_NEXT_ID) of the host, in their order."""
    number = 0
    with contextlib.suppress(FileNotFoundError):
        while True:
            number = unpack_from("=I", _call(command, pack("=III", number, 0, 0))[1], 4)[0]
            yield number


def query_programs(attr: bytes) -> bytes:
    """Return the attributes of BPF_PROG_QUERY as the kernel left them."""
    return _call(Command.PROG_QUERY, attr)[1]


# Pins and descriptions


def pin(fd: int, path: Path) -> None:
    """Pin a map, a program or a link in a bpf file system; EEXIST when the name is taken."""
    _object(Command.OBJ_PIN, path, fd)


def open_pin(path: Path) -> int:
    """Open the object pinned at `path`; return the descriptor of a map, program or link."""
    return _object(Command.OBJ_GET, path, 0)


def _object(command: Command, path: Path, fd: int) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _call(command, pack("=QII", _address(name), fd, 0))[0]


def map_by_id(number: int) -> int:
    """Open a map by the kernel's id; ENOENT when there is none."""
    return _call(Command.MAP_GET_FD_BY_ID, pack("=III", number, 0, 0))[0]


def freeze_map(fd: int) -> None:
    """Freeze a map: user space can no longer change it; since Linux 5.2."""
    _call(Command.MAP_FREEZE, pack("=I", fd))


def bind_map(program: int, fd: int) -> None:
    """Bind a map to a program whose code does not use it, so that it appears among its maps; since Linux 5.10."""
    _call(Command.PROG_BIND_MAP, pack("=III", program, fd, 0))


def program_by_id(number: int) -> int:
    """Open a program by the kernel's id; ENOENT when there is none."""
    return _call(Command.PROG_GET_FD_BY_ID, pack("=III", number, 0, 0))[0]


def _info(fd: int, size: int, seed: bytes = b"") -> bytes:
    info = ctypes.create_string_buffer(seed, size)
    _call(Command.OBJ_GET_INFO_BY_FD, pack("=IIQ", fd, size, _address(info)))
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
