"""The emulated machine: one run of qemu, without acceleration, that ends in any case."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

MEMORY = "3G"
PROCESSORS = "2"
COMMAND_LINE = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off"


class MachineError(Exception):
    """The emulated machine ended without a result; the message holds the end of what its kernel said."""


def run(image: Path, initramfs: Path, results: Path, script: str, *, limit: float) -> int:
    """Boot, run a shell script inside with this machine's files, and return its exit status; its output goes to ours.

    `results` is shared writable as /run/results and gets `console.log`, what the kernel said. `limit` is in seconds.
    Raises MachineError when the time is over, or the machine stopped before the script ended.
    """
    status, console = results / "status", results / "console.log"
    status.unlink(missing_ok=True)
    (results / "run").write_text(script)
    command = _command(image, initramfs, results, console)
    # Whoever kills us takes the emulator along.
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], stdin=subprocess.DEVNULL)
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        raise MachineError(f"no end after {limit:.0f} s; its kernel's last words:\n{_tail(console)}") from None
    finally:
        process.kill()
        process.wait()
    try:
        return int(status.read_text())
    except (FileNotFoundError, ValueError):
        raise MachineError(f"it stopped without a result; its kernel's last words:\n{_tail(console)}") from None


def script(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Return a shell script that runs a command in a folder with nothing but this environment."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    return f"cd {shlex.quote(str(folder))} && exec {shlex.join(['env', '-i', *settings, *command])}\n"


def _command(image: Path, initramfs: Path, results: Path, console: Path) -> list[str]:
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu is not None
    shares = {"outer": ("/", ",readonly=on"), "results": (str(results), "")}
    virtfs = [
        part
        for tag, (path, more) in shares.items()
        for part in ("-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}")
    ]
    return [
        *(qemu, "-nodefaults", "-no-reboot", "-display", "none"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", PROCESSORS, "-m", MEMORY),
        *("-kernel", str(image), "-initrd", str(initramfs), "-append", COMMAND_LINE),
        *("-device", "virtio-rng-pci", *virtfs),
        *("-serial", f"file:{console}", "-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"),
    ]


def _tail(log: Path, lines: int = 30) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])
