"""Attaches the program for frames of endpoints to the host side of their interfaces, at the hook of all endpoints.

A hook is taken over without a gap: the program is attached at the new one first, then detached from the old one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from agent.core.model.hooks import Hook
from agent.datapath.attach.attach_modes import AttachModes, fits
from agent.datapath.attach.tc import Stranger, TcIngress
from agent.datapath.attach.xdp import (
    AttachableProgram,
    ProgramOwnership,
    attach,
    attached_program,
    change_mode,
    detach,
    refuse_stranger,
)
from agent.datapath.net.netlink import Message, Netlink

NONE = "none"


class TransitAgent:
    """The programs of both hooks for endpoints' interfaces, and how they are attached."""

    def __init__(
        self,
        netlink: Netlink,
        tc: TcIngress,
        programs: Mapping[Hook, AttachableProgram],
        own: ProgramOwnership,
        modes: AttachModes,
        hook: Hook,
    ) -> None:
        self.hook = hook
        """The hook of all endpoints of this host."""
        self.seen: dict[int, str] = {}
        """Where a program of ours runs on interfaces of endpoints, by ifindex, as last read or attached: `xdp`, `tcx`,
        `clsact` or `none`."""
        self._netlink = netlink
        self._tc = tc
        self._programs = programs
        self._own = own
        self._modes = modes

    @property
    def belongs_at(self) -> str:
        """How the program of endpoints is to be attached: `xdp`, `tcx` or `clsact`."""
        return self._tc.kind if self.hook is Hook.TC else Hook.XDP

    def tc_strangers(self, ifindex: int) -> list[Stranger]:
        """Return what `TcIngress.strangers` does, where our program belongs to tc; OSError likewise."""
        return self._tc.strangers(ifindex) if self.hook is Hook.TC else []

    def is_right(self, link: Message) -> bool:
        """Return whether the current program, and no other of ours, runs on an interface as it should.

        `link` is the interface's message. At tc no XDP program may be in front of it. What was read is kept in `seen`.
        """
        ifindex = int(link["index"])
        attached, current = attached_program(link), self._programs[self.hook].program_id
        try:
            at_tc = self._tc.own_programs(ifindex)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self.seen.pop(ifindex, None)
            return False
        at_xdp = attached is not None and self._own.owned(attached.program_id)
        self.seen[ifindex] = self._place(at_xdp=at_xdp, at_tc=bool(at_tc))
        if self.hook is Hook.TC:
            return attached is None and at_tc == [current]
        right = attached is not None and attached.program_id == current and fits(attached.mode, self._modes.endpoints)
        return right and not at_tc

    def _place(self, *, at_xdp: bool, at_tc: bool) -> str:
        """Return where our program runs: where it belongs, if it runs at both hooks."""
        if at_tc and (self.hook is Hook.TC or not at_xdp):
            return self._tc.kind
        return Hook.XDP if at_xdp else NONE

    def refuse(self) -> None:
        """Raise OperatorError (EOPNOTSUPP) if the configured mode of XDP cannot work and the program needs it."""
        if self.hook is Hook.XDP:
            self._modes.refuse()

    async def attach(self, link: Message) -> None:
        """Attach the program or replace an older one of ours, and detach ours from the other hook.

        `link` is the interface's message. OSError as `xdp.attach` and `TcIngress.attach`.
        """
        ifindex = int(link["index"])
        if self.hook is Hook.XDP:
            self.refuse()
            await attach(self._netlink, ifindex, self._programs[Hook.XDP], self._own, self._modes.endpoints)
            self.seen[ifindex] = self.belongs_at
            await self._tc.detach(ifindex)
            return
        await self._tc.attach(ifindex, self._programs[Hook.TC])
        self.seen[ifindex] = self.belongs_at
        found = attached_program(link)
        if found is not None and not self._own.owned(found.program_id):
            refuse_stranger(found, link, self._own)
        if found is not None:
            await detach(self._netlink, ifindex, self._own)

    async def change_mode(self, links: Iterable[Message]) -> None:
        """Move the program of XDP, on all these interfaces, to the mode in which it should run; OSError as `attach`."""
        if self.hook is Hook.TC or self._modes.decision.refused:
            return
        for link in links:
            await self._change_mode(int(link["index"]))

    async def _change_mode(self, ifindex: int) -> None:
        program, mode = self._programs[Hook.XDP], self._modes.endpoints
        try:
            await change_mode(self._netlink, ifindex, program, self._own, mode)
        except OSError as error:
            if error.errno != errno.ENODEV:  # it was just removed
                raise
