"""Attaches XDP programs to interfaces by netlink, and never touches a stranger's.

A program attached by netlink outlives the process that attached it. Every change names the program that it expects to
find (XDP_FLAGS_REPLACE with IFLA_XDP_EXPECTED_FD, net/core/dev.c: dev_xdp_attach), so that two owners cannot push one
another off: the kernel answers EEXIST. What is attached is read back, never assumed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import structlog

from agent.datapath.netlink import Message, Netlink, attribute

XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
XDP_FLAGS_REPLACE = 1 << 4
NONE_EXPECTED = -1

_UNABLE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOTSUP)

log = structlog.get_logger()


class AttachMode(StrEnum):
    """Where XDP runs: in the driver, in the stack (slow), or in the stack when the driver cannot."""

    NATIVE = "native"
    GENERIC = "generic"
    AUTO = "auto"


class Attached(NamedTuple):
    """What a link says of its XDP program: the kernel's id, and whether it runs in the driver."""

    program_id: int
    native: bool


class Program(NamedTuple):
    """A loaded program: its file descriptor, the kernel's id, and its name for messages."""

    descriptor: int
    program_id: int
    name: str


class Ownership(NamedTuple):
    """How the attaching code tells its own programs: by id, and how it opens one (the caller closes it)."""

    owned: Callable[[int], bool]
    open_program: Callable[[int], int]


def attached_program(link: Message) -> Attached | None:
    """Return the program of a link as its message tells it, None when it has none."""
    xdp = attribute(link, "IFLA_XDP")
    if xdp is None:
        return None
    driver = attribute(xdp, "IFLA_XDP_DRV_PROG_ID")
    if driver:
        return Attached(int(driver), native=True)
    stack = attribute(xdp, "IFLA_XDP_SKB_PROG_ID")
    if stack:
        return Attached(int(stack), native=False)
    other = attribute(xdp, "IFLA_XDP_PROG_ID")
    return Attached(int(other), native=True) if other else None


async def _change(netlink: Netlink, ifindex: int, program: int, expected: int, mode_flag: int) -> None:
    attrs = [
        ("IFLA_XDP_FD", program),
        ("IFLA_XDP_FLAGS", mode_flag | XDP_FLAGS_REPLACE),
        ("IFLA_XDP_EXPECTED_FD", expected),
    ]
    await netlink.request("link", "set", index=ifindex, xdp={"attrs": attrs})


async def _read(netlink: Netlink, ifindex: int) -> Attached | None:
    link = await netlink.link(index=ifindex)
    if link is None:
        raise OSError(errno.ENODEV, "no such interface", str(ifindex))
    return attached_program(link)


def _refuse_stranger(found: Attached) -> None:
    raise OSError(
        errno.EEXIST,
        f"another owner's XDP program (id {found.program_id}) is attached; "
        "detach it (ip link set dev ... xdp off) or give the droplet another interface",
    )


async def _replace(
    netlink: Netlink, ifindex: int, program: int, found: Attached | None, own: Ownership, native: bool
) -> None:
    flag = XDP_FLAGS_DRV_MODE if native else XDP_FLAGS_SKB_MODE
    if found is not None and found.native != native:
        await detach(netlink, ifindex, own)
        found = None
    if found is None:
        await _change(netlink, ifindex, program, NONE_EXPECTED, flag)
        return
    old = own.open_program(found.program_id)
    try:
        await _change(netlink, ifindex, program, old, flag)
    finally:
        os.close(old)


async def attach(netlink: Netlink, ifindex: int, program: Program, own: Ownership, mode: AttachMode) -> Attached:
    """Attach the program, or put it in the place of an older one of ours; return what is then attached.

    Raises OSError: EEXIST when a stranger's program is there, ENODEV when the interface is not, EIO when the kernel
    shows another program afterwards, and what the driver answers when it cannot.
    """
    found = await _read(netlink, ifindex)
    if found is not None and found.program_id == program.program_id and _mode_fits(found, mode):
        return found
    if found is not None and not own.owned(found.program_id):
        _refuse_stranger(found)
    try:
        await _replace(netlink, ifindex, program.descriptor, found, own, native=mode is not AttachMode.GENERIC)
    except OSError as error:
        if mode is not AttachMode.AUTO or error.errno not in _UNABLE:
            raise
        log.warning("xdp_generic_fallback", ifindex=ifindex, program=program.name, reason=str(error))
        await _replace(netlink, ifindex, program.descriptor, await _read(netlink, ifindex), own, native=False)
    now = await _read(netlink, ifindex)
    if now is None or now.program_id != program.program_id:
        raise OSError(errno.EIO, f"the kernel does not show {program.name} on the interface after attaching it")
    return now


def _mode_fits(found: Attached, mode: AttachMode) -> bool:
    return mode is AttachMode.AUTO or found.native == (mode is AttachMode.NATIVE)


async def detach(netlink: Netlink, ifindex: int, own: Ownership) -> bool:
    """Take our program off; return whether there was one. A stranger's stays: OSError (EEXIST)."""
    found = await _read(netlink, ifindex)
    if found is None:
        return False
    if not own.owned(found.program_id):
        _refuse_stranger(found)
    expected = own.open_program(found.program_id)
    try:
        flag = XDP_FLAGS_DRV_MODE if found.native else XDP_FLAGS_SKB_MODE
        await _change(netlink, ifindex, -1, expected, flag)
    finally:
        os.close(expected)
    return True
