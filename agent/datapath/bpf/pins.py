"""Where one agent's maps and programs are pinned: the paths, the bpf file system under them, and their removal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.core.model.map_layout import LAYOUT_VERSION
from agent.datapath.bpf import syscall as bpf

LAST_UNMARKED_LAYOUT = 3
"""The last layout of the maps whose programs carried no marks."""
MOST_ATTEMPTS = 100
"""Attempts to create a folder whose parent is removed meanwhile."""

ForeignUsers = Callable[[Collection[int]], Mapping[int, str]]
"""Returns which of some maps, by id, programs of other owners use, with a description of such a program."""

_libc = ctypes.CDLL(None, use_errno=True)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of one instance in one bpf file system."""

    bpffs: Path
    instance: str

    @property
    def root(self) -> Path:
        """The folder of everything that this instance has pinned, of every layout."""
        return self.bpffs / "droplet" / self.instance

    @property
    def maps(self) -> Path:
        """The maps of the current layout."""
        return self.root / f"v{LAYOUT_VERSION}" / "maps"

    @property
    def programs(self) -> Path:
        """The programs of the current layout, one folder for each content hash."""
        return self.root / f"v{LAYOUT_VERSION}" / "programs"

    def others(self) -> list[Pins]:
        """Return the other instances that have pins in this file system."""
        folder = self.root.parent
        names = [one.name for one in folder.iterdir() if one.name != self.instance] if folder.exists() else []
        return [Pins(self.bpffs, name) for name in sorted(names)]

    @property
    def links(self) -> Path:
        """The links that keep programs on tracepoints attached while no agent runs, one for each tracepoint."""
        return self.root / f"v{LAYOUT_VERSION}" / "links"

    @property
    def functions(self) -> Path:
        """Users' functions of the current layout, one folder for each: `agent/datapath/functions/record.py`."""
        return self.root / f"v{LAYOUT_VERSION}" / "functions"

    def all_programs(self) -> list[Path]:
        """Return every pinned program of this instance, including older layouts."""
        return sorted(self.root.glob("v*/programs/*/*"))

    def marked_map_ids(self) -> set[int]:
        """Return the ids of the pinned maps of layouts whose programs carry marks."""
        marked = [
            path
            for path in self.root.glob("v*/maps/*")
            if (layout := path.parts[-3].removeprefix("v")).isdigit() and int(layout) > LAST_UNMARKED_LAYOUT
        ]
        return _pinned_ids(marked, _map_id)

    def forget_others(
        self, contents: Collection[str], maps: Collection[str], foreign_users: ForeignUsers
    ) -> dict[Path, str]:
        """Remove the pins of older agents of this instance: other layouts, and programs and maps that are not in use.

        `contents` and `maps` are those in use. Call it when no other program is attached. Return the pins that could
        not be removed, and why: they only use memory, and the next call tries again. A map that a program of another
        owner uses stays pinned: its owner may open it by the pin, and the pin shows that the program is not an old one
        of ours.
        """
        kept: dict[Path, str] = {}
        layouts = [one for one in self.root.glob("v*") if one != self.programs.parent]
        unused = [one for one in self.maps.iterdir() if one.name not in maps]
        old = unused + [path for layout in layouts for path in layout.glob("maps/*")]
        found = {path: number for path in old for number in _pinned_ids([path], _map_id)}
        users = foreign_users(found.values()) if found else {}
        used = {path: f"{users[number]} uses it" for path, number in found.items() if number in users}
        for path in set(unused).difference(used):
            path.unlink()
            log.info("old_pins_removed", path=str(path))
        for folder in [*layouts, *(one for one in self.programs.iterdir() if one.name not in contents)]:
            try:
                removed = _remove_all_but(folder, used)
            except OSError as error:
                kept[folder] = str(error)
            else:
                if removed:
                    log.info("old_pins_removed", path=str(folder))
        return kept | used

    def paths(self) -> frozenset[Path]:
        """Return everything that this instance has pinned, with the folders."""
        return frozenset((self.root, *self.root.rglob("*"))) if self.root.exists() else frozenset()

    def remove_all_but(self, kept: Collection[Path]) -> None:
        """Remove everything pinned since `paths` returned the pins to keep."""
        for path in sorted(self.paths().difference(kept), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        with contextlib.suppress(OSError):
            self.root.parent.rmdir()

    def remove(self) -> None:
        """Remove all pins of this instance; what is attached lives on until it is detached."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root)
        with contextlib.suppress(OSError):
            self.root.parent.rmdir()


def _remove_all_but(folder: Path, kept: Collection[Path]) -> bool:
    """Remove a folder, or what is in it except some pins and their folders; return whether anything was removed."""
    if not any(path.is_relative_to(folder) for path in kept):
        shutil.rmtree(folder)
        return True
    removed = [path for path in folder.rglob("*") if path not in kept and not path.is_dir()]
    for path in removed:
        path.unlink()
    for path in sorted((one for one in folder.rglob("*") if one.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # it still holds a pin
            path.rmdir()
    return bool(removed)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, also while another agent's uninstall removes a parent that was still empty."""
    for _ in range(MOST_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return path.mkdir(parents=True, exist_ok=True)
    return path.mkdir(parents=True, exist_ok=True)


def restore(wanted: Mapping[Path, int]) -> None:
    """Restore a pin that was removed: without it, a restarted agent would begin with empty maps."""
    for path, descriptor in wanted.items():
        if not path.exists():
            make_folder(path.parent)
            bpf.pin(descriptor, path)
            log.warning("pin_restored", path=str(path))


def pinned_program_ids(pins: Pins) -> set[int]:
    """Return the ids of all programs that this instance has pinned."""
    return _pinned_ids(pins.all_programs(), lambda descriptor: bpf.program_info(descriptor).id)


def _map_id(descriptor: int) -> int:
    return bpf.map_info(descriptor).id


def _pinned_ids(paths: Iterable[Path], read_id: Callable[[int], int]) -> set[int]:
    """Return the kernel's ids of pinned objects, without those whose pin is removed meanwhile."""
    found = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            descriptor = bpf.open_pin(path)
            try:
                found.add(read_id(descriptor))
            finally:
                os.close(descriptor)
    return found


def mounts() -> Iterator[tuple[Path, str]]:
    """Yield where file systems are mounted for this process, and their types, in the order of mounting."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split(" ")
        yield Path(point.encode().decode("unicode_escape")), kind


def is_bpffs(path: Path) -> bool:
    """Return whether a path is in a bpf file system, by the mount that it is under."""
    return _mount_of(path)[1] == "bpf"


def mount_point(path: Path) -> Path:
    """Return where the file system that a path is in is mounted."""
    return _mount_of(path)[0]


def _mount_of(path: Path) -> tuple[Path, str]:
    resolved = path.resolve()
    best, kind = Path("/"), ""
    for mounted, found in mounts():
        if resolved.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):
            best, kind = mounted, found
    return best, kind


def is_read_only(bpffs: Path) -> bool:
    """Return whether a bpf file system is mounted read-only: pins can be neither opened nor made there."""
    point = mount_point(bpffs)
    return bool(os.statvfs(point).f_flag & os.ST_RDONLY)


def ensure_bpffs(path: Path) -> bool:
    """Mount a bpf file system if there is none; return whether it was necessary. OSError (EPERM) if not permitted."""
    if is_bpffs(path):
        return False
    path.mkdir(parents=True, exist_ok=True)
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount a bpf file system: {os.strerror(number)}", str(path))
    return True
