"""The host in the underlay: its uplinks, transit XDP on them, and its peers.

Derives what depends on uplinks and droplets in force; documents belong to the reconciler.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agent.core.model.map_layout import unmapped
from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Peer
from agent.core.nexthop.peers import Droplets, peers
from agent.core.plan.actions import AttachTransit, Failure
from agent.core.plan.remedies import Step
from agent.errors import explain_error
from agent.reconcile.kernel_port import KernelPort
from agent.settings import Settings
from agent.subscription import Observable


class InterfaceReplacedError(RuntimeError):
    """An interface was replaced by one that the programs are not compiled for: the agent has to be restarted."""


def host_state_of(settings: Settings, uplinks: Iterable[Uplink], kernel: KernelPort) -> HostState:
    """Return the host state for the core, which leaves out attached programs."""
    plain = tuple(replace(uplink, transit=False) for uplink in uplinks)
    return HostState(
        *(settings.host, settings.instance, plain, kernel.features),
        endpoint_hook=kernel.endpoint_hook,
        functions=settings.functions.rules(),
    )


class Underlay:
    """One agent's uplinks, and what other parts follow of them."""

    def __init__(
        self, settings: Settings, kernel: KernelPort, found: HostState, inherited: Iterable[bytes] = ()
    ) -> None:
        """Start with the host as it was `found`; `inherited` are droplets (16 bytes) known from an earlier agent."""
        self.found = found
        """The host as last read. The desired state is based on it, plus the addresses that are temporarily lost."""
        self.uplinks = Observable[Sequence[Uplink]]()
        """The uplinks as last read."""
        self.droplets = Observable[Droplets]()
        """This host's droplets and its peers; published when they or the uplinks change."""
        self._settings = settings
        self._kernel = kernel
        self._inherited = frozenset(inherited)
        self._objects: Mapping[str, Mapping[str, object]] | None = None
        self._host_state: HostState | None = None
        self._running: frozenset[int] = frozenset()
        self.uplinks.publish(found.uplinks)

    async def refresh(self, before: HostState) -> HostState:
        """Read the host, store it as `found` and return it; `before` is the host state of the state in force.

        Attached programs follow the mode that the uplinks allow.

        An interface that replaces another one of the same name is accepted once it has an address: OSError with
        EADDRNOTAVAIL until then, with ENODEV while it is missing. InterfaceReplacedError: see there.
        """
        uplinks = await self._kernel.uplinks()
        await self._kernel.follow_modes(uplinks)
        found = host_state_of(self._settings, uplinks, self._kernel)
        self.uplinks.publish(found.uplinks)
        known = {uplink.name: uplink for uplink in before.uplinks}
        for uplink in uplinks:
            old = known[uplink.name]
            if uplink.vlan and not self._kernel.features.vlan_tags:
                raise InterfaceReplacedError(f"interface {uplink.name} is a VLAN now: start the agent again")
            if uplink.ifindex != old.ifindex and not uplink.addresses:
                reason = "the interface was replaced by another of its name, which has no address yet"
                raise OSError(errno.EADDRNOTAVAIL, reason, uplink.name)
        self.found = found
        return found

    async def attach_missing(self, resolved: ResolvedState) -> list[Failure]:
        """Attach transit XDP to every interface that this host's droplets need; return the failures."""
        failures: list[Failure] = []
        for carrier in sorted(resolved.carriers()):
            attach = AttachTransit(carrier)
            try:
                refused = [] if self._kernel.is_transit_attached(carrier) else await self._kernel.executor.run([attach])
                failures += refused
                if not refused:
                    self._running |= {carrier}
            except OSError as error:
                names = _names(resolved.host_state.uplinks, carrier)
                message = explain_error(error, Step.ATTACH_PROGRAM, f"transit XDP to interface {names}")
                failures.append(Failure(attach, error.errno or errno.EIO, f"interface {names}", message))
        return failures

    def detached(self, resolved: ResolvedState) -> list[AttachTransit]:
        """Return what attaches transit XDP again where it ran when it was last looked at, and does not now.

        What could not be attached is not returned again: the resync tries that.
        """
        running = frozenset(carrier for carrier in resolved.carriers() if self._runs(carrier))
        gone, self._running = self._running - running, running
        return [AttachTransit(carrier) for carrier in sorted(gone.intersection(resolved.carriers()))]

    def _runs(self, carrier: int) -> bool:
        try:
            return self._kernel.is_transit_attached(carrier)
        except OSError:  # the interface is gone, which is a change of the uplinks
            return False

    def follow(self, resolved: ResolvedState) -> None:
        """Publish the droplets of the state in force if they, what they serve or the uplinks changed."""
        if resolved.objects is not self._objects or resolved.host_state is not self._host_state:
            self._objects, self._host_state = resolved.objects, resolved.host_state
            inherited = {unmapped(address): Peer() for address in self._inherited}
            self.droplets.publish(Droplets(resolved, inherited | peers(resolved)))

    def forget_inherited(self) -> None:
        """From the next `follow` on, publish only the droplets that documents name."""
        self._inherited = frozenset()
        self._objects = None


def _names(uplinks: Sequence[Uplink], carrier: int) -> str:
    """Return the names of the uplinks that use a carrier."""
    return " and ".join(uplink.name for uplink in uplinks if uplink.carrier == carrier)
