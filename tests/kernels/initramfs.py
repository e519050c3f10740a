"""The first files of the emulated machine: busybox, the modules that are to be loaded, and `init`."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = ("virtio_pci", "9p", "9pnet_virtio", "overlay")
"""Modules without which `init` cannot mount the machine's own files."""
NETWORK = ("veth", "geneve", "vxlan", "8021q", "bonding", "bridge", "vrf", "dummy", "sch_ingress", "cls_bpf")
"""What the tests are about."""


def closure(wanted: Iterable[str], modules: Mapping[str, Path]) -> list[Path]:
    """Return modules' files in the order in which they load: each behind those that it depends on.

    Names as in `.modinfo` may have `_` where the file has `-`. KeyError names a module that is not there.
    """
    by_name = {name.replace("-", "_"): path for name, path in modules.items()}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = by_name[name.replace("-", "_")]
        if path not in ordered:
            for needed in _depends(path):
                add(needed)
            ordered.append(path)

    for name in wanted:
        add(name)
    return ordered


def _depends(module: Path) -> list[str]:
    """Return the names behind `depends=` in a module's `.modinfo` section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in found[1].decode().split(",") if name] if found else []


def write(target: Path, busybox: Path, init: Path, modules: list[Path]) -> None:
    """Write an archive that the kernel unpacks as its first root."""
    names = [f"{number:02}-{path.name}" for number, path in enumerate(modules)]
    with target.open("wb") as out:
        for chunk in _archive(busybox, init, dict(zip(names, modules, strict=True))):
            out.write(chunk)


def _archive(busybox: Path, init: Path, modules: Mapping[str, Path]) -> Iterator[bytes]:
    for folder in ("bin", "modules", "dev", "proc", "lower", "upper", "root", "results"):
        yield _entry(folder, stat.S_IFDIR | 0o755, b"")
    yield _entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    yield _entry("init", stat.S_IFREG | 0o755, init.read_bytes())
    for name, path in modules.items():
        yield _entry(f"modules/{name}", stat.S_IFREG | 0o644, path.read_bytes())
    yield _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """Return one file in cpio's "newc" form (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
