"""Finds the program of a function: compiles or reads it, checks it, and keeps it by its content.

What was read once is found by its content later, also when the file that it came from has changed meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.core.functions.programs import form_of, given_by, hash_of
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import refuse_foreign
from agent.datapath.functions.checks import check
from agent.datapath.functions.compile import compile_source, contract_hash
from agent.datapath.functions.elf import read_object
from agent.datapath.functions.map_limits import check_maps
from agent.datapath.functions.process_maps import PROCESS
from agent.datapath.functions.refusals import FunctionError, SourceError
from agent.datapath.functions.user_program import UserProgram
from protocol.documents import FunctionProgram

MOST_FILE = 1 << 20
"""Bytes of a file in the folder of functions."""
MOST_KEPT = 256
"""Programs that are kept: those used last."""


class FoundProgram(NamedTuple):
    """A checked program, and the hash of what it came from."""

    content: str
    program: UserProgram


class ProgramStore:
    """The programs of users' functions on one host; `folder` is where those given by name are, None for nowhere."""

    def __init__(self, cache: Path, folder: Path | None) -> None:
        self._cache = cache
        self._folder = folder

    async def find(self, program: FunctionProgram) -> FoundProgram:
        """Return a function's program as it is now.

        Raises FunctionError if it is refused, OSError if a file or the cache cannot be read.
        """
        form, given = form_of(program), given_by(program)
        if form == "file":
            form, given = await asyncio.to_thread(self._read_file, program.file)
        content = hash_of(form, given)
        return FoundProgram(content, await self._checked(form, given, content))

    async def find_content(self, program: FunctionProgram, content: str) -> UserProgram:
        """Return a function's program with this content, also if its file has another one now; otherwise as `find`."""
        if content and (kept := self._kept(content)):
            return kept
        found = await self.find(program)
        if found.content != content:
            raise OSError(errno.ESTALE, "the file has changed, and the program that it held is not kept", program.file)
        return found.program

    def kept(self, content: str) -> UserProgram | None:
        """Return the program with this content if it is kept. Compiles nothing; raises as `find`."""
        return self._kept(content)

    async def _checked(self, form: str, given: bytes, content: str) -> UserProgram:
        if kept := self._kept(content):
            return kept
        if form == "process":
            return PROCESS
        if form == "source":
            program = await compile_source(_text(given), self._cache)
        else:
            program = await asyncio.to_thread(read_object, given)
        await asyncio.to_thread(check, program)
        check_maps(program.maps, bpf.possible_cpus())
        await asyncio.to_thread(self._keep, content, program)
        return program

    def _read_file(self, name: str) -> tuple[str, bytes]:
        """Return the form and the bytes of a file in the folder, which nobody but root may be able to write."""
        if self._folder is None:
            raise OSError(errno.ENOENT, "this host has no folder of functions (functions.folder in the settings)", name)
        form = {".c": "source", ".o": "object"}.get(Path(name).suffix)
        if form is None or "/" in name or name.startswith("."):
            raise FunctionError(f"{name!r} is no name of a file in the folder of functions: NAME.c or NAME.o")
        path = self._folder / name
        refuse_writable(self._folder, self._folder.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            refuse_writable(path, found)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_FILE:
                raise FunctionError(f"{name} is no regular file of at most {MOST_FILE >> 10} KiB")
            return form, file.read()

    def _path(self, content: str) -> Path:
        return self._cache / "functions" / f"{content}-{contract_hash()}.program"

    def _kept(self, content: str) -> UserProgram | None:
        path = self._path(content)
        try:
            refuse_foreign(path, path.stat())
            found = msgspec.msgpack.decode(path.read_bytes(), type=UserProgram)
            os.utime(path)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        check(found)
        return found

    def _keep(self, content: str, program: UserProgram) -> None:
        path = self._path(content)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_foreign(path.parent, path.parent.stat())
        scratch = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        scratch.touch(mode=0o600)
        scratch.write_bytes(msgspec.msgpack.encode(program))
        scratch.replace(path)
        kept = sorted(path.parent.glob("*.program"), key=_used)
        for old in kept[:-MOST_KEPT]:
            old.unlink(missing_ok=True)


def refuse_writable(path: Path, found: os.stat_result) -> None:
    """Raise OSError (EPERM) if users other than root and this one own `path` or may write to it."""
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(
            errno.EPERM,
            "others may change what runs in the kernel: let root own it, and forbid others to write (chmod go-w)",
            str(path),
        )


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another agent tidies up, too
        return 0.0


def _text(source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"the source is no UTF-8 text (byte {error.start}): encode it so") from error
