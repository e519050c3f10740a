"""The state of the machine during a run: what the numbers ran on, and what may have disturbed them. Reads only."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from controller_sim.lab.nats_server import server_program


def _read(path: str, default: str = "not shown by this kernel") -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return default


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_mib() -> int:
    words = _read("/proc/meminfo").split()
    return int(words[words.index("MemTotal:") + 1]) // 1024


def ticks() -> tuple[int, int]:
    """Return the clock ticks of all processors since boot: stolen by the hypervisor, and all together."""
    numbers = [int(word) for word in _read("/proc/stat").splitlines()[0].split()[1:]]
    return numbers[7], sum(numbers[:8])


def steal_percent(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return which share of the time between two readings of `ticks` was stolen."""
    return 100 * (after[0] - before[0]) / max(1, after[1] - before[1])


def busy_ns() -> int:
    """Return nanoseconds that all processors together were not idle, from any start: for differences.

    From the idle times of /proc/stat, which the kernel measures whenever a processor enters and leaves idle, in units
    of 10 ms. They agree with the scheduler's own time of all tasks. The columns of busy time are samples of the timer
    interrupt instead, and miss up to a tenth of it.
    """
    lines = [line.split() for line in _read("/proc/stat").splitlines()]
    processors = sum(line[0].startswith("cpu") for line in lines) - 1
    idle, waiting, _, _, stolen = (int(word) for word in lines[0][4:9])
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return processors * time.monotonic_ns() - (idle + waiting + stolen) * tick


def describe() -> dict[str, Any]:
    """Return kernel, processor, memory, JIT, load and versions."""
    jit = _read("/proc/sys/net/core/bpf_jit_enable", "unknown")
    hardening = _read("/proc/sys/net/core/bpf_jit_harden", "unknown")
    return {
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory": f"{_memory_mib():,} MiB",
        "BPF JIT": f"{'on' if jit in ('1', '2') else 'off'} (bpf_jit_enable {jit}, bpf_jit_harden {hardening})",
        "load average at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "nats-server": _nats_version(),
        "nats-py": version("nats-py"),
    }


def _nats_version() -> str:
    done = subprocess.run([server_program(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().rpartition(" ")[2] or "not found"
