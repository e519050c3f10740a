"""`python -m tests.kernels [ARGUMENT ...]`: run the tests of `inside` on Debian's kernel; arguments go to pytest."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from agent.datapath.bpf.compiler import CompileError
from tests.kernels import debian, initramfs, machine, programs

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
BUILD = PROJECT / "build" / "kernels"
PROGRAMS = BUILD / "programs"
LIMIT = 60 * 60
"""Seconds for everything inside: a sound run takes half of it on a machine that does other work, too."""


def main() -> int:
    """Return pytest's exit status, or 2 when there was no run, or 130 when it was interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return boot(sys.argv[1:] or [str(HERE / "inside")])
    except (debian.NotPossibleError, machine.MachineError, CompileError) as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kernels: interrupted", file=sys.stderr)
        return 130


def boot(arguments: list[str]) -> int:
    """Fetch what is missing, boot, and run pytest with these arguments inside."""
    debian.ensure_programs()
    kernel = debian.ensure_kernel(BUILD / "debian")
    if os.geteuid() == 0:  # else the emulated machine compiles them itself
        print("kernels: compiling the programs", flush=True)
        programs.ensure_programs(PROGRAMS, kernel.ticks_per_second)
    modules = initramfs.closure((*initramfs.ROOT, *initramfs.NETWORK), kernel.modules)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--junit-xml=/run/results/junit.xml",
        *arguments,
    ]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "TERM": os.environ.get("TERM", "dumb") if sys.stdout.isatty() else "dumb",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(PROJECT),
        "SECOND_KERNEL": kernel.release,
        "SECOND_KERNEL_PROGRAMS": str(PROGRAMS),
    }
    print(f"kernels: booting {kernel.release} under emulation", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as scratch:
        archive, results = Path(scratch, "initramfs"), Path(scratch, "results")
        results.mkdir()
        initramfs.write(archive, Path(shutil.which("busybox") or "busybox"), HERE / "init.sh", modules)
        script = machine.script(command, PROJECT, environment)
        try:
            status = machine.run(kernel.image, archive, results, script, limit=LIMIT)
        except machine.MachineError:
            _keep_console(results)
            raise
        finally:
            for name in ("junit.xml", "console.log"):
                if (results / name).exists():
                    shutil.copy(results / name, BUILD / name)
    print(f"kernels: {time.monotonic() - started:.0f} s in all; {BUILD}/junit.xml and console.log tell more")
    return status


def _keep_console(results: Path) -> None:
    """Keep what the kernel of a run without a result said: the next run writes over `console.log`."""
    if (results / "console.log").exists():
        shutil.copy(results / "console.log", BUILD / f"console-{time.strftime('%Y%m%d-%H%M%S')}.log")


if __name__ == "__main__":
    sys.exit(main())
