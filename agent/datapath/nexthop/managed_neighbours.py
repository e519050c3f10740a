"""Makes the kernel keep next hops resolved, as neighbours that carry our mark.

Next hops are independent: one that the kernel refuses is remembered with its errno and requested again after the next
`look`. Reads nothing by itself, and does not decide what the map `next_hops` holds.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections.abc import Collection, Iterable

import structlog
from pyroute2.netlink.rtnl.ndmsg import NTF_USE, NUD_NONE

from agent.core.nexthop.next_hops import Hop
from agent.datapath.net.netlink import Message, Netlink, attribute
from protocol.addresses import format_address

NTF_EXT_MANAGED = 1
PROTOCOL = 0xD7
"""NDA_PROTOCOL of the neighbours that we ask for: our mark on them, free in rtnetlink.h's RTPROT numbers."""
_GONE = (errno.ENOENT, errno.ENODEV)
_NOT_MANAGED = (errno.EINVAL, errno.EOPNOTSUPP)
"""The errnos with which a kernel before 5.16 refuses the flag, and any kernel a neighbour that it cannot keep."""

log = structlog.get_logger()


def managed_by_us(message: Message) -> Hop | None:
    """Return a neighbour that carries our mark and that the kernel keeps resolved for us."""
    managed = (attribute(message, "NDA_FLAGS_EXT") or 0) & NTF_EXT_MANAGED
    address = attribute(message, "NDA_DST")
    if not managed or attribute(message, "NDA_PROTOCOL") != PROTOCOL or address is None:
        return None
    return Hop(ipaddress.ip_address(address).packed, int(message["ifindex"]))


async def release_all(netlink: Netlink, ifindex: int) -> None:
    """Remove the neighbours that carry our mark: for taking the agent off a host."""
    for message in await netlink.dump("neigh", "dump", ifindex=ifindex):
        hop = managed_by_us(message)
        if hop is not None:
            with contextlib.suppress(FileNotFoundError):
                await netlink.request("neigh", "del", dst=format_address(hop.address), ifindex=ifindex)


class ManagedNeighbours:
    """The next hops that the kernel keeps resolved for one agent."""

    def __init__(self) -> None:
        self.managed = True
        """Whether the kernel supports managed neighbours; if not, resolution is requested again periodically."""
        self.refused: dict[Hop, int] = {}
        """The next hops that the kernel refused since the last look, with its errno."""
        self._requested: set[Hop] = set()
        self.not_released: dict[Hop, int] = {}
        """The next hops that the kernel refused to delete since the last look, with its errno."""

    def read(self, messages: Iterable[Message]) -> None:
        """Replace the known neighbours by all that exist now. Refused ones are retried."""
        self._requested = {hop for hop in map(managed_by_us, messages) if hop is not None}
        self.refused.clear()
        self.not_released.clear()

    def removed(self, hop: Hop) -> None:
        """Record that a neighbour was removed."""
        self._requested.discard(hop)

    def forget(self, ifindex: int) -> None:
        """Request all next hops on an interface again, since it changed."""
        self._requested = {hop for hop in self._requested if hop.ifindex != ifindex}
        self.refused = {hop: number for hop, number in self.refused.items() if hop.ifindex != ifindex}

    async def update(self, requests: Netlink, wanted: Collection[Hop], configured: Collection[Hop]) -> None:
        """Request wanted next hops and release others; `configured` are an operator's, which are left alone."""
        for removed in self.refused.keys() - set(wanted):
            del self.refused[removed]
        for hop in sorted(set(wanted) - self._requested - self.refused.keys()):
            try:
                await self._ask(requests, hop)
            except OSError as error:
                self.refused[hop] = error.errno or errno.EIO
            else:
                self._requested.add(hop)
        for hop in sorted(self._requested.difference(wanted)):
            self._requested.discard(hop)
            if self.managed and hop not in configured:
                await self._release(requests, hop)

    async def _ask(self, requests: Netlink, hop: Hop) -> None:
        options = _options(hop)
        if not self.managed:
            await requests.request("neigh", "replace", **options)
            return
        try:
            await requests.request("neigh", "replace", flags_ext=NTF_EXT_MANAGED, **options)
        except OSError as error:
            if error.errno not in _NOT_MANAGED:
                raise
            await requests.request("neigh", "replace", **options)
            log.info("no_managed_neighbours", detail="this kernel is asked again every few seconds")
            self.managed = False

    async def _release(self, requests: Netlink, hop: Hop) -> None:
        try:
            await requests.request("neigh", "change", **_options(hop))
        except OSError as error:
            if error.errno not in _GONE:
                self.not_released[hop] = error.errno or errno.EIO


def _options(hop: Hop) -> dict[str, object]:
    options = {"dst": format_address(hop.address), "ifindex": hop.ifindex, "state": NUD_NONE, "flags": NTF_USE}
    return options | {"protocol": PROTOCOL}
