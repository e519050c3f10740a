"""Moves all attached programs of one host to another mode whenever the mode that its uplinks allow changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import structlog

from agent.core.faults.log_once import LogOnce
from agent.core.model.uplinks import Uplink
from agent.datapath.attach.attach_modes import AttachModes, read_devices
from agent.datapath.attach.transit import Transit
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Netlink
from agent.datapath.veth.pairs import Links

MOST_TURNS = 3
"""Some drivers report only with a program attached whether they accept redirects: the mode may change once more."""

log = structlog.get_logger()


class ModeFollower:
    """Decides the mode from the current uplinks, and reattaches programs that run in the wrong one."""

    def __init__(
        self,
        netlink: Netlink,
        modes: AttachModes,
        transit: Transit,
        links: Links,
        owned: Callable[[int], bool],
        uplinks: Sequence[Uplink],
    ) -> None:
        self.uplinks = uplinks
        """The uplinks as last read: the mode depends on them."""
        self._netlink = netlink
        self._modes = modes
        self._transit = transit
        self._links = links
        self._owned = owned
        self._query = LinkQuery()
        self._followed = False
        self._refused = LogOnce()

    def close(self) -> None:
        """Close the socket; all programs stay attached."""
        self._query.close()

    async def look(self) -> bool:
        """Decide, and change nothing in the kernel; return whether programs must run in another mode now."""
        uses_xdp = self._transit.uses_xdp or self._links.use_xdp
        devices = await read_devices(self._netlink, self.uplinks, self._query, self._owned) if uses_xdp else []
        changed = self._modes.take(devices)
        self._followed = self._followed and not changed
        return changed

    async def follow(self) -> None:
        """Decide, and reattach programs in the wrong mode. Refusals of the kernel are retried by the next call.

        OSError: ENODEV when an uplink is gone.
        """
        for _ in range(MOST_TURNS):
            await self.look()
            if self._followed:
                return
            self._followed = await self._reattach({uplink.carrier for uplink in self.uplinks})

    async def _reattach(self, carriers: Collection[int]) -> bool:
        try:
            for carrier in sorted(carriers):
                await self._transit.change_mode(carrier)
            await self._links.change_mode()
        except OSError as error:
            if self._refused.is_new("mode", f"{self._modes.endpoints} {error.strerror}"):
                log.warning("attach_mode_not_changed", mode=self._modes.endpoints, reason=error.strerror)
            return False
        self._refused.clear("mode")
        return True
