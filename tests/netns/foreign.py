"""Programs of other owners: on the agent's maps, and in every hook of an interface."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from agent.core.model.hooks import TRANSIT, Hook
from agent.core.model.map_layout import MapName
from agent.datapath.attach.xdp import AttachableProgram, AttachMode, attach
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import compile_programs
from agent.datapath.bpf.links import TCX_HOOKS
from agent.datapath.bpf.maps import Map, close_maps
from agent.datapath.bpf.marks import is_like_ours
from agent.datapath.bpf.uapi import call
from agent.datapath.kernel import Kernel
from agent.datapath.net.netlink import Netlink
from tests.netns.conftest import ip, ip_json, run
from tests.netns.programs import owning, stand_ins

BPF_LINK_CREATE, BPF_XDP = 28, 37
"""Of enum bpf_cmd and of enum bpf_attach_type."""
TCX_NEXT = struct.pack("=BBhi", 0xB7, 0, 0, -1) + struct.pack("=BBhi", 0x95, 0, 0, 0)
"""r0 = TC_ACT_UNSPEC; exit."""


@asynccontextmanager
async def stranger_on(kernel: Kernel, interface: str, name: str, older: bool) -> AsyncIterator[int]:
    """Attach an unmarked, unpinned program that works on the kernel's pinned maps in place of what runs there.

    `older`: all its maps have names and keys that programs from before there were marks had.
    """
    config = kernel.config
    compiled = await compile_programs(config.cache, features=kernel.features)
    descriptors = {one.value: found.descriptor for one, found in kernel.maps.items()}
    stand_in: dict[MapName, Map] = {}
    if older:
        stand_in, newer = stand_ins(config.bpffs / "foreign", compiled)
        descriptors |= {"detours": descriptors["direct"], **newer}
    code = msgspec.structs.replace(compiled.program(TRANSIT[Hook.XDP]), name=name)
    program = programs.load(code, descriptors)
    try:
        info = bpf.program_info(program.fd)
        assert set(info.map_ids) & {one.info.id for one in kernel.maps.values()}
        assert is_like_ours(info) is older
        ip("link", "set", "dev", interface, "xdp", "off")
        async with Netlink() as netlink:
            foreign = AttachableProgram(program.fd, program.id, program.name)
            await attach(netlink, ifindex_of(interface), foreign, owning(), AttachMode.AUTO)
        yield program.id
    finally:
        os.close(program.fd)
        close_maps(stand_in)


def ifindex_of(interface: str) -> int:
    return next(int(link["ifindex"]) for link in ip_json("link", "show") if link["ifname"] == interface)


def create_link(program: int, interface: str, hook: int, flags: int = 0) -> int:
    """Attach a program by a bpf_link and return the link's descriptor."""
    return call(BPF_LINK_CREATE, struct.pack("=4I48x", program, ifindex_of(interface), hook, flags))[0]


@contextmanager
def tc_program(name: str) -> Iterator[tuple[int, int]]:
    """Load a program that lets every frame pass; yield its descriptor and id."""
    descriptor = bpf.load_program(TCX_NEXT, bpf.ProgramType.SCHED_CLS, name=name)
    try:
        yield descriptor, bpf.program_info(descriptor).id
    finally:
        os.close(descriptor)


@contextmanager
def in_tcx(interface: str, name: str, direction: str = "ingress") -> Iterator[int]:
    """Have a program in a tcx hook of an interface; yield its id."""
    with tc_program(name) as (descriptor, number):
        link = create_link(descriptor, interface, TCX_HOOKS[direction])
        try:
            yield number
        finally:
            os.close(link)


@contextmanager
def in_clsact(interface: str, name: str, folder: Path) -> Iterator[int]:
    """Have a tc filter with a program at an interface's clsact; yield its id. `folder` is in a bpf file system."""
    with tc_program(name) as (descriptor, number):
        bpf.pin(descriptor, folder / name)
        try:
            run("tc", "qdisc", "add", "dev", interface, "clsact")
            run("tc", "filter", "add", "dev", interface, "ingress", "bpf", "da", "pinned", str(folder / name))
            yield number
        finally:
            (folder / name).unlink()
