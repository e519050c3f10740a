"""Transit XDP on the droplet's interface: attaches the current program, takes it off, and proves what it works on."""

from __future__ import annotations

import errno
from collections.abc import Collection

import structlog

from agent.datapath import bpf_syscall
from agent.datapath.link_query import LinkQuery
from agent.datapath.netlink import Netlink
from agent.datapath.xdp import Attached, AttachMode, Ownership, Program, attach, detach

log = structlog.get_logger()


class Transit:
    """The program for the droplet's interface, how it is attached, and the ids of the maps that it must work on."""

    def __init__(
        self, netlink: Netlink, program: Program, own: Ownership, mode: AttachMode, map_ids: Collection[int]
    ) -> None:
        self._netlink = netlink
        self._program = program
        self._own = own
        self._mode = mode
        self._map_ids = frozenset(map_ids)
        self._query = LinkQuery()

    def close(self) -> None:
        """Close the socket; the program stays attached."""
        self._query.close()

    def is_attached(self, ifindex: int) -> bool:
        """Say whether the current program is what runs on an interface now. Raises OSError (ENODEV: it is gone)."""
        return self._query.xdp(ifindex).program_id == self._program.program_id

    def mode(self, ifindex: int) -> str:
        """Say how the current program runs on an interface now: `native`, `generic`, or `none` when it does not."""
        try:
            found = self._query.xdp(ifindex)
        except OSError:
            return "none"
        if found.program_id != self._program.program_id:
            return "none"
        return "generic" if found.generic else "native"

    async def attach(self, ifindex: int) -> Attached:
        """Attach the program or replace an older one of ours; OSError as `xdp.attach`, EIO when it uses other maps."""
        attached = await attach(self._netlink, ifindex, self._program, self._own, self._mode)
        if not uses_only(self._program.descriptor, self._map_ids):
            raise OSError(errno.EIO, f"{self._program.name} works on maps that are not the pinned ones")
        log.info("transit_attached", ifindex=ifindex, program=attached.program_id, native=attached.native)
        return attached

    async def detach(self, ifindex: int) -> None:
        """Take our program off; absence of the program or of the interface is no error."""
        try:
            await detach(self._netlink, ifindex, self._own)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def uses_only(program: int, map_ids: Collection[int]) -> bool:
    """Whether a program uses maps, and only those with the given ids: entries written there are what it sees."""
    used = bpf_syscall.program_info(program).map_ids
    return bool(used) and set(used) <= set(map_ids)
