"""Where one agent's maps and programs are pinned: the paths, the bpf file system under them, and their removal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from agent.core.layout import LAYOUT_VERSION

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of one instance in one bpf file system."""

    bpffs: Path
    instance: str

    @property
    def root(self) -> Path:
        """All that this instance has pinned, of every layout."""
        return self.bpffs / "droplet" / self.instance

    @property
    def maps(self) -> Path:
        """The maps of the current layout."""
        return self.root / f"v{LAYOUT_VERSION}" / "maps"

    @property
    def programs(self) -> Path:
        """The programs of the current layout, one folder for each content hash."""
        return self.root / f"v{LAYOUT_VERSION}" / "programs"

    def all_programs(self) -> list[Path]:
        """Return every pinned program of this instance, of older layouts too."""
        return sorted(self.root.glob("v*/programs/*/*"))

    def remove(self) -> None:
        """Remove all pins of this instance; what is attached lives on until it is detached."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root)
        with contextlib.suppress(OSError):
            self.root.parent.rmdir()


def is_bpffs(path: Path) -> bool:
    """Whether a path lies in a bpf file system, by the mount that it is under."""
    resolved = path.resolve()
    best, kind = Path("/"), ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, found, *_ = line.split(" ")
        mounted = Path(point.encode().decode("unicode_escape"))
        if resolved.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):
            best, kind = mounted, found
    return kind == "bpf"


def ensure_bpffs(path: Path) -> bool:
    """Mount a bpf file system where none is; return whether it had to. OSError (EPERM) when that is not allowed."""
    if is_bpffs(path):
        return False
    path.mkdir(parents=True, exist_ok=True)
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount a bpf file system: {os.strerror(number)}", str(path))
    return True
