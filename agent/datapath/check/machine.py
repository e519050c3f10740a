"""Checks of the machine: privileges, kernel, BPF, compiler, folders and limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from agent.core.uplinks.hook_choice import loaded_hooks
from agent.core.uplinks.linux_version import version_of
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import content_hash, refuse_foreign
from agent.datapath.bpf.lost_frame_counter import SWITCHED_OFF, why_not_counted
from agent.datapath.bpf.pins import is_bpffs, is_read_only, mount_point
from agent.datapath.check.result import CheckResult
from agent.datapath.kernel import KernelConfig

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
KERNEL_NEEDED = (5, 18)
"""XDP programs that get whole packets from live test frames; managed neighbours came with 5.16."""
NEIGHBOUR_LIMITS = {family: Path(f"/proc/sys/net/{family}/neigh/default/gc_thresh3") for family in ("ipv4", "ipv6")}


def capabilities(_config: KernelConfig) -> CheckResult:
    """Check the process's capabilities."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", text, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    # The kernel takes CAP_SYS_ADMIN for CAP_BPF (bpf_token_capable), and older container engines know no CAP_BPF.
    if effective >> CAPABILITIES["CAP_SYS_ADMIN"] & 1:
        effective |= 1 << CAPABILITIES["CAP_BPF"]
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        remedy = f"run as root, or give the service AmbientCapabilities={' '.join(CAPABILITIES)}"
        return CheckResult("capabilities", False, f"missing: {', '.join(missing)}", remedy)
    return CheckResult("capabilities", True, ", ".join(CAPABILITIES))


def kernel_version(_config: KernelConfig) -> CheckResult:
    """Check the kernel's version."""
    release = platform.release()
    needed = ".".join(map(str, KERNEL_NEEDED))
    ok = version_of(release) >= KERNEL_NEEDED
    return CheckResult("kernel", ok, release, "" if ok else f"install a kernel of version {needed} or newer")


def bpf_calls(_config: KernelConfig) -> CheckResult:
    """Create the smallest map and close it: the only proof that bpf(2) is not locked down."""
    try:
        os.close(bpf.create_map(bpf.MapType.ARRAY, 4, 4, 1, name="check"))
    except OSError as error:
        remedy = "allow bpf(2): run with the capabilities above, outside a seccomp filter that forbids it"
        return CheckResult("bpf", False, str(error), remedy)
    return CheckResult("bpf", True, "maps can be created")


def bpf_file_system(config: KernelConfig) -> CheckResult:
    """Check that a BPF file system is mounted or can be."""
    name = "bpf file system"
    if is_bpffs(config.bpffs):
        if is_read_only(config.bpffs):
            remedy = f"mount -o remount,rw {mount_point(config.bpffs)}"
            return CheckResult(name, False, f"{config.bpffs} is read-only", remedy)
        return CheckResult(name, True, f"mounted at {config.bpffs}")
    kinds = Path("/proc/filesystems").read_text(encoding="ascii").split()
    if "bpf" not in kinds:
        return CheckResult(name, False, "the kernel does not support it", "use a kernel with CONFIG_BPF_SYSCALL")
    parent = next((one for one in (config.bpffs, *config.bpffs.parents) if one.exists()), Path("/"))
    if not os.access(parent, os.W_OK) and not config.bpffs.is_dir():
        return CheckResult(name, False, f"{config.bpffs} cannot be created", f"mount -t bpf bpf {config.bpffs}")
    return CheckResult(name, True, f"not mounted at {config.bpffs}; the agent will mount it")


def neighbours(config: KernelConfig) -> CheckResult:
    """Check how many neighbours the kernel keeps: one limit for all interfaces of all network namespaces."""
    limits = {}
    for family, path in NEIGHBOUR_LIMITS.items():
        with contextlib.suppress(FileNotFoundError):  # visible in the first network namespace only
            limits[family] = int(path.read_text(encoding="ascii"))
    return neighbour_capacity(limits, config.sizes.droplets)


def neighbour_capacity(limits: Mapping[str, int], droplets: int) -> CheckResult:
    """Return the result about limits by family (`ipv4`, `ipv6`) for a host with a map of this many droplets. Pure."""
    if not limits:
        return CheckResult("neighbours", True, "their limit is not visible in this network namespace")
    detail = ", ".join(f"at most {limit:,} of {family}" for family, limit in limits.items())
    few = [f"net.{family}.neigh.default.gc_thresh3" for family, limit in limits.items() if limit < droplets]
    hint = f"if the host's own subnets have more droplets than that, raise {' and '.join(few)}" if few else ""
    return CheckResult("neighbours", True, detail, hint)


async def compiler(config: KernelConfig) -> CheckResult:
    """Import bcc in a child process, as the compiler does: the library is too large to load into this one."""
    if all(path.exists() for path in _objects(config)):
        return CheckResult("compiler", True, "not needed: the programs are in the cache")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import bcc; print(bcc.__file__); bcc.BPF",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await child.communicate()
    if child.returncode == 0:
        return CheckResult("compiler", True, out.decode(errors="replace").strip())
    lines = error.decode(errors="replace").strip().splitlines()
    detail = lines[-1] if lines else f"python exited with {child.returncode}"
    remedy = "install the distribution's bcc (Debian: python3-bpfcc) and make it visible to this Python"
    return CheckResult("compiler", False, detail, remedy)


def _objects(config: KernelConfig) -> list[Path]:
    """Return where the compiled programs of all hooks in use are, or will be."""
    hooks = loaded_hooks(config.hooks, version_of(platform.release()))
    return [config.cache / f"{content_hash(features=config.features, hook=hook)}.object" for hook in hooks]


def libc_headers(config: KernelConfig) -> CheckResult:
    """Check the headers that the compiler needs, unless the programs are in the cache."""
    if all(path.exists() for path in _objects(config)):
        return CheckResult("libc headers", True, "not needed: the programs are in the cache")
    architecture = f"/usr/include/{platform.machine()}-linux-gnu"
    wanted = [("/usr/include/linux/bpf.h",), (f"{architecture}/asm/types.h", "/usr/include/asm/types.h")]
    missing = [choices[0] for choices in wanted if not any(Path(one).exists() for one in choices)]
    if missing:
        return CheckResult("libc headers", False, f"missing: {', '.join(missing)}", "install linux-libc-dev")
    return CheckResult("libc headers", True, "the kernel's interface headers are installed")


def cache(config: KernelConfig) -> CheckResult:
    """Check that nobody else can write to the folder of compiled programs."""
    parent = next(one for one in (config.cache, *config.cache.parents) if one.exists())
    remedy = "set `cache` to a directory that only the agent uses"
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return CheckResult("cache", False, f"{parent} cannot be written", remedy)
    for path in (config.cache, *_objects(config)):
        if path.exists():
            try:
                refuse_foreign(path, path.stat())
            except OSError as error:
                return CheckResult("cache", False, f"{path}: {error.strerror}", remedy)
    return CheckResult("cache", True, str(config.cache))


def losses(config: KernelConfig) -> CheckResult:
    """Check whether frames that the kernel drops after a verdict can be counted; an agent also works without."""
    lacking = why_not_counted() if config.count_lost_frames else SWITCHED_OFF
    if not lacking:
        detail = "frames that the kernel drops after the verdict of a program at XDP are counted, at tc they are not"
        return CheckResult("losses", True, detail)
    detail = f"frames that the kernel drops after a program's verdict will not be counted: {lacking}"
    return CheckResult("losses", True, detail)
