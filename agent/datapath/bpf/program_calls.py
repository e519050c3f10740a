"""Programs by bpf(2): loads them, runs them on frames, attaches them to tracepoints and binds maps to them."""

from __future__ import annotations

import ctypes
import errno
import os
from struct import pack, unpack_from

from agent.datapath.bpf.uapi import BPF_F_TEST_XDP_LIVE_FRAMES, Command, ProgramType, address, buffer, call, object_name

_STATISTICS = 1 << 16
"""Bytes of a log that holds nothing but statistics."""
_LOG_STATISTICS = 4
"""BPF_LOG_STATS in include/linux/bpf_verifier.h."""


class VerifierError(OSError):
    """The kernel refused a program; `log` is the verifier's text."""

    def __init__(self, number: int, name: str, log: str) -> None:
        super().__init__(number, f"{os.strerror(number)}: program {name}\n{log}")
        self.log = log


def load_program(
    instructions: bytes,
    program_type: ProgramType = ProgramType.XDP,
    *,
    license_name: str = "GPL",
    flags: int = 0,
    name: str = "",
    device: int = 0,
) -> int:
    """Load a program (8 bytes per instruction) and return its descriptor; VerifierError carries the log.

    `device`: the ifindex of a network card to offload it to.
    """
    try:
        return _load(instructions, program_type, license_name, flags, name, device, None)
    except OSError as error:
        # Load again only for the log: requesting it always would slow down every load.
        log = ctypes.create_string_buffer(16 << 20)
        try:
            return _load(instructions, program_type, license_name, flags, name, device, log)
        except OSError:
            text = log.value.decode(errors="replace")
            raise VerifierError(error.errno or errno.EINVAL, name, text) from None


def load_with_statistics(
    instructions: bytes, program_type: ProgramType = ProgramType.XDP, *, name: str = ""
) -> tuple[int, str]:
    """Load a program as `load_program` does; return its descriptor and the verifier's statistics (BPF_LOG_STATS).

    They have a line `stack depth 32+0`: bytes of each function, in the order of their instructions.
    """
    log = ctypes.create_string_buffer(_STATISTICS)
    try:
        descriptor = _load(instructions, program_type, "GPL", 0, name, 0, log, _LOG_STATISTICS)
    except OSError:
        return load_program(instructions, program_type, name=name), ""
    return descriptor, log.value.decode(errors="replace")


def _load(
    instructions: bytes,
    program_type: ProgramType,
    license_name: str,
    flags: int,
    name: str,
    device: int,
    log: ctypes.Array[ctypes.c_char] | None,
    level: int = 1,
) -> int:
    code, text = buffer(instructions), ctypes.create_string_buffer(license_name.encode())
    attr = pack(
        "=IIQQIIQII16sI",
        program_type,
        len(instructions) // 8,
        address(code),
        address(text),
        level if log else 0,
        len(log) if log else 0,
        address(log),
        0,
        flags,
        object_name(name),
        device,
    )
    return call(Command.PROG_LOAD, attr)[0]


def run_program(
    fd: int,
    data: bytes,
    *,
    repeat: int = 1,
    ifindex: int = 0,
    flags: int = 0,
    cpu: int = 0,
    batch: int = 0,
    metadata: int = 0,
    kind: ProgramType = ProgramType.XDP,
    segment: int = 0,
    segments: int = 0,
    notes: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0),
) -> tuple[int, bytes, int]:
    """Run a program on a frame as if it came in on `ifindex`; return verdict, frame and nanoseconds a run.

    With BPF_F_TEST_XDP_LIVE_FRAMES the kernel really sends the frames, and returns none. For XDP, `metadata` bytes of
    `data` stand in front of the frame, in its head room (Documentation/bpf/bpf_prog_run.rst). For tc, `segment` makes
    it a GSO packet with segments of so many bytes, `segments` is their number in `gso_segs`, and `notes` are `cb`.
    """
    live = bool(flags & BPF_F_TEST_XDP_LIVE_FRAMES)
    frame = buffer(data)
    out = None if live else ctypes.create_string_buffer(len(data) + 512)
    if kind is ProgramType.SCHED_CLS:
        context = buffer(pack("=40xI4x5I96xI8xI", ifindex, *notes, segments, segment))  # struct __sk_buff, to gso_size
    else:
        context = buffer(pack("=6I", metadata, len(data), 0, ifindex, 0, 0))  # struct xdp_md
    attr = pack(
        "=4IQQ4IQQ3I4x",
        fd,
        0,
        len(data),
        len(out) if out else 0,
        address(frame),
        address(out),
        repeat,
        0,
        len(context),
        0,
        address(context),
        0,
        flags,
        cpu,
        batch,
    )
    _, after = call(Command.PROG_TEST_RUN, attr)
    verdict, out_size = unpack_from("=I4xI", after, 4)
    return verdict, out.raw[:out_size] if out else b"", unpack_from("=I", after, 36)[0]


def attach_tracepoint(name: str, fd: int) -> int:
    """Attach a program of type RAW_TRACEPOINT and return the link: it is attached while that is open or pinned.

    ENOENT where the kernel has no such tracepoint, EINVAL where it was built without BPF on tracepoints, or where the
    tracepoint has fewer arguments than the program reads.
    """
    text = ctypes.create_string_buffer(name.encode())
    return call(Command.RAW_TRACEPOINT_OPEN, pack("=QI4x", address(text), fd))[0]


def bind_map(program: int, fd: int) -> None:
    """Bind a map to a program whose code does not use it, so that it appears among its maps; since Linux 5.10."""
    call(Command.PROG_BIND_MAP, pack("=III", program, fd, 0))


def query_programs(attr: bytes) -> bytes:
    """Return the attributes of BPF_PROG_QUERY as the kernel left them."""
    return call(Command.PROG_QUERY, attr)[1]
