"""Attaches XDP programs to interfaces by netlink, and never touches another owner's.

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

from agent.core.model.endpoint_slots import marked_by
from agent.core.model.errno_names import errno_name
from agent.core.uplinks.program_owners import UNKNOWN_OWNER, Owner, Place, advice, description
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
    """Where XDP runs: the driver, the stack (slow), the network card; `AUTO`: the driver if it can, else the stack."""

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
    """A link's XDP program: the kernel's id, and where it runs (never `AUTO`)."""

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
    """How the attaching code recognises its own programs by id, and opens one (the caller closes it).

    `find_owner` finds the owner of any other program, by its id and the ifindex that it is attached to.
    `other_instance` returns the name of the other instance of the agent that a program belongs to, empty if to none.
    """

    owned: Callable[[int], bool]
    open_program: Callable[[int], int]
    find_owner: Callable[[int, int], Owner] = lambda _, __: UNKNOWN_OWNER
    other_instance: Callable[[int], str] = lambda _: ""


def attached_program(link: Message) -> Attached | None:
    """Return the program in a link's message, None if it has none."""
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


def refuse_stranger(found: Attached, link: Message, own: ProgramOwnership) -> NoReturn:
    """Raise OperatorError (EEXIST) about another owner's program: whose it is, and the remedy."""
    refuse_program(found.program_id, int(link["index"]), place_of(found, link), own)


def refuse_program(number: int, ifindex: int, place: Place, own: ProgramOwnership) -> NoReturn:
    """Raise OperatorError (EEXIST) as `refuse_stranger`, about a program at either hook."""
    owner = own.find_owner(number, ifindex)
    raise OperatorError(errno.EEXIST, f"{description(owner, number, place)}: {advice(owner, place)}")


def place_of(found: Attached, link: Message) -> Place:
    """Return where a program is attached, with the endpoint if the link is an agent's for one."""
    marked = marked_by(attribute(link, "IFLA_IFALIAS"))
    return Place(str(attribute(link, "IFLA_IFNAME")), found.mode, marked[1] if marked else "")


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
    """Replace a program by one in another mode, and attach the old one again if that fails: one mode at a time."""
    await _change(netlink, ifindex, DETACHED, old, before)
    try:
        await _change(netlink, ifindex, program, NONE_EXPECTED, mode)
    except OSError:
        await _change(netlink, ifindex, old, NONE_EXPECTED, before)
        raise


async def attach(
    netlink: Netlink, ifindex: int, program: AttachableProgram, own: ProgramOwnership, mode: AttachMode
) -> Attached:
    """Attach the program, or replace an older one of ours by it; return what is then attached.

    Raises OSError: EEXIST if another owner's program is attached, ENODEV if the interface is gone, EIO if the kernel
    shows another program afterwards, and the driver's error with an explanation if the driver refuses.
    """
    link = await _read(netlink, ifindex)
    found = attached_program(link)
    if found is not None and found.program_id == program.program_id and _mode_fits(found, mode):
        return found
    if found is not None and not own.owned(found.program_id):
        refuse_stranger(found, link, own)
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
    """Move a program of ours that runs in another mode to this one; OSError as `attach`.

    With `auto` it is moved into the driver if the driver supports it, and stays in the stack otherwise.
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
    """Attach in the stack, as the driver refused."""
    link = await _read(netlink, ifindex)
    try:
        await _replace(netlink, ifindex, program.descriptor, attached_program(link), own, AttachMode.GENERIC)
    except OSError as error:
        raise refusal(error, link, AttachMode.GENERIC) from error


def refusal(error: OSError, link: Message, mode: AttachMode) -> OSError:
    """Explain a driver's refusal: why, and what to do."""
    if error.errno not in _UNABLE:
        return error
    return OperatorError(error.errno, f"{why_refused(error, link, mode)}. {REMEDY[mode]}")


def why_refused(error: OSError, link: Message, mode: AttachMode) -> str:
    """Name the interface, its driver, the kernel's error, and the MTU with its limit if that may be the cause."""
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
    """Detach our program; return whether there was one. Another owner's program stays: OSError (EEXIST)."""
    link = await _read(netlink, ifindex)
    found = attached_program(link)
    if found is None:
        return False
    if not own.owned(found.program_id):
        refuse_stranger(found, link, own)
    expected = own.open_program(found.program_id)
    try:
        await _change(netlink, ifindex, DETACHED, expected, found.mode)
    finally:
        os.close(expected)
    return True
