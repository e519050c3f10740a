"""Attaches XDP programs to interfaces by netlink, and never touches a stranger's.

A program attached by netlink outlives the process that attached it. Every change names the program that it expects to
find (XDP_FLAGS_REPLACE with IFLA_XDP_EXPECTED_FD, net/core/dev.c: dev_xdp_attach), so that two owners cannot push one
another off: the kernel answers EEXIST. What is attached is read back, never assumed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, NoReturn

import structlog

from agent.core.model.errno_names import errno_name
from agent.core.uplinks.program_owners import STRANGER, Owner, advice, possessive
from agent.datapath.net.ethtool import driver_of
from agent.datapath.net.namespaces import open_control_socket
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.errors import OperatorError

XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
XDP_FLAGS_HW_MODE = 1 << 3
XDP_FLAGS_REPLACE = 1 << 4
NONE_EXPECTED = DETACHED = -1
TAKES_NONE = "it takes no programs to run on the card"
PAGE_MTU = 3000
"""With head room, tail room and headers it fits into 4 KiB, whatever the kernel was built with."""

_UNABLE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM)
"""What drivers answer that have no XDP, too long an MTU, or too few queues."""

log = structlog.get_logger()


class AttachMode(StrEnum):
    """Where XDP runs: in the driver, in the stack (slow), on the network card; in the stack when the driver cannot."""

    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"
    AUTO = "auto"


_FLAG = {
    AttachMode.NATIVE: XDP_FLAGS_DRV_MODE,
    AttachMode.GENERIC: XDP_FLAGS_SKB_MODE,
    AttachMode.OFFLOAD: XDP_FLAGS_HW_MODE,
}


REMEDY = {
    AttachMode.NATIVE: "Set attach_mode to auto",
    AttachMode.GENERIC: "Choose another interface",
    AttachMode.OFFLOAD: "Set attach_mode to native or auto",
}


class Attached(NamedTuple):
    """What a link says of its XDP program: the kernel's id, and where it runs (never `AUTO`)."""

    program_id: int
    mode: AttachMode

    @property
    def native(self) -> bool:
        """Whether it runs in the driver."""
        return self.mode is AttachMode.NATIVE


class AttachableProgram(NamedTuple):
    """A loaded program: its file descriptor, the kernel's id, and its name for messages."""

    descriptor: int
    program_id: int
    name: str


class ProgramOwnership(NamedTuple):
    """How the attaching code tells its own programs: by id, and how it opens one (the caller closes it).

    `find_owner` tells whose one is that is not its own.
    """

    owned: Callable[[int], bool]
    open_program: Callable[[int], int]
    find_owner: Callable[[int], Owner] = lambda _: STRANGER


def attached_program(link: Message) -> Attached | None:
    """Return the program of a link as its message tells it, None when it has none."""
    xdp = attribute(link, "IFLA_XDP")
    if xdp is None:
        return None
    for name, mode in _PROGRAM_OF.items():
        if found := attribute(xdp, name):
            return Attached(int(found), mode)
    return None


_PROGRAM_OF = {
    "IFLA_XDP_DRV_PROG_ID": AttachMode.NATIVE,
    "IFLA_XDP_SKB_PROG_ID": AttachMode.GENERIC,
    "IFLA_XDP_HW_PROG_ID": AttachMode.OFFLOAD,
    "IFLA_XDP_PROG_ID": AttachMode.NATIVE,
}


async def _change(netlink: Netlink, ifindex: int, program: int, expected: int, mode: AttachMode) -> None:
    attrs = [
        ("IFLA_XDP_FD", program),
        ("IFLA_XDP_FLAGS", _FLAG[mode] | XDP_FLAGS_REPLACE),
        ("IFLA_XDP_EXPECTED_FD", expected),
    ]
    await netlink.request("link", "set", index=ifindex, xdp={"attrs": attrs})


async def _read(netlink: Netlink, ifindex: int) -> Message:
    link = await netlink.link(index=ifindex)
    if link is None:
        raise OSError(errno.ENODEV, "no such interface", str(ifindex))
    return link


def _refuse_stranger(found: Attached, link: Message, own: ProgramOwnership) -> NoReturn:
    owner, interface = own.find_owner(found.program_id), str(attribute(link, "IFLA_IFNAME"))
    what = f"{possessive(owner)} XDP program (id {found.program_id}) is attached to {interface}"
    raise OperatorError(errno.EEXIST, f"{what}: {advice(owner, interface)}")


async def _replace(
    netlink: Netlink, ifindex: int, program: int, found: Attached | None, own: ProgramOwnership, mode: AttachMode
) -> None:
    if found is None:
        await _change(netlink, ifindex, program, NONE_EXPECTED, mode)
        return
    old = own.open_program(found.program_id)
    try:
        if found.mode is mode:
            await _change(netlink, ifindex, program, old, mode)
        else:
            await _change_mode(netlink, ifindex, program, old, found.mode, mode)
    finally:
        os.close(old)


async def _change_mode(
    netlink: Netlink, ifindex: int, program: int, old: int, before: AttachMode, mode: AttachMode
) -> None:
    """Take the old program off, for the kernel takes none in another mode beside it; when that fails, put it back."""
    await _change(netlink, ifindex, DETACHED, old, before)
    try:
        await _change(netlink, ifindex, program, NONE_EXPECTED, mode)
    except OSError:
        await _change(netlink, ifindex, old, NONE_EXPECTED, before)
        raise


async def attach(
    netlink: Netlink, ifindex: int, program: AttachableProgram, own: ProgramOwnership, mode: AttachMode
) -> Attached:
    """Attach the program, or put it in the place of an older one of ours; return what is then attached.

    Raises OSError: EEXIST when a stranger's program is there, ENODEV when the interface is not, EIO when the kernel
    shows another program afterwards, and what the driver answers when it cannot, in words that say why.
    """
    link = await _read(netlink, ifindex)
    found = attached_program(link)
    if found is not None and found.program_id == program.program_id and _mode_fits(found, mode):
        return found
    if found is not None and not own.owned(found.program_id):
        _refuse_stranger(found, link, own)
    first = AttachMode.NATIVE if mode is AttachMode.AUTO else mode
    try:
        await _replace(netlink, ifindex, program.descriptor, found, own, first)
    except OSError as error:
        reason = refusal(error, link, first)
        if mode is not AttachMode.AUTO or error.errno not in _UNABLE:
            raise reason from error
        await _fall_back(netlink, ifindex, program, own)
        log.warning("xdp_generic_fallback", ifindex=ifindex, program=program.name, reason=reason.strerror)
    now = attached_program(await _read(netlink, ifindex))
    if now is None or now.program_id != program.program_id:
        raise OSError(errno.EIO, f"the kernel does not show {program.name} on the interface after attaching it")
    return now


async def change_mode(
    netlink: Netlink, ifindex: int, program: AttachableProgram, own: ProgramOwnership, mode: AttachMode
) -> None:
    """Attach a program of ours, where one runs in another mode, in this one; OSError as `attach`.

    With `auto` it is moved into the driver where that can be had, and stays in the stack otherwise.
    """
    found = attached_program(await _read(netlink, ifindex))
    if found is None or not own.owned(found.program_id):
        return
    if mode is not AttachMode.AUTO:
        if found.mode is not mode:
            await attach(netlink, ifindex, program, own, mode)
    elif found.mode is AttachMode.GENERIC:
        with contextlib.suppress(OperatorError):  # the driver cannot
            await attach(netlink, ifindex, program, own, AttachMode.NATIVE)


async def _fall_back(netlink: Netlink, ifindex: int, program: AttachableProgram, own: ProgramOwnership) -> None:
    """Have the stack run what the driver cannot."""
    link = await _read(netlink, ifindex)
    try:
        await _replace(netlink, ifindex, program.descriptor, attached_program(link), own, AttachMode.GENERIC)
    except OSError as error:
        raise refusal(error, link, AttachMode.GENERIC) from error


def refusal(error: OSError, link: Message, mode: AttachMode) -> OSError:
    """Return a driver's refusal in words: why, and what to do."""
    if error.errno not in _UNABLE:
        return error
    return OperatorError(error.errno, f"{why_refused(error, link, mode)}. {REMEDY[mode]}")


def why_refused(error: OSError, link: Message, mode: AttachMode) -> str:
    """Name the interface, its driver, what the kernel said, and the MTU with its limit where it may be that."""
    name, mtu = str(attribute(link, "IFLA_IFNAME")), int(attribute(link, "IFLA_MTU"))
    with open_control_socket() as control:
        driver = driver_of(control, name)
    words = f"{name}: driver {driver} refuses {mode} XDP: {error.strerror} ({errno_name(error.errno or 0)})"
    if error.errno == errno.ERANGE or mtu > PAGE_MTU:
        words += (
            f"; its MTU is {mtu}, and a frame must fit into a page of memory: up to {PAGE_MTU} every driver can, on "
            "both ends of a veth"
        )
    return words


def _mode_fits(found: Attached, mode: AttachMode) -> bool:
    return mode is AttachMode.AUTO or found.mode is mode


async def detach(netlink: Netlink, ifindex: int, own: ProgramOwnership) -> bool:
    """Take our program off; return whether there was one. A stranger's stays: OSError (EEXIST)."""
    link = await _read(netlink, ifindex)
    found = attached_program(link)
    if found is None:
        return False
    if not own.owned(found.program_id):
        _refuse_stranger(found, link, own)
    expected = own.open_program(found.program_id)
    try:
        await _change(netlink, ifindex, DETACHED, expected, found.mode)
    finally:
        os.close(expected)
    return True
