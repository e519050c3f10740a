"""Solicits next hops on a link, whatever the kernel's entries say; the kernel processes the answers.

A question to everybody on the link (an ARP request by broadcast, a multicast neighbour solicitation) finds a neighbour
whose Ethernet address changed without a word, which the kernel's own first questions to the old address do not. The
neighbour's state stays as it is until an answer comes (net/ipv4/arp.c: arp_process, net/ipv6/ndisc.c: ndisc_recv_na),
so that nothing is lost where nobody answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from agent.core.nexthop.neighbour_frames import solicitation
from agent.core.probe.next_hop_checks import Solicitation, SolicitationLimit
from agent.datapath.attach.uplinks import confirmed_addresses
from agent.datapath.net.netlink import Netlink
from agent.datapath.nexthop.frame_sender import FrameSender

log = structlog.get_logger()


class NeighbourSolicitor:
    """Asks for next hops, no more often than `SolicitationLimit` allows."""

    def __init__(self) -> None:
        self._sender = FrameSender()
        self._limit = SolicitationLimit()

    async def send(self, requests: Netlink, asked: Iterable[Solicitation]) -> None:
        """Send the requests. One that cannot be sent is left out: the path's next missed probe asks again."""
        for one in asked:
            if not self._limit.allows(one.hop, time.monotonic()):
                continue
            try:
                source = one.source or await _source(requests, one)
                if source is not None:
                    self._sender.send(one.uplink.name, solicitation(one.uplink.mac, source, one.hop.address))
            except OSError as error:
                log.debug("solicitation_not_sent", interface=one.uplink.name, reason=str(error))

    def close(self) -> None:
        """Close the socket."""
        self._sender.close()


async def _source(requests: Netlink, asked: Solicitation) -> bytes | None:
    """Return an address of the uplink of the next hop's family: for an IPv6 router of an IPv4 droplet, link-local."""
    found = await confirmed_addresses(requests, asked.hop.ifindex)
    return next((one for one in sorted(found) if len(one) == len(asked.hop.address)), None)
