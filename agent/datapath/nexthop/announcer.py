"""Announces this host's droplets to their neighbours, at the start and when they move.

A droplet moves when its address, its interface or the interface's Ethernet address changes. Without an announcement,
neighbours would send to the old place until their kernels resolve the address again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from agent.core.model.resolved_state import ResolvedState
from agent.core.nexthop.neighbour_frames import announcement
from agent.core.uplinks.announcements import AnnouncedAddress, AnnouncementSchedule, announced_addresses
from agent.datapath.attach.uplinks import confirmed_addresses
from agent.datapath.net.netlink import Netlink
from agent.datapath.nexthop.frame_sender import FrameSender
from agent.telemetry.loop_errors import LoopErrors

log = structlog.get_logger()


class Announcer:
    """One host's announcements. `follow` may be called before `run`."""

    def __init__(self, loop_errors: LoopErrors) -> None:
        self._loop_errors = loop_errors
        self._schedule = AnnouncementSchedule()
        self._woken = asyncio.Event()
        self._sender = FrameSender()

    def follow(self, resolved: ResolvedState) -> None:
        """Record where this host's droplets are."""
        if self._schedule.follow(announced_addresses(resolved)):
            self._woken.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        with contextlib.closing(self._sender):
            async with Netlink() as netlink:
                while True:
                    await self._sleep()
                    try:
                        for place in self._schedule.due(time.monotonic()):
                            await self._announce(netlink, place)
                    except Exception as error:
                        self._loop_errors.failed("announcer", error)
                    else:
                        self._loop_errors.passed("announcer")

    async def _sleep(self) -> None:
        """Wait until an announcement is due."""
        at = self._schedule.wake_at()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                await self._woken.wait()
        self._woken.clear()

    async def _announce(self, netlink: Netlink, place: AnnouncedAddress) -> None:
        """Announce an address, unless the interface or the address is gone: the next `follow` records that.

        An address under duplicate address detection is announced only once that has passed (RFC 4862, 5.4).
        """
        try:
            there = place.address in await confirmed_addresses(netlink, place.ifindex)
            sent = there and self._sender.send(place.interface, announcement(place.mac, place.address))
        except OSError as error:
            log.debug("announcement_not_sent", interface=place.interface, reason=str(error))
            sent = False
        if not sent:
            self._schedule.postponed(place)
