"""Has all attached programs of one host run in the mode that its uplinks allow, whenever that changes."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from agent.core.faults.log_once import LogOnce
from agent.core.model.uplinks import Uplink
from agent.datapath.attach.attach_modes import AttachModes, read_devices
from agent.datapath.attach.transit import Transit
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Netlink
from agent.datapath.veth.pairs import Links

MOST_TURNS = 3
"""Some drivers say only once they run a program whether they take redirects: what follows may change once more."""

log = structlog.get_logger()


class ModeFollower:
    """Decides by the uplinks as they are, and attaches anew what then runs in the wrong mode."""

    def __init__(self, netlink: Netlink, modes: AttachModes, transit: Transit, links: Links) -> None:
        self._netlink = netlink
        self._modes = modes
        self._transit = transit
        self._links = links
        self._query = LinkQuery()
        self._followed = False
        self._refused = LogOnce()

    def close(self) -> None:
        """Close the socket; all that is attached stays so."""
        self._query.close()

    async def look(self, uplinks: Collection[Uplink]) -> bool:
        """Decide, and change nothing in the kernel; return whether programs are to run in another mode now."""
        changed = self._modes.take(await read_devices(self._netlink, list(uplinks), self._query))
        self._followed = self._followed and not changed
        return changed

    async def follow(self, uplinks: Collection[Uplink]) -> None:
        """Decide, and attach anew what is attached otherwise. What the kernel refuses is tried again by the next call.

        OSError: ENODEV when an uplink is gone.
        """
        for _ in range(MOST_TURNS):
            await self.look(uplinks)
            if self._followed:
                return
            self._followed = await self._reattach({uplink.carrier for uplink in uplinks})

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
