"""The host in the substrate: its uplinks as they are, transit XDP on them, and the next hops to its peers.

Owns what follows from the uplinks and from the droplets in force; documents are `agent.applier`'s affair.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from agent.core.actions import AttachTransit, Failure
from agent.core.features import Features
from agent.core.layout import unmapped
from agent.core.next_hops import Peer
from agent.core.peers import peers
from agent.core.remedies import Step
from agent.core.uplinks import Uplink
from agent.core.world import Here, World
from agent.datapath.kernel import Kernel
from agent.datapath.told import in_words
from agent.settings import Settings
from protocol.documents import Droplet

TellPeers = Callable[[World, Mapping[bytes, Peer]], None]
"""Called with the world in force and the peers by packed address."""


class InterfaceReplacedError(RuntimeError):
    """An interface became one that the programs were not compiled for: only a new start can serve it."""


def here_of(settings: Settings, uplinks: Iterable[Uplink], features: Features) -> Here:
    """Return the host as the core sees it: what is attached where is none of its concern."""
    plain = tuple(replace(uplink, transit=False) for uplink in uplinks)
    return Here(settings.host, settings.instance, plain, features)


class Substrate:
    """One agent's uplinks, and what is told to the kernel of them."""

    def __init__(self, settings: Settings, kernel: Kernel, tell: TellPeers) -> None:
        """Tell this host's peers to `tell` whenever they or the uplinks change."""
        self._settings = settings
        self._kernel = kernel
        self._tell = tell
        self._known: Mapping[str, Droplet] | None = None
        self._here: Here | None = None

    async def look(self, before: Here) -> Here:
        """Return the host as it is now.

        An interface of the same name in the place of another one is taken in, as soon as it has an address: OSError
        (EADDRNOTAVAIL) until then, ENODEV while there is none. InterfaceReplacedError: see there.
        """
        found = await self._kernel.uplinks()
        known = {uplink.name: uplink for uplink in before.uplinks}
        for uplink in found:
            old = known[uplink.name]
            if uplink.vlan and not self._kernel.features.vlan_tags:
                raise InterfaceReplacedError(f"interface {uplink.name} is a VLAN now: start the agent again")
            if uplink.ifindex != old.ifindex and not uplink.addresses:
                reason = "the interface was replaced by another of its name, which has no address yet"
                raise OSError(errno.EADDRNOTAVAIL, reason, uplink.name)
        return here_of(self._settings, found, self._kernel.features)

    async def attach_missing(self, world: World) -> list[Failure]:
        """See that transit XDP is on every interface that this host's droplets need; return what was refused."""
        failures: list[Failure] = []
        for carrier in sorted(world.carriers()):
            attach = AttachTransit(carrier)
            try:
                if not self._kernel.is_transit_attached(carrier):
                    failures += await self._kernel.executor.run([attach])
            except OSError as error:
                names = _names(world.here.uplinks, carrier)
                message = in_words(error, Step.ATTACH_PROGRAM, f"transit XDP to interface {names}")
                failures.append(Failure(attach, error.errno or errno.EIO, f"interface {names}", message))
        return failures

    def follow(self, world: World, inherited: Iterable[bytes]) -> None:
        """Have the next hops of all peers followed; `inherited` are droplets (16 bytes) known from before the start."""
        if world.droplets is not self._known or world.here is not self._here:
            self._known, self._here = world.droplets, world.here
            self._tell(world, {unmapped(address): Peer() for address in inherited} | peers(world))

    def forget_inherited(self) -> None:
        """Follow from the next `follow` on only what documents name."""
        self._known = None


def _names(uplinks: Sequence[Uplink], carrier: int) -> str:
    """Name the uplinks that come in on a carrier."""
    return " and ".join(uplink.name for uplink in uplinks if uplink.carrier == carrier)
