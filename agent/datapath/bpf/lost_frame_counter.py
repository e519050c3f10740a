"""Counts frames that the kernel drops after our programs' verdicts: `bpf/entry/lost_frames.h` on tracepoints.

Owns the links that keep these programs attached. They are pinned, so that counting continues while no agent runs. A
host whose kernel lacks the needed features works without them; `unavailable` says why.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

import structlog

from agent.core.faults.lost_frames import FailureKind, FrameLoss
from agent.core.model.map_layout import (
    FAILURE_COUNT,
    FAILURE_KEY,
    KERNEL_LAYOUT,
    U32,
    WATCHED_INTERFACE,
    WATCHED_KEY,
    WATCHED_MARK,
    WATCHED_PROGRAM,
    MapName,
)
from agent.core.uplinks.linux_version import version_of
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.btf import VMLINUX, field_offsets
from agent.datapath.bpf.compiler import TRACERS, CompiledObject
from agent.datapath.bpf.maps import Map
from agent.datapath.bpf.pins import Pins

SO_NETNS_COOKIE = 71
FIELDS = {
    "net_device": ("ifindex", "nd_net"),
    "net": ("net_cookie",),
    "bpf_prog": ("aux",),
    "bpf_prog_aux": ("id",),
}
"""The fields of the kernel's structs whose offsets `struct kernel_layout` holds, in its order."""
OLDEST = (6, 1)
"""The oldest Linux that these programs are attached on, as the oldest on which they were tried (ADR 30)."""
SWITCHED_OFF = "the setting count_lost_frames is false"
OVERFLOW = FAILURE_KEY.pack(0, 0, 0)
"""The key that counts frames when the map has no room for another key."""
WHY = {
    errno.ENOENT: "the kernel has no XDP tracepoints (CONFIG_TRACEPOINTS)",
    errno.EINVAL: "the kernel takes no BPF programs on tracepoints (CONFIG_BPF_EVENTS)",
    errno.EPERM: "the agent may not attach to tracepoints: it needs CAP_PERFMON or CAP_SYS_ADMIN",
}

log = structlog.get_logger()


class LostFrameCounter:
    """One agent's programs on tracepoints, and their counts."""

    def __init__(self, compiled: CompiledObject, maps: Mapping[MapName, Map], pins: Pins, enabled: bool = True) -> None:
        """Count with these maps; if not `enabled`, detach what an earlier agent attached."""
        self.unavailable = "nothing was attached yet"
        """Why frames that are dropped after the verdict are not counted; empty if they are."""
        self._compiled = compiled
        self._maps = maps
        self._pins = pins
        self._enabled = enabled
        self._layout: bytes | None = None

    def tend(self, program_ids: Collection[int], interfaces: Collection[int]) -> None:
        """Ensure that all is attached and counts for these XDP programs and for frames arriving on these interfaces.

        A refusal of the kernel is stored in `unavailable`, logged when it changes, and retried by the next call.
        """
        if not self._enabled or (too_old := why_too_old(os.uname().release)):
            self._detach()
            self._note(too_old if self._enabled else SWITCHED_OFF)
            return
        try:
            self._configure()
            self._watch(program_ids, interfaces)
            self._attach()
        except (OSError, ValueError) as error:
            self._note(reason_of(error))
        else:
            self._note("")

    def _note(self, unavailable: str) -> None:
        if unavailable != self.unavailable:
            log.info("loss_counting_changed", counted=not unavailable, reason=unavailable)
        self.unavailable = unavailable

    def read(self) -> dict[FrameLoss, int]:
        """Return the frames that were dropped since the maps were created, by reason and target interface."""
        found = {}
        stride = bpf.percpu_stride(FAILURE_COUNT.size)
        for key, values in self._maps[MapName.FAILURES].dump().items():
            kind, number, ifindex = FAILURE_KEY.unpack(key)
            frames = sum(FAILURE_COUNT.unpack_from(values, at)[0] for at in range(0, len(values), stride))
            if frames:
                found[FrameLoss(FailureKind(kind), number, ifindex)] = frames
        return found

    def _configure(self) -> None:
        """Write the offsets of the fields that the programs read into their map."""
        if self._layout is None:
            offsets = field_offsets(FIELDS)
            fields = [offsets[name, field] for name, found in FIELDS.items() for field in found]
            self._layout = KERNEL_LAYOUT.pack(netns_cookie(), *fields)
        layouts, first = self._maps[MapName.KERNEL_LAYOUTS], U32.pack(0)
        if layouts.lookup(first) != self._layout:
            bpf.update(layouts.descriptor, first, self._layout)
        with contextlib.suppress(FileExistsError):
            nothing = bytes(bpf.percpu_stride(FAILURE_COUNT.size) * bpf.possible_cpus())
            bpf.update(self._maps[MapName.FAILURES].descriptor, OVERFLOW, nothing, bpf.BPF_NOEXIST)

    def _watch(self, program_ids: Collection[int], interfaces: Collection[int]) -> None:
        watched, mark = self._maps[MapName.WATCHED], WATCHED_MARK.pack(1)
        wanted = {WATCHED_KEY.pack(WATCHED_PROGRAM, one): mark for one in program_ids}
        wanted |= {WATCHED_KEY.pack(WATCHED_INTERFACE, one): mark for one in interfaces}
        present = watched.dump()
        watched.delete([key for key in present if key not in wanted])
        for refused in watched.put([item for item in wanted.items() if item[0] not in present]):
            raise OSError(refused.errno, os.strerror(refused.errno))

    def _attach(self) -> None:
        """Attach what is not attached; the current program takes over from an older one."""
        descriptors = {name.value: one.descriptor for name, one in self._maps.items()}
        loaded = programs.ensure_tracers(self._compiled, descriptors, self._pins.programs)
        try:
            self._pins.links.mkdir(parents=True, exist_ok=True)
            for name, program in loaded.items():
                _ensure_link(self._pins.links / TRACERS[name], TRACERS[name], program)
        finally:
            programs.close(loaded)

    def _detach(self) -> None:
        """Detach the programs of an earlier agent that ran with other settings."""
        for tracepoint in TRACERS.values():
            (self._pins.links / tracepoint).unlink(missing_ok=True)


def _ensure_link(path: Path, tracepoint: str, program: programs.LoadedProgram) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = bpf.open_pin(path)
        try:
            if bpf.link_program(descriptor) == program.id:
                return
        finally:
            os.close(descriptor)
        path.unlink()
    link = bpf.attach_tracepoint(tracepoint, program.fd)
    try:
        bpf.pin(link, path)
    finally:
        os.close(link)


def netns_cookie() -> int:
    """Return the kernel's cookie of this thread's network namespace, which is never reused (socket(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
        return int.from_bytes(opened.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


def reason_of(error: OSError | ValueError) -> str:
    """Record why nothing is counted."""
    if isinstance(error, FileNotFoundError) and error.filename == str(VMLINUX):
        return "the kernel has no type information (CONFIG_DEBUG_INFO_BTF)"
    if isinstance(error, OSError) and error.errno in WHY:
        return WHY[error.errno]
    return str(error).partition("\n")[0]


def why_too_old(release: str) -> str:
    """Return why counting is unsafe on a kernel of this release (uname(2)): it is too old; empty otherwise."""
    if version_of(release) >= OLDEST:
        return ""
    return f"Linux {release} is older than {OLDEST[0]}.{OLDEST[1]}, from which on the agent attaches to XDP tracepoints"


def why_not_counted() -> str:
    """Return what this kernel lacks for counting; empty if an empty program can be attached, which is then detached."""
    if too_old := why_too_old(os.uname().release):
        return too_old
    try:
        field_offsets(FIELDS)
        program = bpf.load_program(NOTHING, bpf.ProgramType.RAW_TRACEPOINT, name="check")
        try:
            for tracepoint in TRACERS.values():
                os.close(bpf.attach_tracepoint(tracepoint, program))
        finally:
            os.close(program)
    except (OSError, ValueError) as error:
        return reason_of(error)
    return ""


NOTHING = bytes.fromhex("b7000000000000009500000000000000")
"""Two instructions: r0 = 0; exit."""
