"""Compiles the programs of `bpf/` with bcc in a child process, and caches the result by the hash of its content.

Owns the text that is compiled, the cache folder and the form of a compiled object; loads nothing for use. `python -m
agent.datapath.bpf.compiler OUTPUT SOURCES FEATURES HOOK` is the child, the only process that imports bcc: a compiler's
120 MB are not given back, so the agent itself never loads it. No kernel headers are needed: `bpf/shim` stands in for
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import platform
import re
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from agent.core.model.features import Features
from agent.core.model.hooks import PROCESSES, PROGRAMS, RESUMES, SHELLS, Hook
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.syscall import PSEUDO_MAP_FD
from agent.datapath.bpf.ticks import ticks_per_second

SOURCES = Path(__file__).resolve().parents[3] / "bpf"
EVERYTHING = Features()
"""The default features: all but VLAN tags."""

TRACERS = {"on_redirect_error": "xdp_redirect_err", "on_exception": "xdp_exception", "on_transmit": "xdp_devmap_xmit"}
"""Programs of `entry/lost_frames.h` by the name of their function, and the raw tracepoint that each is for."""

PENDING, SOCKETS = "function_pending", "function_sockets"
"""The maps in the programs of functions in processes that stand for those of each function."""

LOCK_SECONDS = 0.05
"""Seconds between checks whether another agent has compiled the object."""

_FORMAT = 7
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"\s*$')
_LD_IMM64 = 0x18
_NAMES: Mapping[Hook, Mapping[str, str]] = {
    Hook.XDP: {},
    Hook.TC: {"programs": MapName.TC_PROGRAMS.value, "stage_programs": MapName.TC_STAGE_PROGRAMS.value},
}
"""Names of maps that differ from those in `bpf/maps.h`: a jump table holds programs of one type."""


class CompileError(Exception):
    """The compiler rejected the programs, or could not be run; the message holds its output."""


class MapDefinition(msgspec.Struct, frozen=True):
    """A map as `bpf/maps.h` declares it: kernel type, sizes in bytes, creation flags.

    `max_entries` is real for arrays of a fixed size (`outcomes`, `programs`, `local_droplets`, `icmp_ratelimit`); the
    settings have the sizes of the others.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class Relocation(msgspec.Struct, frozen=True):
    """Instruction number `index` loads the address of map `map`."""

    index: int
    map: str


class CompiledProgram(msgspec.Struct, frozen=True):
    """Instructions of 8 bytes each, with zeros where descriptors of maps go."""

    name: str
    instructions: bytes
    relocations: tuple[Relocation, ...]


class CompiledObject(msgspec.Struct, frozen=True):
    """All programs and maps of one hook; `hash` is the hex digest of everything that went into them.

    `tracers` of XDP are for raw tracepoints, and a host that cannot load them works without. `shells` are loaded with a
    user's function in each, `processes` for each function in a process: `functions/linker.py`; none if functions are
    off.
    """

    hash: str
    programs: tuple[CompiledProgram, ...]
    maps: tuple[MapDefinition, ...]
    tracers: tuple[CompiledProgram, ...] = ()
    shells: tuple[CompiledProgram, ...] = ()
    processes: tuple[CompiledProgram, ...] = ()

    def program(self, name: str) -> CompiledProgram:
        """Return a program by its name, or raise KeyError."""
        return next(program for program in self.programs if program.name == name)

    def process(self, name: str) -> CompiledProgram:
        """Return a program of functions in processes by its name, or raise KeyError."""
        return next(program for program in self.processes if program.name == name)


def amalgamate(sources: Path = SOURCES, hook: Hook = Hook.XDP) -> str:
    """Return one text of a hook's programs with each quoted include in its place, once.

    bcc rewrites `map.lookup()` in the main text alone, never in a header. `#line` keeps clang's messages true.
    """
    return _inline(sources, f"{hook}.c", set())


def _inline(sources: Path, name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    out = [f'#line 1 "bpf/{name}"']
    for number, line in enumerate((sources / name).read_text(encoding="utf-8").splitlines(), 1):
        if include := _INCLUDE.match(line):
            out += [_inline(sources, include[1], seen), f'#line {number + 1} "bpf/{name}"']
        else:
            out.append(line)
    return "\n".join(out)


def flags(sources: Path = SOURCES, features: Features = EVERYTHING) -> list[str]:
    """Return clang's flags: libc's copies of the kernel's UAPI headers, this kernel's timer frequency, the features."""
    machine = platform.machine()
    folders = ("/usr/include", f"/usr/include/{machine}-linux-gnu")
    include = [part for folder in folders for part in ("-isystem", folder)]
    given = [f"-I{sources / 'shim' / 'include'}", f"-DTICKS_PER_SECOND={ticks_per_second()}"]
    return [*include, *given, *features.flags(), "-Wno-macro-redefined", "-Wno-unused-value"]


@cache
def _compiler_version() -> str:
    """Return a text that changes with the distribution's bcc or the LLVM inside it, without importing bcc."""
    folders = [Path("/usr/lib") / f"{platform.machine()}-linux-gnu", Path("/usr/lib64"), Path("/usr/lib")]
    libraries = sorted(path for folder in folders for path in folder.glob("libbcc.so.0.*"))
    stats = [(str(path), path.stat().st_size, int(path.stat().st_mtime)) for path in libraries[:1]]
    return repr(stats)


def content_hash(sources: Path = SOURCES, features: Features = EVERYTHING, hook: Hook = Hook.XDP) -> str:
    """Return the hex digest of source text, flags with the features, shim, architecture and compiler."""
    digest = hashlib.blake2s(digest_size=16)
    shim = sorted((sources / "shim").rglob("*.h"))
    parts = [str(_FORMAT), platform.machine(), _compiler_version(), amalgamate(sources, hook)]
    parts += [flag for flag in flags(sources, features) if not flag.startswith("-I")]
    parts += [path.read_text(encoding="utf-8") for path in shim]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


async def compile_programs(
    folder: Path, sources: Path = SOURCES, features: Features = EVERYTHING, hook: Hook = Hook.XDP
) -> CompiledObject:
    """Return the compiled programs, from `folder` when this text was compiled before; else compile them in a child.

    Each hook and set of features has an object of its own in the folder.
    Raises CompileError with clang's output; OSError if the folder is not writable, or if another user could have
    written to it (EPERM): instructions from there run in the kernel.
    """
    wanted = content_hash(sources, features, hook)
    path = folder / f"{wanted}.object"
    await asyncio.to_thread(_own, folder)
    if found := _read(path, wanted):
        return found
    async with _alone(path.with_suffix(".lock")):
        return _read(path, wanted) or await _compile(path, wanted, sources, features, hook)


async def _compile(path: Path, wanted: str, sources: Path, features: Features, hook: Hook) -> CompiledObject:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compile-") as scratch:
        output = Path(scratch) / path.name
        await _run_child(output, sources, features, hook)
        output.chmod(0o600)
        compiled = _read(output, wanted)
        if compiled is None:
            raise CompileError("the sources changed while they were compiled")
        output.replace(path)  # whole or not at all, even for an agent that reads at the same moment
    return compiled


@contextlib.asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """Make agents that start together compile an object once: all but the first use its result.

    `path` is a file for that, which goes at the end. One that opens it anew then finds the result.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _lock(descriptor):  # noqa: ASYNC110 -- another process has it
            await asyncio.sleep(LOCK_SECONDS)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 -- one system call, not pathlib's in an async function
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file, also against other processes, until it is closed; False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_foreign(folder, folder.stat())


def refuse_foreign(path: Path, found: os.stat_result) -> None:
    """Raise OSError (EPERM) if users other than root and this one own `path` or may write to it."""
    if found.st_uid not in (0, os.geteuid()):
        raise OSError(
            errno.EPERM, f"the compiler's cache belongs to user {found.st_uid}: chown or remove it", str(path)
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(errno.EPERM, "others may write the compiler's cache: chmod go-w or remove it", str(path))


def _read(path: Path, wanted: str) -> CompiledObject | None:
    """Return a cached object, None if there is none or it is damaged; OSError (EPERM) as `refuse_foreign`."""
    try:
        with path.open("rb") as file:
            refuse_foreign(path, os.fstat(file.fileno()))
            found = msgspec.msgpack.decode(file.read(), type=CompiledObject)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if found.hash == wanted else None


async def _run_child(output: Path, sources: Path, features: Features, hook: Hook) -> None:
    environment = {
        **os.environ,
        "BCC_KERNEL_SOURCE": str(sources / "shim"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.datapath.bpf.compiler", str(output), str(sources)),
        *(msgspec.json.encode(features).decode(), hook),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    try:
        text, _ = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode:
        raise CompileError(text.decode(errors="replace").strip() or f"compiler ended with {child.returncode}")


# The functions below run in the child.


def compile_here(sources: Path, features: Features, hook: Hook = Hook.XDP) -> CompiledObject:
    """Compile in this process. bcc creates real maps for the programs' references; they disappear with the process."""
    from bcc import BPF, lib

    text = amalgamate(sources, hook)
    module = BPF(text=text.encode(), cflags=flags(sources, features))
    maps, by_fd = _maps(lib, module.module, _NAMES[hook])
    names = (*PROGRAMS[hook], *(RESUMES[hook] if features.functions else ()))
    programs, tracers, shells, processes = (
        tuple(program_of(name, module.dump_func(name.encode()), by_fd) for name in part)
        for part in (
            names,
            TRACERS if hook is Hook.XDP else (),
            SHELLS[hook] if features.functions else (),
            PROCESSES[hook] if features.functions else (),
        )
    )
    shared = tuple(one for one in maps if one.name not in (PENDING, SOCKETS))
    return CompiledObject(content_hash(sources, features, hook), programs, shared, tracers, shells, processes)


def _maps(lib: Any, handle: int, names: Mapping[str, str]) -> tuple[tuple[MapDefinition, ...], dict[int, str]]:
    # bcc's Python declares only some of libbcc's functions, and ctypes would cut pointers to 32 bits.
    lib.bpf_num_tables.restype, lib.bpf_table_name.restype = ctypes.c_size_t, ctypes.c_char_p
    lib.bpf_table_key_size_id.restype = lib.bpf_table_leaf_size_id.restype = ctypes.c_size_t
    module, definitions, by_fd = ctypes.c_void_p(handle), [], {}
    for number in range(lib.bpf_num_tables(module)):
        index = ctypes.c_size_t(number)
        text = lib.bpf_table_name(module, index).decode()
        text = names.get(text, text)
        definitions.append(
            MapDefinition(
                text,
                lib.bpf_table_type_id(module, index),
                lib.bpf_table_key_size_id(module, index),
                lib.bpf_table_leaf_size_id(module, index),
                lib.bpf_table_max_entries_id(module, index),
                lib.bpf_table_flags_id(module, index),
            )
        )
        by_fd[lib.bpf_table_fd_id(module, index)] = text
    return tuple(definitions), by_fd


def program_of(name: str, code: bytes, by_fd: Mapping[int, str]) -> CompiledProgram:
    """Return a program without the compiler's descriptors in its instructions.

    struct bpf_insn { u8 code; u8 registers; s16 offset; s32 imm }.
    """
    cleaned, relocations = bytearray(code), []
    for at in range(0, len(code), 8):
        if code[at] == _LD_IMM64 and code[at + 1] >> 4 == PSEUDO_MAP_FD:
            fd = int.from_bytes(code[at + 4 : at + 8], sys.byteorder)
            relocations.append(Relocation(at // 8, by_fd[fd]))
            cleaned[at + 4 : at + 8] = bytes(4)
    return CompiledProgram(name, bytes(cleaned), tuple(relocations))


def main() -> int:
    """Compile into the file named first; clang writes its errors to standard error."""
    output, sources = Path(sys.argv[1]), Path(sys.argv[2])
    features, hook = msgspec.json.decode(sys.argv[3], type=Features), Hook(sys.argv[4])
    try:
        compiled = compile_here(sources, features, hook)
    except ImportError as error:
        sys.stderr.write(f"bcc is missing (Debian package python3-bpfcc): {error}\n")
        return 1
    except Exception as error:  # bcc raises no narrower exception
        sys.stderr.write(f"{error}\n")
        return 1
    output.write_bytes(msgspec.msgpack.encode(compiled))
    return 0


if __name__ == "__main__":
    sys.exit(main())
