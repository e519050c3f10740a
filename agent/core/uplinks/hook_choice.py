"""Chooses the hook of endpoints and of uplinks from the settings, the kernel and the devices. Pure.

tc carries GSO packets whole, so it is the choice wherever senders or devices make them: for endpoints, and for uplinks
that hand over several received packets as one. Native XDP is faster where every frame is one packet, as on a NIC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.model.hooks import Hook
from agent.core.uplinks.linux_version import Version

OLDEST_TC: Version = (6, 1)
"""The oldest kernel for which the programs of tc are tested."""
OLDEST_TC_OVER_IPV6: Version = (6, 3)
"""Older kernels keep 40 bytes behind the Ethernet header when a program takes IPv6 headers off, but an ARP reply has 28
(bpf_skb_net_shrink() in net/core/filter.c)."""
GSO_KINDS = frozenset({"bridge", "ipvlan", "macvlan", "macvtap", "netkit", "openvswitch", "tun", "veth"})
"""Kinds of software devices, as `ip -d link` shows them, that hand over GSO packets. A VLAN or a bond does what the
devices beneath it do: `agent.datapath.attach.uplinks`."""
GSO_DRIVERS = frozenset({"virtio_net"})
"""Drivers that hand over GSO packets of the machine's other guests, if they merge (`rx-gro-hw`)."""


class HookSettings(NamedTuple):
    """The settings `endpoint_hook`, `uplink_hook` and `attach_mode`, and whether droplets may have IPv6 addresses."""

    endpoints: str = "auto"
    uplinks: str = "auto"
    attach_mode: str = "auto"
    over_ipv6: bool = True


class HookChoice(NamedTuple):
    """A hook, and why it was chosen."""

    hook: Hook
    reason: str


def has_tc(kernel: Version) -> bool:
    """Return whether the programs of tc run on a kernel."""
    return kernel >= OLDEST_TC


def needs_tc(settings: HookSettings, kernel: Version) -> bool:
    """Return whether programs of tc may be used on this host."""
    return has_tc(kernel) and (settings.endpoints != Hook.XDP or settings.uplinks != Hook.XDP)


def loaded_hooks(settings: HookSettings, kernel: Version) -> tuple[Hook, ...]:
    """Return the hooks whose programs are compiled and loaded."""
    return (Hook.XDP, Hook.TC) if needs_tc(settings, kernel) else (Hook.XDP,)


def endpoint_hook(settings: HookSettings, kernel: Version, gso: Iterable[str] = ()) -> HookChoice:
    """Return the hook of all endpoints of a host; `gso` says of each uplink why its device hands over GSO packets.

    Such a device completes no checksums, as a card does, and XDP at the other end needs complete ones. If it runs XDP
    here although the settings do not ask for that, it may well do so there.
    """
    if settings.endpoints != "auto":
        return HookChoice(Hook(settings.endpoints), f"endpoint_hook is {settings.endpoints}")
    if not has_tc(kernel):
        return HookChoice(Hook.XDP, _too_old(kernel))
    for why in gso:
        choice = uplink_hook(settings, kernel, why)
        if why and settings.uplinks == "auto" and choice.hook is Hook.XDP:
            return HookChoice(Hook.XDP, f"an uplink that completes no checksums runs at XDP: {choice.reason}")
    return HookChoice(Hook.TC, "tc carries GSO packets of endpoints whole")


def uplink_hook(settings: HookSettings, kernel: Version, gso: str) -> HookChoice:
    """Return the hook of one uplink; `gso` says why its device hands over GSO packets, empty if it does not."""
    if settings.uplinks != "auto":
        return HookChoice(Hook(settings.uplinks), f"uplink_hook is {settings.uplinks}")
    if not gso:
        return HookChoice(Hook.XDP, "every frame of the device is one packet")
    if settings.attach_mode != "auto":
        return HookChoice(Hook.XDP, f"attach_mode is {settings.attach_mode}")
    oldest = OLDEST_TC_OVER_IPV6 if settings.over_ipv6 else OLDEST_TC
    if kernel < oldest:
        return HookChoice(Hook.XDP, _too_old(kernel, oldest, " over IPv6" if settings.over_ipv6 else ""))
    return HookChoice(Hook.TC, gso)


def why_gso(kind: str, driver: str, merges: bool) -> str:
    """Return why a device hands over GSO packets, empty if it does not.

    `kind` is that of a software device, empty for others; `merges`: `rx-gro-hw` is on.
    """
    if kind in GSO_KINDS:
        return f"the device is a {kind}, which hands over GSO packets"
    if driver in GSO_DRIVERS and merges:
        return f"driver {driver} hands over GSO packets"
    return ""


def _too_old(kernel: Version, oldest: Version = OLDEST_TC, where: str = "") -> str:
    return f"tc{where} needs Linux {oldest[0]}.{oldest[1]} or newer, this is {kernel[0]}.{kernel[1]}"
