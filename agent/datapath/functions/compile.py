"""Compiles a user's C source into a UserProgram, in a confined child process, and caches the result by its content.

Nothing of the kernel changes. `source_compiler` is the child; `source_rules` has what a source may not contain.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from functools import cache as cached
from pathlib import Path

import msgspec

from agent.datapath.bpf.compiler import SOURCES, content_hash, refuse_foreign
from agent.datapath.functions.refusals import SourceError
from agent.datapath.functions.sandbox import MEMORY, PROCESSOR_SECONDS
from agent.datapath.functions.source_compiler import HOST_CANNOT
from agent.datapath.functions.source_rules import check_source
from agent.datapath.functions.user_program import ENTRY, UserProgram

SECONDS = 30.0
"""The time that compiling one source may take."""
MOST_CACHED = 64
"""Results that stay in the cache: those used last."""
SHORT = 400
"""Characters of an error's summary, which the acknowledgement carries."""
_FORMAT = 1
_MESSAGE = re.compile(r"^(?:.*/)?function\.c:(\d+):\d+: (?:fatal )?error: (.*)$", re.MULTILINE)
_ELSEWHERE = re.compile(r"^(?:([^\n:]+):\d+:\d+: )?(?:fatal )?error: (.*)$", re.MULTILINE)


async def compile_source(source: str, cache: Path) -> UserProgram:
    """Return the compiled program, from `cache` (a folder) if this source was compiled before.

    Raises SourceError with a short message and clang's whole output, OSError if this host cannot compile sources
    (EOPNOTSUPP), or if the cache is not writable or another user could write to it (EPERM).
    """
    await asyncio.to_thread(check_source, source)
    path = cache / "functions" / f"{_digest(source)}.function"
    await asyncio.to_thread(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
    refuse_foreign(path.parent, path.parent.stat())
    if found := _read(path):
        return found
    program = await _compile(source)
    await asyncio.to_thread(_write, path, program)
    return program


def _digest(source: str) -> str:
    """Return the hex digest of a source with everything else that its compilation depends on."""
    parts = [str(_FORMAT), content_hash(), contract_hash(), source]
    digest = hashlib.blake2s(digest_size=16)
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


@cached
def contract_hash() -> str:
    """Return the hex digest of `bpf/stage.h`, which sources are compiled with."""
    return hashlib.blake2s((SOURCES / "stage.h").read_bytes(), digest_size=8).hexdigest()


def _read(path: Path) -> UserProgram | None:
    """Return a cached program, None if there is none or it is damaged."""
    try:
        refuse_foreign(path, path.stat())
        found = msgspec.msgpack.decode(path.read_bytes(), type=UserProgram)
        os.utime(path)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found


def _write(path: Path, program: UserProgram) -> None:
    """Add a program to the cache, and remove those that were not used for longest."""
    scratch = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    scratch.touch(mode=0o600)
    scratch.write_bytes(msgspec.msgpack.encode(program))
    scratch.replace(path)
    with contextlib.suppress(FileNotFoundError):  # another agent tidies up, too
        for old in sorted(path.parent.glob("*.function"), key=lambda one: one.stat().st_mtime)[:-MOST_CACHED]:
            old.unlink(missing_ok=True)


async def _compile(source: str) -> UserProgram:
    with _files() as (given, output, errors):
        os.pwrite(given, source.encode(), 0)
        status = await _run_child(given, output, errors)
        log = _contents(errors).decode(errors="replace").strip()
        if status == HOST_CANNOT:
            raise OSError(errno.EOPNOTSUPP, log)
        if status != 0:
            raise SourceError(_summary(status, log), log)
        try:
            return msgspec.msgpack.decode(_contents(output), type=UserProgram)
        except msgspec.DecodeError as error:
            raise SourceError(f"the compiler's result cannot be read: {error}", log) from error


@contextlib.contextmanager
def _files() -> Iterator[tuple[int, int, int]]:
    """Open files in memory for the child's input, output and errors: their size is limited, unlike that of a pipe."""
    opened = [os.memfd_create(f"function-{name}", os.MFD_CLOEXEC) for name in ("source", "program", "errors")]
    try:
        yield opened[0], opened[1], opened[2]
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _contents(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


async def _run_child(given: int, output: int, errors: int) -> int:
    """Run the compiler, and return its exit status; it gets nothing of the agent's environment."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.datapath.functions.source_compiler"),
        stdin=given,
        stdout=output,
        stderr=errors,
        env={
            "BCC_KERNEL_SOURCE": ".",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        cwd="/",
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(SECONDS):
            return await child.wait()
    except TimeoutError:
        return -signal.SIGXCPU
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


def _summary(status: int, log: str) -> str:
    """Return the first error with the user's line number and how many more there are, or how the compiler ended."""
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"compiling takes too long (limit {PROCESSOR_SECONDS} s of processor time): simplify the source"
    if found := _MESSAGE.findall(log):
        line, text = found[0]
        more = f" (and {len(found) - 1} more errors)" if len(found) > 1 else ""
        return _short(f"line {line}: {text}{more}")
    if elsewhere := _ELSEWHERE.search(log):
        return _short(f"{Path(elsewhere[1] or ENTRY).name}: {elsewhere[2]}")
    if status < 0:
        ended = signal.Signals(-status).name
        return f"compiling needs too much memory (limit {MEMORY >> 20} MiB), the compiler ended by {ended}: simplify it"
    return _short(log.splitlines()[-1] if log else f"the compiler ended with {status}")


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
