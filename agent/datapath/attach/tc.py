"""Attaches tc programs to the ingress side of interfaces, and never touches another owner's.

By tcx where the kernel has it (Linux 6.6): our program is the first of the hook, and is replaced in place. By a filter
of a clsact qdisc elsewhere, at a priority and handle of our own. Both outlive the process. What is attached is read
back, never assumed.
"""

from __future__ import annotations

import errno
import os
import socket
from enum import StrEnum
from itertools import takewhile
from typing import NamedTuple

from agent.core.uplinks.program_owners import CLSACT, FILTER_HANDLE, FILTER_PRIORITY, TCX, Place
from agent.datapath.attach.xdp import AttachableProgram, ProgramOwnership, refuse_program
from agent.datapath.bpf.links import attach_tcx, detach_tcx, tcx_programs
from agent.datapath.net.link_query import FilterPlace, LinkQuery
from agent.datapath.net.netlink import Netlink
from agent.errors import OperatorError

LOOPBACK = 1
ETH_P_ALL = 3
CLSACT_INGRESS = 0xFFFFFFF2
"""TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) of linux/pkt_sched.h."""
NO_MODULES = (
    "this kernel has no clsact queueing discipline or no BPF classifier: load its modules sch_ingress and cls_bpf, or "
    "set endpoint_hook and uplink_hook to xdp"
)
PLACE = FilterPlace(CLSACT_INGRESS, FILTER_HANDLE, FILTER_PRIORITY << 16 | socket.htons(ETH_P_ALL))


class TcKind(StrEnum):
    """How programs are attached at tc."""

    TCX = TCX
    CLSACT = CLSACT


class Stranger(NamedTuple):
    """Another owner's program in the place of ours or, `in_front`, before it; `handle` is that of its filter.

    `kind` is a `TcKind`, or a mode of XDP.
    """

    program_id: int
    kind: str
    in_front: bool
    handle: int = FILTER_HANDLE


def supported_kind() -> TcKind:
    """Return how programs of tc are attached on this kernel. Every network namespace has the loopback interface."""
    try:
        tcx_programs(LOOPBACK, "ingress")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return TcKind.CLSACT
    return TcKind.TCX


def programs_at(ifindex: int, query: LinkQuery, kind: TcKind) -> list[int]:
    """Return the ids of the programs where ours stands on an interface; OSError (ENODEV) if it is gone."""
    if kind is TcKind.TCX:
        return tcx_programs(ifindex, "ingress")
    found = query.filter_program(ifindex, PLACE)
    return [] if found is None else [found]


class TcIngress:
    """The ingress side of the interfaces of one network namespace, for the programs of one owner."""

    def __init__(self, netlink: Netlink, query: LinkQuery, own: ProgramOwnership, kind: TcKind | None = None) -> None:
        """`kind`: otherwise the one that the kernel supports best."""
        self._netlink = netlink
        self._query = query
        self._own = own
        self.kind = kind or supported_kind()

    def programs(self, ifindex: int) -> list[int]:
        """Return the ids of the programs where ours stands; OSError (ENODEV) if the interface is gone."""
        return programs_at(ifindex, self._query, self.kind)

    def own_programs(self, ifindex: int) -> list[int]:
        """Return those that are ours; OSError as `programs`."""
        return [one for one in self.programs(ifindex) if self._own.owned(one)]

    def strangers(self, ifindex: int) -> list[Stranger]:
        """Return other owners' programs in the place of ours and in front of it.

        They stay: two owners that both insist on the first place would push one another off for ever. OSError as
        `programs`.
        """
        found = self.programs(ifindex)
        if self.kind is TcKind.CLSACT and found and not self._own.owned(found[0]):
            return [Stranger(found[0], self.kind, in_front=False)]
        if not any(map(self._own.owned, found)):
            return []  # ours will be attached in front of them
        if self.kind is TcKind.TCX:
            ahead = takewhile(lambda one: not self._own.owned(one), found)
            return [Stranger(one, self.kind, in_front=True) for one in ahead]
        filters = takewhile(lambda one: one.handle != FILTER_HANDLE, self._query.filters(ifindex, PLACE))
        return [Stranger(one.program_id, self.kind, in_front=True, handle=one.handle) for one in filters]

    def of_other_instances(self, ifindex: int) -> list[tuple[int, str]]:
        """Return id and kind of the programs of other instances of the agent, wherever they stand; OSError likewise."""
        return [(one, self.kind) for one in self.programs(ifindex) if self._own.other_instance(one)]

    async def attach(self, ifindex: int, program: AttachableProgram) -> None:
        """Attach the program, or replace an older one of ours by it.

        Raises OSError: ENODEV if the interface is gone, EEXIST if another owner has a filter with our handle,
        EINVAL if other filters have our priority and another protocol or classifier, EOPNOTSUPP if the kernel has
        no such filters, EIO if it shows no such program afterwards.
        """
        found = self.programs(ifindex)
        if program.program_id not in found:
            if self.kind is TcKind.TCX:
                self._attach_tcx(ifindex, program, self.own_programs(ifindex))
            else:
                await self._attach_filter(ifindex, program, found)
        for older in self.own_programs(ifindex):
            if older != program.program_id:
                self._detach_tcx(ifindex, older)
        if program.program_id not in self.programs(ifindex):
            raise OSError(errno.EIO, f"the kernel does not show {program.name} on the interface after attaching it")

    def _attach_tcx(self, ifindex: int, program: AttachableProgram, older: list[int]) -> None:
        if not older:
            attach_tcx(ifindex, program.descriptor)
            return
        replaced = self._own.open_program(older[0])
        try:
            attach_tcx(ifindex, program.descriptor, replaced)
        finally:
            os.close(replaced)

    async def _attach_filter(self, ifindex: int, program: AttachableProgram, found: list[int]) -> None:
        for number in found:
            if not self._own.owned(number):
                refuse_program(number, ifindex, Place(socket.if_indextoname(ifindex), CLSACT), self._own)
        try:
            if not found:
                await self._ensure_clsact(ifindex)
            await self._write_filter("replace-filter" if found else "add-filter", ifindex, program)
        except OSError as error:
            match error.errno:
                case errno.ENOENT:
                    raise OperatorError(errno.EOPNOTSUPP, NO_MODULES) from error
                case errno.EINVAL:
                    raise OperatorError(errno.EINVAL, _priority_taken(ifindex)) from error
            raise

    async def _write_filter(self, command: str, ifindex: int, program: AttachableProgram) -> None:
        await self._netlink.request(
            *("tc", command, "bpf", ifindex, FILTER_HANDLE),
            fd=program.descriptor,
            name=program.name,
            parent=CLSACT_INGRESS,
            prio=FILTER_PRIORITY,
            protocol=ETH_P_ALL,
            direct_action=True,
        )

    async def _ensure_clsact(self, ifindex: int) -> None:
        """Add the qdisc that holds filters of an interface's ingress side, if there is none."""
        try:
            await self._netlink.request("tc", "add", "clsact", ifindex)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    async def detach(self, ifindex: int) -> bool:
        """Detach our programs; return whether there were any. A clsact qdisc stays: others may have put it there."""
        own = self.own_programs(ifindex)
        for number in own:
            if self.kind is TcKind.TCX:
                self._detach_tcx(ifindex, number)
            else:
                await self._netlink.request(
                    *("tc", "del-filter", "bpf", ifindex, FILTER_HANDLE),
                    parent=CLSACT_INGRESS,
                    prio=FILTER_PRIORITY,
                    protocol=ETH_P_ALL,
                )
        return bool(own)

    def _detach_tcx(self, ifindex: int, number: int) -> None:
        descriptor = self._own.open_program(number)
        try:
            detach_tcx(ifindex, descriptor)
        finally:
            os.close(descriptor)


def _priority_taken(ifindex: int) -> str:
    """Explain that the kernel holds filters of one priority to one protocol and classifier (net/sched/cls_api.c)."""
    name = socket.if_indextoname(ifindex)
    return (
        f"{name} has tc filters with priority {FILTER_PRIORITY} that are of another classifier than bpf, or of another "
        f"protocol than all: give them another priority (tc filter show dev {name} ingress)"
    )
