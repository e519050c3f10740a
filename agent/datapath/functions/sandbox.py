"""Confines the process that compiles users' sources: what clang does there can harm nothing but that process.

Four fences, each of which is enough for most attacks: another user without capabilities; Landlock (Linux 5.13), which
leaves a few folders readable and nothing writable; a filter that passes only the system calls that compiling needs
(`system_calls`); limits of memory, processor time, open files and file size. bpf(2) is answered by a thread of the same
process (`BpfRequests`), so the kernel creates nothing.

Sources: seccomp(2), landlock(7), Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence
from pathlib import Path

from agent.datapath.functions.system_calls import ALLOWED

NOBODY = 65534
MEMORY = 2 << 30
"""Bytes of address space: Python and libbcc with LLVM need 700 MiB of it."""
PROCESSOR_SECONDS = 10
OUTPUT = 4 << 20
"""Bytes that the process can write to one file."""
OPEN_FILES = 512
"""Descriptors that it can have open: those that stand for maps among them."""

_X86, _ARM = "x86_64", "aarch64"
_AUDIT_ARCH = {_X86: 0xC000003E, _ARM: 0xC00000B7}
BPF = {_X86: 321, _ARM: 280}
_SECCOMP = {_X86: 317, _ARM: 277}
_COLUMN = {_X86: 0, _ARM: 1}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_ALL_ACCESS = (1 << 13) - 1
"""The file system accesses of Landlock's first version: all of them need a rule."""
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _ERRNO, _NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32 = 0x40000000
_NO_CAPABILITIES = (0x20080522, 0), bytes(24)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class SandboxError(Exception):
    """The process cannot be confined on this host, so it must not compile."""


def enter(readable: Sequence[Path]) -> None:
    """Confine this process for good: it may read below `readable`, compute, and write to its open files.

    Call it while the process has one thread, and `forbid_calls` in each thread afterwards. Raises SandboxError where
    neither another user nor Landlock is possible, or the kernel has no system call filters.
    """
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, PROCESSOR_SECONDS)):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT, OUTPUT))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    landlocked = _landlock(readable)
    changed = _change_user()
    if not changed and not landlocked:
        raise SandboxError("it runs as root, and can neither become another user nor use Landlock (Linux 5.13)")
    _drop_capabilities()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_calls() -> None:
    """Take from this thread all system calls but those that compiling needs."""
    _filter(_allowing(), 0)


def notify_bpf() -> int:
    """Make bpf(2) of this thread alone wait for an answer; return the descriptor on which requests arrive.

    Raises SandboxError where the kernel cannot do that (before Linux 5.0, or built without it).
    """
    return _filter(_program([(BPF[platform.machine()], _NOTIFY)]), _NEW_LISTENER)


def _change_user() -> bool:
    """Become the user nobody; False without the privilege, True also if this is no longer root."""
    if os.geteuid() != 0:
        return True
    with contextlib.suppress(PermissionError):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return True
    return False


def _drop_capabilities() -> None:
    header, none = _NO_CAPABILITIES
    if _libc.capset(struct.pack("=Ii", *header), none) != 0:
        raise SandboxError(f"its capabilities cannot be dropped: {os.strerror(ctypes.get_errno())}")


def _landlock(readable: Sequence[Path]) -> bool:
    """Leave nothing of the file system but reading below some folders; False where the kernel has no Landlock."""
    attributes = struct.pack("=Q", _ALL_ACCESS)
    rules = _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    try:
        for path in readable:
            _allow_reading(rules, path)
        return bool(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow_reading(rules: int, path: Path) -> None:
    """Add struct landlock_path_beneath_attr { u64 allowed_access; s32 parent_fd } (packed)."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", _READ_FILE | _READ_FOLDER, folder)
            if _libc.syscall(_LANDLOCK_ADD, rules, 1, rule, 0) != 0:
                raise SandboxError(f"Landlock takes no rule for {path}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(folder)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise SandboxError(f"prctl({option}): {os.strerror(ctypes.get_errno())}")


# System call filters


def _allowing() -> bytes:
    machine = platform.machine()
    if machine not in _COLUMN:
        raise SandboxError(f"the system calls of {machine} are not known")
    numbers = (one[_COLUMN[machine]] for one in ALLOWED.values())
    return _program([(number, _ALLOW) for number in numbers if number is not None], _ERRNO | errno.EPERM)


def _program(actions: Sequence[tuple[int, int]], others: int = _ALLOW) -> bytes:
    """Return a filter (struct sock_filter: code, jt, jf, k) with an action for some system calls, and one for others.

    Calls of other architectures and of x32 fail: they have other numbers.
    """
    machine = platform.machine()
    code = [_op(_LOAD, 4), _op(_EQUAL, _AUDIT_ARCH[machine], 1), _op(_RETURN, _ERRNO | errno.EPERM), _op(_LOAD, 0)]
    if machine == _X86:
        code += [_op(_AT_LEAST, _X32, 0, 1), _op(_RETURN, _ERRNO | errno.EPERM)]
    for number, action in actions:
        code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, action)]
    return b"".join([*code, _op(_RETURN, others)])


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)


def _filter(code: bytes, flags: int) -> int:
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HQ", len(code) // 8, ctypes.addressof(memory))  # struct sock_fprog, with padding
    result: int = _libc.syscall(_SECCOMP[platform.machine()], _SET_MODE_FILTER, flags, program)
    if result < 0:
        raise SandboxError(f"the kernel takes no system call filter: {os.strerror(ctypes.get_errno())}")
    return result
