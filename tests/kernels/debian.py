"""Debian's packaged kernel: fetched by apt, unpacked into a folder of its own, never installed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
"""Depends on the newest kernel of the release that this machine runs: 6.1 on Debian 12."""
_WANTED = re.compile(
    r"/boot/(?:vmlinuz|config)-[^/]*$"
    r"|/kernel/(?:arch|crypto|fs|lib|net|drivers/virtio)/.*\.ko$"
    r"|/kernel/drivers/net/(?:bonding/|vxlan/)?[^/]*\.ko$"
)
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}
"""Programs that are needed, each with the package that brings it."""


class NotPossibleError(Exception):
    """The second kernel cannot be had on this machine; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class DebianKernel:
    """An unpacked kernel: its release as uname(1) names it, its image, its modules' files by name, its CONFIG_HZ."""

    release: str
    image: Path
    modules: dict[str, Path]
    ticks_per_second: int


def ensure_programs() -> None:
    """Install the packages of missing programs; NotPossibleError where that needs root, or another architecture."""
    if platform.machine() != "x86_64":
        raise NotPossibleError(f"the emulated machine runs this one's programs, and {platform.machine()} is not x86_64")
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0:
        raise NotPossibleError(f"root is needed to install {' '.join(missing)}: install them, or run as root")
    print(f"kernels: installing {' '.join(missing)}", flush=True)
    _apt("update", "-qq")
    _apt("install", "-y", "-qq", "--no-install-recommends", *missing)


def ensure_kernel(folder: Path) -> DebianKernel:
    """Return the kernel in `folder`; when there is none yet, fetch the newest of this machine's release.

    Raises NotPossibleError when apt knows or gets none.
    """
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _unpack(_fetch(Path(scratch)), folder)
        (folder / "complete").touch()
    (image,), (config,) = folder.glob("vmlinuz-*"), folder.glob("config-*")
    modules = {path.stem: path for path in folder.glob("*.ko")}
    ticks = re.search(r"^CONFIG_HZ=(\d+)$", config.read_text(), re.MULTILINE)
    if ticks is None:
        raise NotPossibleError(f"{config.name} names no timer frequency")
    return DebianKernel(image.name.removeprefix("vmlinuz-"), image, modules, int(ticks[1]))


def _fetch(scratch: Path) -> Path:
    """Download the package into a folder and return its path."""
    package = _newest_package()
    if package is None:
        _apt("update", "-qq")
        package = _newest_package()
    if package is None:
        raise NotPossibleError(f"apt knows no {META_PACKAGE}: this needs a Debian with its package sources")
    print(f"kernels: fetching {package}", flush=True)
    _apt("download", "-qq", "-o", "APT::Sandbox::User=root", package, folder=scratch)
    (archive,) = scratch.glob("*.deb")
    return archive


def _newest_package() -> str | None:
    """Return what the newest meta package depends on, or None when apt's lists have no such package."""
    command = ["apt-cache", "show", "--no-all-versions", META_PACKAGE]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"^Depends:.*?\b(linux-image-[0-9][^\s,]*)", shown, re.MULTILINE)
    return found[1] if found else None


def _apt(*arguments: str, folder: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPossibleError(f"{' '.join(command)}: {done.stderr.strip()}")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the image and the modules that tests may ask for: a tenth of the package."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as package:
            for member in package:
                content = package.extractfile(member) if _WANTED.search(member.name) else None
                if content is not None:
                    with (folder / Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(content, file)
    if process.returncode != 0:
        raise NotPossibleError(f"{archive.name} could not be unpacked: dpkg-deb ended with {process.returncode}")
