"""Finds a process that has a BPF program open, from the kernel's information about its file descriptors.

Looks at `prog_id` in /proc/PID/fdinfo (kernel/bpf/syscall.c: bpf_prog_show_fdinfo, bpf_link_show_fdinfo). Processes of
other PID namespaces than this one's and its children's are not seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from agent.core.uplinks.program_owners import Holder

_BPF = ("anon_inode:bpf-prog", "anon_inode:bpf_link")


def holder_of(program_id: int, proc: Path = Path("/proc")) -> Holder | None:
    """Return the process with the lowest id, except this one, that has a program or a link to it open."""
    wanted = f"prog_id:\t{program_id}"
    for pid in sorted(int(one.name) for one in proc.iterdir() if one.name.isdigit()):
        if pid != os.getpid() and any(wanted in info.splitlines() for info in _bpf_files(proc / str(pid))):
            return Holder(pid, _name(proc / str(pid)))
    return None


def _bpf_files(process: Path) -> Iterator[str]:
    """Yield the fdinfo of each program and link that a process has open; none if it has ended."""
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()).startswith(_BPF):
                    yield (process / "fdinfo" / descriptor.name).read_text()


def _name(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text().strip()
    return "?"
