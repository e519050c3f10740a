"""The bpf(2) system call itself, and the numbers of include/uapi/linux/bpf.h that the agent uses.

`syscall` is what other packages import. Every refusal of the kernel is an OSError with its errno.
"""

from __future__ import annotations

import ctypes
import os
import platform
from enum import IntEnum

_NUMBER = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 280)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2
BPF_F_NO_PREALLOC = 1
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1
BPF_F_REPLACE = 1 << 2
BPF_F_BEFORE = 1 << 3
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE = 1, 2


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
    PROG_ATTACH = 8
    PROG_DETACH = 9
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
    XSKMAP = 17


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


def call(command: Command, attr: bytes) -> tuple[int, bytes]:
    """Make the call with a copy of `attr`; return its result and the attributes as the kernel left them."""
    attributes = buffer(attr)
    result, number = try_call(command, attributes)
    if number:
        raise OSError(number, f"bpf {command.name}: {os.strerror(number)}")
    return result, attributes.raw


def try_call(command: Command, attributes: ctypes.Array[ctypes.c_char]) -> tuple[int, int]:
    """Make the call with attributes that the kernel may change; return its result, and its errno or 0."""
    result = _libc.syscall(_NUMBER, int(command), attributes, ctypes.c_uint(len(attributes)))
    return result, ctypes.get_errno() if result < 0 else 0


def object_name(name: str) -> bytes:
    """Return an object's name as the kernel takes it: 15 bytes at most."""
    return name.encode()[:15].ljust(16, b"\0")


def address(memory: object) -> int:
    """Return the address of a buffer; a number is one already, and None is 0."""
    if isinstance(memory, int):
        return memory
    return ctypes.addressof(memory) if isinstance(memory, ctypes.Array) else 0


def buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    """Return memory with these bytes, which the kernel may read and write."""
    return ctypes.create_string_buffer(data, len(data))
