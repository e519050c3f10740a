"""Answers the bpf(2) calls of a compiler in the kernel's place: maps get descriptors of nothing, programs are read.

bcc creates each map that a source declares, of any size, and needs privileges for it. Its calls are held by seccomp's
user notification, so that neither happens: a thread without the filter answers them. It also reads what the compiler
would load: the instructions' source lines.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Mapping

from agent.datapath.functions.sandbox import forbid_calls

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
"""struct seccomp_notif { u64 id; u32 pid, flags; struct seccomp_data { int nr; u32 arch; u64 ip; u64 args[6] } }."""
_RESPONSE = struct.Struct("=QqiI")
"""struct seccomp_notif_resp { u64 id; s64 val; s32 error; u32 flags }."""
_MAP_CREATE, _PROG_LOAD, _BTF_LOAD = 0, 5, 18
_BTF = struct.Struct("=QQI")
"""Of union bpf_attr: u64 btf, btf_log_buf; u32 btf_size."""
_LINES_AT, _LINES = 92, struct.Struct("=IQI")
"""Of union bpf_attr: u32 line_info_rec_size; u64 line_info; u32 line_info_cnt."""
_LINE = struct.Struct("=IIII")
"""struct bpf_line_info { u32 insn_off, file_name_off, line_off, line_col }; the line is line_col >> 10."""
_HEADER = struct.Struct("=HBBIIIII")
"""struct btf_header { u16 magic; u8 version, flags; u32 hdr_len, type_off, type_len, str_off, str_len }."""
MOST_DESCRIPTORS = 256


class BpfRequests:
    """The answers to one thread's bpf(2) calls, given by another thread until the process ends."""

    def __init__(self) -> None:
        self._listener = -1
        self._filtered = threading.Event()
        self._descriptors = 0
        self._nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._btf = b""
        self.lines: Mapping[int, tuple[str, int]] = {}
        """File and line by the number of the instruction, of the program that was to be loaded last."""

    def begin(self) -> None:
        """Start the thread that answers; call it before `notify_bpf` and the compiler."""
        threading.Thread(target=self._serve, daemon=True).start()

    def listen(self, listener: int) -> None:
        """Answer what arrives on a descriptor from `notify_bpf`."""
        self._listener = listener
        self._filtered.set()

    def _serve(self) -> None:
        forbid_calls()
        self._filtered.wait()
        with contextlib.suppress(OSError):  # the other thread has ended
            while True:
                request = bytearray(_NOTIFICATION.size)
                fcntl.ioctl(self._listener, _RECEIVE, request)
                number, *_, command, at, size, _a, _b, _c = _NOTIFICATION.unpack(request)
                value, error = self._answer(command, ctypes.string_at(at, size))
                fcntl.ioctl(self._listener, _SEND, _RESPONSE.pack(number, value, error, 0))

    def _answer(self, command: int, attributes: bytes) -> tuple[int, int]:
        """Return the result and the negative errno of one call."""
        if command == _PROG_LOAD:
            self.lines = self._read_lines(attributes)
        if command not in (_MAP_CREATE, _BTF_LOAD) or self._descriptors >= MOST_DESCRIPTORS:
            return 0, -errno.EPERM
        if command == _BTF_LOAD:
            at, _, size = _BTF.unpack_from(attributes)
            self._btf = ctypes.string_at(at, size)
        self._descriptors += 1
        return os.dup(self._nothing), 0

    def _read_lines(self, attributes: bytes) -> dict[int, tuple[str, int]]:
        if len(attributes) < _LINES_AT + _LINES.size or not self._btf:
            return {}
        size, at, count = _LINES.unpack_from(attributes, _LINES_AT)
        raw = ctypes.string_at(at, size * count)
        _, _, _, header, _, _, names_at, names_length = _HEADER.unpack_from(self._btf)
        names = self._btf[header + names_at : header + names_at + names_length]
        found = {}
        for offset in range(0, size * count, size or 1):
            index, file, _, column = _LINE.unpack_from(raw, offset)
            found[index] = _text(names, file), column >> 10
        return found


def _text(names: bytes, at: int) -> str:
    return names[at : names.find(b"\0", at)].decode(errors="replace").strip()
