"""Decides how this host's programs are attached: the configured mode, as far as the uplinks support it.

`agent.core.uplinks.xdp_mode` decides; this module reads from the kernel what the uplinks support, and attaches nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence

import structlog

from agent.core.model.uplinks import Uplink
from agent.core.uplinks.linux_version import version_of
from agent.core.uplinks.xdp_mode import Decision, Device, decide, hint_of, remedy_of
from agent.datapath.attach.uplinks import kind, names_of
from agent.datapath.attach.xdp import AttachMode
from agent.datapath.attach.xdp_features import xdp_features
from agent.datapath.net.ethtool import driver_of
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.namespaces import open_control_socket
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.errors import OperatorError

log = structlog.get_logger()


class AttachModes:
    """The configured attach mode, and the mode that the uplinks support now."""

    def __init__(self, configured: AttachMode) -> None:
        self.configured = configured
        self.decision = Decision()
        self.hints: dict[str, str] = {}
        """Problems of interfaces that may keep frames from other hosts, by interface name."""
        self._decided = False

    def take(self, devices: Iterable[Device]) -> bool:
        """Decide again; return whether programs must run in another mode now."""
        before, first, devices = self.decision, not self._decided, list(devices)
        self.hints = {device.name: hint for device in devices if (hint := hint_of(device))}
        self.decision = decide(self.configured, devices, None if first else before)
        self._decided = True
        if first or (self.decision.generic, self.decision.reason) != (before.generic, before.reason):
            log.info("attach_mode_chosen", mode=self.endpoints, reason=self.decision.reason)
        return first or self.decision.generic != before.generic

    @property
    def transit(self) -> AttachMode:
        """The mode in which to attach transit XDP to uplinks."""
        if self.configured is AttachMode.OFFLOAD:
            return self.configured
        return AttachMode.GENERIC if self.decision.generic else self.configured

    @property
    def endpoints(self) -> AttachMode:
        """The mode in which to attach the transit agent to endpoints' interfaces."""
        mode = self.transit
        if mode is AttachMode.OFFLOAD:
            return AttachMode.GENERIC if self.decision.generic else AttachMode.AUTO
        return mode

    @property
    def running(self) -> str:
        """Return how endpoints' programs run, once that is decided: `native` or `generic`."""
        return AttachMode.GENERIC if self.decision.generic else AttachMode.NATIVE

    def refuse(self) -> None:
        """Raise OperatorError (EOPNOTSUPP) if the configured mode cannot work."""
        if self.decision.refused:
            reason = self.decision.refused
            raise OperatorError(errno.EOPNOTSUPP, f"attach_mode {self.configured}: {reason}; {remedy_of(reason)}")


def fits(found: AttachMode | str, wanted: AttachMode) -> bool:
    """Return whether a program in this mode runs as it should: with `auto` it may have fallen back."""
    return wanted is AttachMode.AUTO or found == wanted


async def read_devices(
    netlink: Netlink, uplinks: Sequence[Uplink], query: LinkQuery, owned: Callable[[int], bool]
) -> list[Device]:
    """Return the interfaces that the uplinks' frames leave by, each once. OSError: ENODEV if one is gone.

    `owned` recognises our programs by id: the mode of another owner's says nothing about how ours can run.
    """
    by_index = {uplink.egress: uplink for uplink in uplinks}
    found = []
    for index, uplink in by_index.items():
        link = await netlink.link(index=index)
        if link is None:
            raise OSError(errno.ENODEV, "no such interface", uplink.name)
        attached = query.xdp(index)
        runs = attached.mode if attached.program_id and owned(attached.program_id) else "none"
        found.append(_device(link, uplink, runs, await xdp_features(index)))
    return found


def _device(link: Message, uplink: Uplink, runs: str, features: int | None) -> Device:
    name, index, what = str(attribute(link, "IFLA_IFNAME")), int(link["index"]), kind(link)
    members = uplink.ingress[1:] if what == "bond" else ()
    with open_control_socket() as control:
        names = names_of(members) if what == "bond" else [name]
        drivers = tuple(dict.fromkeys(driver_of(control, one) for one in names))
    mtu = int(attribute(link, "IFLA_MTU"))
    return Device(name, index, mtu, what, drivers, features, runs, version_of(os.uname().release))
