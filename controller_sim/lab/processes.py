"""The lab's processes: started in a namespace, known by pid and start time, ended by that and never by name.

A pid alone may have been given to another process since; pid and start time together are one process for ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from controller_sim.lab.namespaces import entered


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` is in clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    started: int


def start(namespace: str, argv: list[str], log: Path) -> Process:
    """Start a command in a namespace as a session of its own, with both outputs appended to a log.

    It gets the environment without `DROPLET_...`: a lab's agents follow their own settings alone.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            entered(namespace, argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("DROPLET_")},
        )
    child.returncode = 0  # the child outlives this command, which never waits for it
    stat = _stat(child.pid)
    return Process(child.pid, stat[1] if stat else 0)


def _stat(pid: int) -> tuple[str, int] | None:
    """Return (state letter, start time) of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def is_alive(process: Process) -> bool:
    """Say whether this very process still runs (a zombie does not)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    stat = _stat(process.pid)
    return stat is not None and stat[0] not in "ZX" and stat[1] == process.started


def stop(process: Process, number: int = signal.SIGTERM, timeout: float = 10.0) -> bool:
    """Send a signal and wait for the end; SIGKILL after `timeout` seconds. Return whether the first signal did it."""
    if not is_alive(process):
        return True
    descriptor = os.pidfd_open(process.pid)
    try:
        signal.pidfd_send_signal(descriptor, number)
        if _ended(descriptor, timeout):
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _ended(descriptor, timeout)
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def _ended(descriptor: int, timeout: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, empty when there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
