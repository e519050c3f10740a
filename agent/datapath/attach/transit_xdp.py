"""Attaches transit XDP to the carriers at XDP, in the mode that their drivers support, and detaches it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import NoReturn

from agent.core.uplinks.program_owners import Place
from agent.datapath.attach.attach_modes import AttachModes, fits
from agent.datapath.attach.xdp import (
    TAKES_NONE,
    AttachableProgram,
    Attached,
    AttachMode,
    ProgramOwnership,
    attach,
    change_mode,
    detach,
    refusal,
    refuse_program,
)
from agent.datapath.bpf import syscall
from agent.datapath.net.link_query import LinkQuery, LinkXdp
from agent.datapath.net.netlink import Netlink
from agent.errors import OperatorError

Load = Callable[[int], int]
"""Loads the program for offload to a network card (an ifindex), and returns its descriptor."""
Prepare = Callable[[int], None]
"""Prepares an interface for the program; OSError if that fails."""


class TransitXdp:
    """The program for XDP, how it is attached, and what prepares an interface for it."""

    def __init__(
        self,
        netlink: Netlink,
        program: AttachableProgram,
        own: ProgramOwnership,
        modes: AttachModes,
        query: LinkQuery,
        load_for_card: Load,
        prepare: Prepare,
    ) -> None:
        self._netlink = netlink
        self._program = program
        self._own = own
        self._modes = modes
        self._load_for_card = load_for_card
        self._prepare = prepare
        self._ids = {program.program_id}
        self._query = query

    @property
    def ids(self) -> frozenset[int]:
        """The kernel's ids of the current program: the shared one, and those loaded for a card."""
        return frozenset(self._ids)

    def is_attached(self, ifindex: int) -> bool:
        """Return whether the current program runs on an interface in the right mode. OSError (ENODEV): it is gone."""
        found = self._query.xdp(ifindex)
        right = fits(found.mode, self._modes.transit) and not self._modes.decision.refused
        return found.program_id in self._ids and right

    def is_current(self, ifindex: int) -> bool:
        """Return whether the current program runs on an interface, in any mode; OSError (ENODEV) if it is gone."""
        return self._query.xdp(ifindex).program_id in self._ids

    def found_on(self, ifindex: int) -> LinkXdp:
        """Return the program that runs on an interface now, ours or another's; OSError (ENODEV) if it is gone."""
        return self._query.xdp(ifindex)

    def is_ours(self, ifindex: int) -> bool:
        """Return whether a program of ours, of any age, runs on an interface now; OSError (ENODEV) if it is gone."""
        found = self._query.xdp(ifindex).program_id
        return bool(found) and (found in self._ids or self._own.owned(found))

    def of_other_instances(self, ifindex: int) -> list[tuple[int, str]]:
        """Return id and mode of the program of another instance of the agent, if there is one; OSError likewise."""
        found = self._query.xdp(ifindex)
        return [found] if found.program_id and self._own.other_instance(found.program_id) else []

    def refuse(self, ifindex: int, number: int, kind: str) -> NoReturn:
        """Raise OperatorError (EEXIST) about another owner's program on an interface, at either hook."""
        refuse_program(number, ifindex, Place(socket.if_indextoname(ifindex), kind), self._own)

    def mode(self, ifindex: int) -> str:
        """Return how the current program runs on an interface now: an `AttachMode`, or `none` if it does not."""
        try:
            found = self._query.xdp(ifindex)
        except OSError:
            return "none"
        return found.mode if found.program_id in self._ids else "none"

    async def attach(self, ifindex: int) -> Attached:
        """Attach the program or replace an older one of ours; OSError as `xdp.attach`.

        EOPNOTSUPP if the uplinks are known not to support the configured mode. Some drivers report what they support
        only once a program is attached: see `detach_refused`.
        """
        self._modes.refuse()
        self._prepare(ifindex)
        if self._modes.transit is AttachMode.OFFLOAD:
            return await self._attach_to_card(ifindex)
        return await attach(self._netlink, ifindex, self._program, self._own, self._modes.transit)

    async def detach_refused(self, ifindex: int) -> None:
        """Detach the program and raise OperatorError (EOPNOTSUPP) if frames sent in its mode would be lost."""
        try:
            self._modes.refuse()
        except OperatorError:
            await self.detach(ifindex)
            raise

    async def change_mode(self, ifindex: int) -> None:
        """Move the program, where it is attached, to the mode in which it should run; OSError as `xdp.attach`."""
        if self._modes.transit is not AttachMode.OFFLOAD and not self._modes.decision.refused:
            await change_mode(self._netlink, ifindex, self._program, self._own, self._modes.transit)

    async def _attach_to_card(self, ifindex: int) -> Attached:
        """Load the program again for this card, and attach that.

        Its maps are the host's, shared with the transit agent; a card that supports only maps of its own refuses it.
        """
        link = await self._netlink.link(index=ifindex)
        if link is None:
            raise OSError(errno.ENODEV, "no such interface", str(ifindex))
        try:
            descriptor = self._load_for_card(ifindex)
        except syscall.VerifierError as error:
            lines = error.log.strip().splitlines()
            said = f"{os.strerror(error.errno or 0)}: {lines[-1] if lines else TAKES_NONE}"
            raise refusal(OSError(error.errno, said), link, AttachMode.OFFLOAD) from error
        try:
            number = syscall.program_info(descriptor).id
            program = AttachableProgram(descriptor, number, self._program.name)
            attached = await attach(self._netlink, ifindex, program, self._own, AttachMode.OFFLOAD)
        finally:
            os.close(descriptor)
        self._ids.add(number)
        return attached

    async def detach(self, ifindex: int) -> None:
        """Detach our program; absence of the program or of the interface is not an error."""
        try:
            await detach(self._netlink, ifindex, self._own)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    async def detach_own(self, ifindex: int) -> None:
        """Detach our program if it is there; another owner's stays. OSError (ENODEV): the interface is gone."""
        if self.is_ours(ifindex):
            await detach(self._netlink, ifindex, self._own)
