"""Says where programs would run, for `--check`. Changes nothing."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from agent.core.model.hooks import Hook
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.hook_choice import OLDEST_TC, HookSettings, endpoint_hook, has_tc, uplink_hook
from agent.core.uplinks.linux_version import Version, version_of
from agent.datapath.attach.tc import supported_kind
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink


async def hooks_of(config: KernelConfig) -> tuple[bool, str, str]:
    """Return whether the configured hooks work on this host, where programs would run and why, and the remedy.

    OSError (ENODEV) if an interface is gone.
    """
    version = version_of(platform.release())
    if wrong := impossible(config.hooks, version):
        return False, wrong, "set it to auto or xdp"
    async with Netlink() as netlink:
        uplinks = await read_uplinks(netlink, config.interfaces)
    return True, describe_hooks(config.hooks, version, uplinks), ""


def impossible(settings: HookSettings, version: Version) -> str:
    """Return which setting asks for a hook that a kernel does not have; empty if none does."""
    if has_tc(version):
        return ""
    asked = [
        name
        for name, value in (("endpoint_hook", settings.endpoints), ("uplink_hook", settings.uplinks))
        if value == Hook.TC
    ]
    oldest = ".".join(map(str, OLDEST_TC))
    return f"{asked[0]} is tc, which needs Linux {oldest} or newer" if asked else ""


def uses_xdp(config: KernelConfig, *uplinks: Uplink, endpoints: bool = False) -> bool:
    """Return whether a program runs at XDP: on one of some uplinks or, with `endpoints`, on interfaces of endpoints."""
    version = version_of(platform.release())
    choices = [uplink_hook(config.hooks, version, one.gso) for one in uplinks]
    choices += [endpoint_hook(config.hooks, version, [one.gso for one in uplinks])] if endpoints else []
    return any(choice.hook is Hook.XDP for choice in choices)


def describe_hooks(settings: HookSettings, version: Version, uplinks: Sequence[Uplink]) -> str:
    """Return where the programs of endpoints and of each uplink run, and why."""
    choices = [("endpoints", endpoint_hook(settings, version, [one.gso for one in uplinks]))]
    choices += [(one.name, uplink_hook(settings, version, one.gso)) for one in uplinks]
    return "; ".join(f"{name} at {_shown(choice.hook)}: {choice.reason}" for name, choice in choices)


def _shown(hook: Hook) -> str:
    return supported_kind() if hook is Hook.TC else hook
