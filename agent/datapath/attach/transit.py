"""Attaches transit XDP to the carriers, detaches it, and verifies which maps it uses."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection

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
)
from agent.datapath.bpf import syscall
from agent.datapath.bpf.marks import read_mark
from agent.datapath.net.link_query import LinkQuery, LinkXdp
from agent.datapath.net.netlink import Netlink
from agent.errors import OperatorError

Load = Callable[[int], int]
"""Loads the program for offload to a network card (an ifindex), and returns its descriptor."""
Prepare = Callable[[int], None]
"""Prepares an interface for the program; OSError if that fails."""


class Transit:
    """The program for the carriers, how it is attached, and the ids of the maps that it must use."""

    def __init__(
        self,
        netlink: Netlink,
        program: AttachableProgram,
        own: ProgramOwnership,
        modes: AttachModes,
        map_ids: Collection[int],
        load_for_card: Load,
        prepare: Prepare,
    ) -> None:
        self._netlink = netlink
        self._program = program
        self._own = own
        self._modes = modes
        self._map_ids = frozenset(map_ids)
        self._load_for_card = load_for_card
        self._prepare = prepare
        self._ids = {program.program_id}
        self._query = LinkQuery()

    @property
    def ids(self) -> frozenset[int]:
        """The kernel's ids of the current program: the shared one, and those loaded for a card."""
        return frozenset(self._ids)

    def close(self) -> None:
        """Close the socket; the program stays attached."""
        self._query.close()

    def is_attached(self, ifindex: int) -> bool:
        """Return whether the current program runs on an interface in the right mode. OSError (ENODEV): it is gone."""
        found = self._query.xdp(ifindex)
        right = fits(found.mode, self._modes.transit) and not self._modes.decision.refused
        return found.program_id in self._ids and right

    def is_outdated(self, ifindex: int) -> bool:
        """Return whether an older program of ours runs on an interface now; OSError (ENODEV) if it is gone."""
        found = self._query.xdp(ifindex).program_id
        return bool(found) and found not in self._ids and self._own.owned(found)

    def found_on(self, ifindex: int) -> LinkXdp:
        """Return the program that runs on an interface now, ours or another's; OSError (ENODEV) if it is gone."""
        return self._query.xdp(ifindex)

    def mode(self, ifindex: int) -> str:
        """Return how the current program runs on an interface now: an `AttachMode`, or `none` if it does not."""
        try:
            found = self._query.xdp(ifindex)
        except OSError:
            return "none"
        return found.mode if found.program_id in self._ids else "none"

    async def attach(self, ifindex: int) -> Attached:
        """Attach the program or replace an older one of ours; OSError as `xdp.attach`, EIO when it uses other maps.

        EOPNOTSUPP if the uplinks are known not to support the configured mode. Some drivers report what they support
        only once a program is attached: see `detach_refused`.
        """
        self._modes.refuse()
        self._prepare(ifindex)
        if self._modes.transit is AttachMode.OFFLOAD:
            attached = await self._attach_to_card(ifindex)
        else:
            attached = await attach(self._netlink, ifindex, self._program, self._own, self._modes.transit)
        if not uses_only(self._program.descriptor, self._map_ids):
            raise OSError(errno.EIO, f"{self._program.name} works on maps that are not the pinned ones")
        return attached

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


def uses_only(program: int, map_ids: Collection[int]) -> bool:
    """Return whether a program uses maps, and only those with the given ids, so that it sees entries written there.

    Its mark does not count.
    """
    info = syscall.program_info(program)
    marked = read_mark(info)
    used = set(info.map_ids) - ({marked[0]} if marked else set())
    return bool(used) and used <= set(map_ids)
