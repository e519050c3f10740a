"""The emulated machine: one run of qemu, without acceleration, that ends in any case."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

MEMORY = "3G"
PROCESSORS = "2"
COMMAND_LINE = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off cryptomgr.notests"


BOOT_LIMIT = 300.0
"""Seconds until the outer machine's files are mounted: ten on a quiet machine, over two minutes on a loaded one.

Emulation now and then hangs before.
"""
BOOTS = 2


class MachineError(Exception):
    """The emulated machine ended without a result; the message holds the end of what its kernel said."""


def run(image: Path, initramfs: Path, results: Path, script: str, *, limit: float) -> int:
    """Boot, run a shell script inside with this machine's files, and return its exit status; its output goes to ours.

    `results` is shared writable as /run/results and gets `console.log`, what the kernel said. `limit` is in seconds.
    Raises MachineError when it does not boot, the time is over, or the machine stopped before the script ended.
    """
    (results / "run").write_text(script)
    for _ in range(BOOTS):
        (results / "booted").unlink(missing_ok=True)  # one that was slow may have come to it
        with _started(image, initramfs, results) as process:
            if _has_booted(process, results):
                return _status(process, results, limit)
        print(f"kernels: no boot within {BOOT_LIMIT:.0f} s", flush=True)
    raise MachineError(f"it does not boot; its kernel's last words:\n{_console(results)}")


@contextlib.contextmanager
def _started(image: Path, initramfs: Path, results: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have the emulator run during a block; it ends with this process, also if that is killed."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", *_command(image, initramfs, results)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _has_booted(process: subprocess.Popen[bytes], results: Path) -> bool:
    deadline = time.monotonic() + BOOT_LIMIT
    while not (results / "booted").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _status(process: subprocess.Popen[bytes], results: Path, limit: float) -> int:
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        raise MachineError(f"no end after {limit:.0f} s; its kernel's last words:\n{_console(results)}") from None
    try:
        return int((results / "status").read_text())
    except (FileNotFoundError, ValueError):
        raise MachineError(f"it stopped without a result; its kernel's last words:\n{_console(results)}") from None


def script(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Return a shell script that runs a command in a folder with nothing but this environment."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    return f"cd {shlex.quote(str(folder))} && exec {shlex.join(['env', '-i', *settings, *command])}\n"


def _command(image: Path, initramfs: Path, results: Path) -> list[str]:
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
        *(
            "-serial",
            f"file:{results / 'console.log'}",
            "-chardev",
            "stdio,id=output,signal=off",
            "-serial",
            "chardev:output",
        ),
    ]


def _console(results: Path, lines: int = 30) -> str:
    log = results / "console.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])
