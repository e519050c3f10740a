"""Attaches the program for frames from the underlay to the carriers, each at the hook that it needs.

A hook is taken over without a gap: the program is attached at the new one first, then detached from the old one.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping

from agent.core.model.hooks import Hook
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.hook_choice import HookChoice, HookSettings, uplink_hook
from agent.datapath.attach.tc import Stranger, TcIngress
from agent.datapath.attach.transit_xdp import TransitXdp
from agent.datapath.attach.xdp import AttachableProgram
from agent.datapath.bpf import syscall
from agent.datapath.bpf.marks import read_mark
from agent.datapath.net.link_query import LinkXdp

NONE = "none"
NO_PROGRAM = LinkXdp(0, NONE)


class Transit:
    """The programs of both hooks for the carriers, and the ids of the maps that they must use."""

    def __init__(
        self,
        xdp: TransitXdp,
        tc: TcIngress,
        programs: Mapping[Hook, AttachableProgram],
        map_ids: Collection[int],
        settings: HookSettings,
        kernel: tuple[int, int],
    ) -> None:
        self.xdp = xdp
        self._tc = tc
        self._programs = programs
        self._map_ids = frozenset(map_ids)
        self._settings = settings
        self._kernel = kernel
        self._choices: dict[int, HookChoice] = {}
        self._former: dict[int, HookChoice] = {}

    def take(self, uplinks: Iterable[Uplink]) -> None:
        """Choose the hook of each carrier, from the uplinks as last read.

        Interfaces that were carriers before keep their hook: until another interface has taken over, documents may
        still need the program there.
        """
        self._former |= self._choices
        self._choices = {one.carrier: uplink_hook(self._settings, self._kernel, one.gso) for one in uplinks}

    @property
    def needs_gro(self) -> bool:
        """Whether the kernel should merge tunnel packets before the program: where the settings put uplinks at tc.

        Not where the agent chose tc: such devices may hand over merged packets, and another owner may need the ports.
        """
        return self._settings.uplinks == Hook.TC and bool(self._choices)

    @property
    def uses_xdp(self) -> bool:
        """Whether the program belongs to XDP on any carrier."""
        return any(choice.hook is Hook.XDP for choice in self._choices.values())

    @property
    def ids(self) -> frozenset[int]:
        """The kernel's ids of the current programs."""
        return self.xdp.ids | {one.program_id for one in self._programs.values()}

    def hook_of(self, ifindex: int) -> Hook:
        """Return the hook at which the program belongs."""
        choice = self._choices.get(ifindex) or self._former.get(ifindex)
        return choice.hook if choice is not None else Hook.XDP

    def is_current(self, ifindex: int) -> bool:
        """Return whether the current program runs on an interface at the right hook, and none of ours at the other one.

        OSError (ENODEV): it is gone.
        """
        at_tc = self._tc.own_programs(ifindex)
        if self.hook_of(ifindex) is Hook.XDP:
            return self.xdp.is_current(ifindex) and not at_tc
        return at_tc == [self._programs[Hook.TC].program_id] and not self.xdp.is_ours(ifindex)

    def is_attached(self, ifindex: int) -> bool:
        """Return whether the current program runs as `is_current`, and in the right mode; OSError likewise."""
        right_mode = self.hook_of(ifindex) is Hook.TC or self.xdp.is_attached(ifindex)
        return right_mode and self.is_current(ifindex)

    def is_outdated(self, ifindex: int) -> bool:
        """Return whether an older program of ours runs on an interface now; OSError (ENODEV) if it is gone."""
        own = {*self._tc.own_programs(ifindex)}
        if self.xdp.is_ours(ifindex):
            own.add(self.xdp.found_on(ifindex).program_id)
        return bool(own - self.ids)

    def found_on(self, ifindex: int) -> LinkXdp:
        """Return the XDP program in the place of ours, whosever it is: none where ours belongs to tc.

        OSError (ENODEV): the interface is gone.
        """
        return NO_PROGRAM if self.hook_of(ifindex) is Hook.TC else self.xdp.found_on(ifindex)

    def strangers(self, ifindex: int) -> list[Stranger]:
        """Return other owners' programs in the way of ours, but not the one that `found_on` returns.

        At tc these are what `TcIngress.strangers` returns. Programs of other instances are in the way at both
        hooks: they handle the same frames. OSError (ENODEV): the interface is gone.
        """
        at_tc = self.hook_of(ifindex) is Hook.TC
        found = self._tc.strangers(ifindex) if at_tc else []
        others = [] if self._has_own(ifindex) else self._tc.of_other_instances(ifindex)
        others += self.xdp.of_other_instances(ifindex) if at_tc else []
        return found + [Stranger(number, kind, in_front=False) for number, kind in others]

    def _has_own(self, ifindex: int) -> bool:
        return bool(self._tc.own_programs(ifindex)) or self.xdp.is_ours(ifindex)

    def _refuse_other_instances(self, ifindex: int) -> None:
        """Raise OperatorError (EEXIST) if an interface is another instance's: it got there first."""
        if self._has_own(ifindex):
            return
        for number, kind in (*self.xdp.of_other_instances(ifindex), *self._tc.of_other_instances(ifindex)):
            self.xdp.refuse(ifindex, number, kind)

    def mode(self, ifindex: int) -> str:
        """Return how the current program of XDP runs on an interface now: an `AttachMode`, or `none`."""
        return self.xdp.mode(ifindex)

    def hook(self, ifindex: int) -> str:
        """Return at which hook a current program runs on an interface now: `xdp`, `tcx`, `clsact` or `none`."""
        try:
            if self.xdp.mode(ifindex) != NONE:
                return Hook.XDP
            return self._tc.kind if self.ids.intersection(self._tc.programs(ifindex)) else NONE
        except OSError:
            return NONE

    async def attach(self, ifindex: int) -> str:
        """Attach the program, replace an older one of ours, and detach ours from the other hook; return hook and mode.

        OSError as `xdp.attach` and `TcIngress.attach`, EEXIST if another instance's program is at either hook, EIO if
        the program uses other maps.
        """
        self._refuse_other_instances(ifindex)
        if self.hook_of(ifindex) is Hook.TC:
            await self._tc.attach(ifindex, self._programs[Hook.TC])
            await self.xdp.detach_own(ifindex)
            found = str(self._tc.kind)
        else:
            attached = await self.xdp.attach(ifindex)
            await self._tc.detach(ifindex)
            found = f"{Hook.XDP}, {attached.mode}"
        program = self._programs[self.hook_of(ifindex)]
        if not uses_only(program.descriptor, self._map_ids):
            raise OSError(errno.EIO, f"{program.name} works on maps that are not the pinned ones")
        return found

    async def detach_refused(self, ifindex: int) -> None:
        """Detach the program and raise OperatorError (EOPNOTSUPP) if frames sent in its mode would be lost."""
        if self.hook_of(ifindex) is Hook.XDP:
            await self.xdp.detach_refused(ifindex)

    async def change_mode(self, ifindex: int) -> None:
        """Move the program, where it is at XDP, to the mode in which it should run; OSError as `xdp.attach`."""
        if self.hook_of(ifindex) is Hook.XDP:
            await self.xdp.change_mode(ifindex)

    async def detach(self, ifindex: int) -> None:
        """Detach our programs from both hooks; absence of the program or of the interface is not an error."""
        try:
            await self._tc.detach(ifindex)
            if self.hook_of(ifindex) is Hook.TC:
                await self.xdp.detach_own(ifindex)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        if self.hook_of(ifindex) is Hook.XDP:
            await self.xdp.detach(ifindex)


def uses_only(program: int, map_ids: Collection[int]) -> bool:
    """Return whether a program uses maps, and only those with the given ids, so that it sees entries written there.

    Its mark does not count.
    """
    info = syscall.program_info(program)
    marked = read_mark(info)
    used = set(info.map_ids) - ({marked[0]} if marked else set())
    return bool(used) and used <= set(map_ids)
