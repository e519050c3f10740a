"""Chains of XDP programs by libxdp's dispatcher (Debian's `libxdp1`): what a user would pick in place of functions.

The dispatcher is a program with empty functions, which the kernel replaces by the programs of the chain (freplace). It
needs their types (BTF) for that, so clang compiles them. A chain exists only while it is attached to an interface; the
measurement runs the attached dispatcher. libxdp pins its links below /sys/fs/bpf/xdp, and `detach` removes them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import libxdp
from bench.wires import Host, WiresError, command
from controller_sim.lab.namespaces import call_in

FOLDER = Path(__file__).parent / "programs" / "dispatcher"
PACKAGES = ("clang", "libxdp1")
LIBBPF = "libbpf.so.1"
EXTENSION = 28
"""BPF_PROG_TYPE_EXT."""
SECTION = b"xdp"
NATIVE = 1
"""XDP_MODE_NATIVE of enum xdp_attach_mode."""
LAST = 100
"""The priority of the last program; others come first in the order of theirs."""
_HIGHEST_ERROR = 4095


class DispatcherError(Exception):
    """The dispatcher cannot be measured on this machine; the message says why."""


def ensure_possible(say: Callable[[str], None]) -> None:
    """Install clang and libxdp where they are missing; DispatcherError where the kernel or the machine refuses."""
    if not _replaces_functions():
        raise DispatcherError(
            "this machine's kernel loads no program that replaces another one's function (freplace, "
            "BPF_PROG_TYPE_EXT), of which the dispatcher's chains consist"
        )
    if shutil.which("clang") and libxdp.available() is not None:
        return
    if shutil.which("apt-get") is None:
        raise DispatcherError(f"{' and '.join(PACKAGES)} are not installed, and there is no apt-get to do so")
    say(f"installing {' '.join(PACKAGES)}")
    try:
        command("apt-get", "update", "-qq")
        command("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    except WiresError as error:
        raise DispatcherError(f"{' and '.join(PACKAGES)} cannot be installed: {error}") from None


def _replaces_functions() -> bool:
    """Ask libbpf whether the kernel has the program type; bcc depends on libbpf, so it is installed."""
    return bool(ctypes.CDLL(LIBBPF).libbpf_probe_bpf_prog_type(EXTENSION, None) == 1)


def compile_program(name: str, folder: Path, **definitions: int) -> Path:
    """Compile a program of `programs/dispatcher` with clang and return the object file; WiresError with its text."""
    given = [f"-D{key}={value}" for key, value in definitions.items()]
    path = folder / ("-".join((name, *map(str, definitions.values()))) + ".o")
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    command("clang", "-O2", "-g", "-target", "bpf", headers, *given, "-c", str(FOLDER / f"{name}.c"), "-o", str(path))
    return path


@dataclass(frozen=True, slots=True)
class Chain:
    """An attached dispatcher: `program` is its descriptor, and `detach` ends it."""

    program: int
    detach: Callable[[], None]


class Libxdp:
    """The calls of libxdp that a chain needs, which return pointers or negative numbers of errors."""

    def __init__(self) -> None:
        self._xdp = ctypes.CDLL(libxdp.LIBRARY)
        self._xdp.libxdp_set_print(None)  # libxdp tries some things that fail on purpose
        ctypes.CDLL(LIBBPF).libbpf_set_print(None)
        for name in ("xdp_program__open_file", "xdp_multiprog__get_from_ifindex", "xdp_multiprog__main_prog"):
            getattr(self._xdp, name).restype = ctypes.c_void_p
        self._xdp.xdp_multiprog__is_legacy.restype = ctypes.c_bool

    def attach(self, host: Host, ifname: str, paths: Sequence[Path]) -> Chain:
        """Attach object files in this order to an interface of a host."""
        return call_in(host.namespace, lambda: self._attach(host, ifname, paths))

    def _attach(self, host: Host, ifname: str, paths: Sequence[Path]) -> Chain:
        ifindex = host.ifindex[ifname]
        with ExitStack() as stack:
            opened = [self._opened(path, LAST - len(paths) + place, stack) for place, path in enumerate(paths, 1)]
            array = (ctypes.c_void_p * len(opened))(*opened)
            _checked(self._xdp.xdp_program__attach_multi(array, len(opened), ifindex, NATIVE, 0), "attach")
        chain = ctypes.c_void_p(_pointer(self._xdp.xdp_multiprog__get_from_ifindex(ifindex), "find"))

        def remove() -> None:
            call_in(host.namespace, lambda: self._xdp.xdp_multiprog__detach(chain))
            self._xdp.xdp_multiprog__close(chain)

        with ExitStack() as undo:
            undo.callback(remove)
            if self._xdp.xdp_multiprog__is_legacy(chain):
                raise DispatcherError("libxdp attaches a single program without its dispatcher here")
            main = ctypes.c_void_p(self._xdp.xdp_multiprog__main_prog(chain))
            program = os.dup(_checked(self._xdp.xdp_program__fd(main), "find"))
            undo.callback(os.close, program)
            return Chain(program, undo.pop_all().close)

    def _opened(self, path: Path, priority: int, stack: ExitStack) -> int:
        program = _pointer(self._xdp.xdp_program__open_file(os.fsencode(path), SECTION, None), "open")
        stack.callback(self._xdp.xdp_program__close, ctypes.c_void_p(program))
        _checked(self._xdp.xdp_program__set_run_prio(ctypes.c_void_p(program), priority), "set the priority of")
        return program


def _pointer(found: int | None, what: str) -> int:
    """Return a pointer; DispatcherError for NULL and for a number of an error in its place."""
    if found and found < (1 << 64) - _HIGHEST_ERROR:
        return found
    raise DispatcherError(f"libxdp cannot {what} a program: {os.strerror((1 << 64) - found if found else 0)}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise DispatcherError(f"libxdp cannot {what} a program: {os.strerror(-result)}")
    return result
