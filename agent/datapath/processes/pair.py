"""Veth pairs between the data plane (`near`) and a process's sockets (`far`), in the agent's network namespace.

Ours is a veth with an ifindex from PROCESS_IFINDEX on and the alias `droplet-function/<instance>/<point>/<id>`. Native
XDP runs at both ends; the kernel is made to cut GSO packets and to complete checksums before they reach the process.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from agent.core.plan.remedies import Step
from agent.datapath.attach.tc import TcIngress
from agent.datapath.attach.xdp import XDP_FLAGS_DRV_MODE, AttachableProgram
from agent.datapath.net.ethtool import Interface
from agent.datapath.net.namespaces import open_control_socket
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.errors import kernel_step

PROCESS_IFINDEX = 0x60000000
"""The same in `bpf/constants.h`."""
LONGEST = 3400
"""Bytes of the longest packet for a process, from the Ethernet header on: a frame of it fits into a page at XDP."""
MTU = LONGEST + 48
MOST_PAIRS = 4096
ALIAS = "droplet-function"
NEAR, FAR = "fnn", "fnf"
"""What the names of the ends begin with."""
_IN6_ADDR_GEN_MODE_NONE = 1
_OFF = ("tx-checksum-ip-generic", "tx-generic-segmentation", "tx-scatter-gather", "rx-gro")
"""Offloads that would leave checksums or segments to somebody behind the process."""


class Pair(NamedTuple):
    """One pair, by the ifindexes of its ends."""

    near: int
    far: int


Pairs: TypeAlias = tuple[Pair, ...]
"""The pairs of one process, one for each queue."""


class PairPrograms(NamedTuple):
    """The programs of one pair; `tc` is None where answers continue at XDP."""

    near: AttachableProgram
    far: AttachableProgram
    tc: AttachableProgram | None


def alias_of(instance: str, id_: str, point: int) -> str:
    """Return the alias of the near end of a function's pairs."""
    return f"{ALIAS}/{instance}/{point}/{id_}"


async def make_pair(netlink: Netlink, tc: TcIngress, alias: str, programs: PairPrograms) -> Pair:
    """Make a pair with its programs, and set it up; OSError if the kernel refuses, nothing is left then."""
    with kernel_step(Step.CREATE_PAIR, "a function's pair"):
        pair = await _add(netlink)
    try:
        with kernel_step(Step.ATTACH_PROGRAM, "the programs of a function's pair"):
            await netlink.request("link", "set", index=pair.near, IFLA_IFALIAS=alias)
            await _configure(netlink, pair)
            await _attach(netlink, pair.near, programs.near)
            await _attach(netlink, pair.far, programs.far)
            if programs.tc is not None:
                await tc.attach(pair.near, programs.tc)
            for index in pair:
                await _set_up(netlink, index)
    except BaseException:
        await remove_pair(netlink, pair.near)
        raise
    return pair


async def _add(netlink: Netlink) -> Pair:
    for number in range(MOST_PAIRS):
        near, ends = PROCESS_IFINDEX + number, {"ifname": f"{FAR}{number}", "mtu": MTU}
        try:
            await netlink.request("link", "add", kind="veth", ifname=f"{NEAR}{number}", index=near, mtu=MTU, peer=ends)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY):
                raise
            continue
        far = await netlink.link(ifname=f"{FAR}{number}")
        if far is None:
            raise OSError(errno.EIO, "the kernel does not show the pair that it has just made")
        return Pair(near, int(far["index"]))
    raise OSError(errno.ENOSPC, f"there are {MOST_PAIRS} pairs of functions")


async def _configure(netlink: Netlink, pair: Pair) -> None:
    with open_control_socket() as control:
        for index in pair:
            link = await netlink.link(index=index)
            if link is None:
                raise OSError(errno.ENODEV, "the pair went away while it was being set up")
            interface = Interface(control, str(attribute(link, "IFLA_IFNAME")))
            for name in _OFF:
                with contextlib.suppress(OSError, KeyError):  # those that a kernel does not know
                    interface.change({name: False})


async def _attach(netlink: Netlink, index: int, program: AttachableProgram) -> None:
    attrs = [("IFLA_XDP_FD", program.descriptor), ("IFLA_XDP_FLAGS", XDP_FLAGS_DRV_MODE)]
    await netlink.request("link", "set", index=index, xdp={"attrs": attrs})


async def _set_up(netlink: Netlink, index: int) -> None:
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE)]}
    try:
        await netlink.request("link", "set", index=index, state="up", IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise
        await netlink.request("link", "set", index=index, state="up")


async def remove_pair(netlink: Netlink, near: int) -> None:
    """Remove a pair; its absence is no error."""
    with contextlib.suppress(OSError):
        await netlink.request("link", "del", index=near)


def own_pairs(links: Iterable[Message], instance: str) -> dict[int, str]:
    """Return the aliases of an instance's pairs by the ifindex of the near end."""
    found = {int(link["index"]): str(attribute(link, "IFLA_IFALIAS") or "") for link in links}
    return {
        index: alias
        for index, alias in found.items()
        if index >= PROCESS_IFINDEX and alias.startswith(f"{ALIAS}/{instance}/")
    }


def unfinished_pairs(links: Iterable[Message]) -> list[int]:
    """Return the near ends that have no alias: of an agent that was killed before it could say whose they are.

    One that another instance is making at this moment looks the same; its process then connects again.
    """
    return [
        int(link["index"])
        for link in links
        if int(link["index"]) >= PROCESS_IFINDEX
        and str(attribute(link, "IFLA_IFNAME")).startswith(NEAR)
        and not attribute(link, "IFLA_IFALIAS")
    ]
