"""What a test run does not show: where a frame is redirected to, and at tc what stands in the kernel's metadata.

Calls of some helpers go by a few instructions at the program's end that write down what they are given. A test run
marks no frame as a GSO packet of TCP or UDP, so the kernel refuses to change its headers, and it gives none a VLAN tag.
The programs of tc are therefore compiled to read these fields from `cb` of their context instead, which a test run
fills; helpers that change the fields change them there. A frame in a tunnel of this machine (skb->encapsulation) is
not known as such in a test run either: helpers that refuse those look at the last word of `cb`.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from collections.abc import Mapping
from errno import EALREADY, EINVAL
from pathlib import Path

from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.datapath.bpf import programs
from agent.datapath.bpf.compiler import SOURCES, CompiledObject, CompiledProgram, compile_programs

SHOWN = {"gso_size": 176, "vlan_present": 20, "vlan_tci": 24, "vlan_proto": 28}
"""Fields of struct __sk_buff that are read from `cb`, in this order, and their offsets."""
CB = 48
"""Offset of `cb` in struct __sk_buff."""
NOTES = struct.Struct("=4I")
"""What the taps write: target of the redirect, VLAN tag that was pushed, whether one was pushed, and whether popped."""
VLAN_PUSH, VLAN_POP, REDIRECT, CHANGE_TAIL, ADJUST_ROOM = 18, 19, 23, 38, 50
"""Numbers of helpers (enum bpf_func_id)."""
ENCAPSULATES = 6
"""BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 and _IPV6."""
_EXIT = bytes.fromhex("95000000 00000000")
_R0_IN_TUNNEL = struct.pack("<BBhi", 0x61, 1 << 4, CB + 16, 0)  # r0 = the last word of `cb`
_R5_ENCAPSULATES = struct.pack("<BBhiBBhi", 0xBF, 4 << 4 | 5, 0, 0, 0x57, 5, 0, ENCAPSULATES)  # r5 = flags & these
_R0_IS_0, _R0_IS_1 = bytes.fromhex("b7000000 00000000"), bytes.fromhex("b7000000 01000000")


def compile_shown(folder: Path, features: Features, hook: Hook) -> CompiledObject:
    """Compile the programs of a hook with the fields that a test run cannot set in `cb`."""
    if hook is Hook.XDP:
        return asyncio.run(compile_programs(folder, features=features))
    with tempfile.TemporaryDirectory() as scratch:
        sources = Path(scratch) / "bpf"
        shutil.copytree(SOURCES, sources)
        text = (sources / "hooks/tc.h").read_text()
        for place, field in enumerate(SHOWN):
            text = text.replace(f"FIELD(ctx, {field})", f"FIELD(ctx, cb[{place}])")
        (sources / "hooks/tc.h").write_text(text)
        return asyncio.run(compile_programs(folder, sources, features, hook))


def load_address(register: int, fd: int) -> bytes:
    """Return instructions that load the address of an array's first value."""
    return struct.pack("<BBhiBBhi", 0x18, 2 << 4 | register, 0, fd, 0, 0, 0, 0)


def _store(register: int, at: int, value: int) -> bytes:
    """Return *(u32 *)(register + at) = value, where `value` is a register too."""
    return struct.pack("<BBhi", 0x63, value << 4 | register, at, 0)


def _taps(leaves: int) -> dict[int, bytes]:
    """Return what runs before a call of each helper; r0 and the registers behind the arguments are free."""
    return {
        REDIRECT: load_address(3, leaves) + _store(3, 0, 1),
        VLAN_PUSH: load_address(4, leaves) + _store(4, 4, 3) + _R0_IS_1 + _store(4, 8, 0),
        VLAN_POP: load_address(4, leaves) + _R0_IS_1 + _store(4, 12, 0) + _R0_IS_0 + _store(1, CB + 4, 0),
        CHANGE_TAIL: _R0_IN_TUNNEL + _skip_if_0(0, 2) + _fail(EINVAL) + _R0_IS_0 + _store(1, CB, 0),  # skb_gso_reset()
        ADJUST_ROOM: _R0_IN_TUNNEL + _skip_if_0(0, 5) + _R5_ENCAPSULATES + _skip_if_0(5, 2) + _fail(EALREADY),
    }


def _skip_if_0(register: int, instructions: int) -> bytes:
    return struct.pack("<BBhi", 0x15, register, instructions, 0)


def _fail(error: int) -> bytes:
    return struct.pack("<BBhi", 0xB7, 0, 0, -error) + _EXIT


def tapped(program: CompiledProgram, maps: Mapping[str, int], leaves: int) -> bytes:
    """Return the instructions with a detour at each call of a helper that has a tap; `leaves` is the map for NOTES."""
    code = bytearray(programs.relocate(program, maps))
    real, taps = len(code), _taps(leaves)
    detours: dict[int, int] = {}
    for at in range(0, real, 8):
        helper = code[at + 4] if code[at] == 0x85 and not code[at + 1] >> 4 and not any(code[at + 5 : at + 8]) else 0
        if helper not in taps:
            continue
        if helper not in detours:
            detours[helper] = len(code) // 8
            code += taps[helper] + struct.pack("<BBhi", 0x85, 0, 0, helper) + _EXIT
        code[at + 1] = 1 << 4
        code[at + 4 : at + 8] = struct.pack("<i", detours[helper] - at // 8 - 1)
    return bytes(code)
