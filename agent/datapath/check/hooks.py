"""Says where programs would run, for `--check`. Changes nothing."""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.core.model.hooks import Hook
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.hook_choice import (
    OLDEST_TC,
    OLDEST_TC_OVER_IPV6,
    HookChoice,
    HookSettings,
    endpoint_hook,
    has_tc,
    uplink_hook,
)
from agent.core.uplinks.linux_version import Version, version_of
from agent.datapath.attach.tc import NO_MODULES, TcKind, supported_kind
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.check.result import CheckResult
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink

MODULES = ("sch_ingress", "cls_bpf")
"""What clsact filters with programs need, before Linux 6.6."""
LOADED_MODULES = Path("/proc/modules")


async def configured_hooks(config: KernelConfig) -> CheckResult:
    """Check that the configured hooks work on this host, and say where programs would run and why.

    OSError (ENODEV) if an interface is gone.
    """
    version = version_of(platform.release())
    if wrong := impossible(config.hooks, version):
        return CheckResult("hooks", False, wrong, "set it to auto or xdp")
    async with Netlink() as netlink:
        uplinks = await read_uplinks(netlink, config.interfaces)
    choices = hook_choices(config.hooks, version, uplinks)
    if any(choice.hook is Hook.TC for _, choice in choices) and supported_kind() is TcKind.CLSACT:
        missing = missing_modules(module_lists(Path("/lib/modules") / platform.release()))
        if missing:
            return CheckResult("hooks", False, f"this kernel has no {' and no '.join(missing)}", NO_MODULES)
    return CheckResult("hooks", True, _described(choices), drops_short_packets(config.hooks, version))


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


def module_lists(folder: Path, loaded: Path = LOADED_MODULES) -> str | None:
    """Return the kernel's lists of modules, of built-in and loaded ones too; None if they are not visible here."""
    try:
        texts = [(folder / name).read_text(encoding="utf-8") for name in ("modules.dep", "modules.builtin")]
    except OSError:  # in a container, for one
        return None
    with contextlib.suppress(OSError):  # a kernel that loads no modules has no such file
        texts.append(loaded.read_text(encoding="utf-8"))
    return "\n".join(texts)


def missing_modules(lists: str | None) -> list[str]:
    """Return which modules that clsact filters need are in none of the kernel's lists. Pure.

    None if `lists` is None: what the kernel has is unknown then.
    """
    if lists is None:
        return []
    known = set(re.findall(r"(?:^|/)([a-z0-9_]+)(?=\.ko| )", lists, re.MULTILINE))
    return [name for name in MODULES if name not in known]


def drops_short_packets(settings: HookSettings, version: Version) -> str:
    """Return advice where uplinks are at tc by choice and lose short packets over IPv6, empty elsewhere. Pure."""
    if settings.uplinks != Hook.TC or not settings.over_ipv6 or version >= OLDEST_TC_OVER_IPV6:
        return ""
    oldest = ".".join(map(str, OLDEST_TC_OVER_IPV6))
    return (
        f"before Linux {oldest} an uplink at tc drops packets of fewer than 40 bytes that come over IPv6, such as ARP "
        "replies: set uplink_hook to auto or xdp, or data_plane.underlay to IPv4 alone"
    )


def uses_xdp(config: KernelConfig, *uplinks: Uplink, endpoints: bool = False) -> bool:
    """Return whether a program runs at XDP: on one of some uplinks or, with `endpoints`, on interfaces of endpoints."""
    choices = hook_choices(config.hooks, version_of(platform.release()), uplinks)
    return any(choice.hook is Hook.XDP for _, choice in choices[0 if endpoints else 1 :])


def hook_choices(settings: HookSettings, version: Version, uplinks: Sequence[Uplink]) -> list[tuple[str, HookChoice]]:
    """Return the hook of endpoints, then that of each uplink by its name."""
    of_endpoints = endpoint_hook(settings, version, [one.gso for one in uplinks])
    return [("endpoints", of_endpoints), *((one.name, uplink_hook(settings, version, one.gso)) for one in uplinks)]


def _described(choices: Iterable[tuple[str, HookChoice]]) -> str:
    return "; ".join(f"{name} at {_shown(choice.hook)}: {choice.reason}" for name, choice in choices)


def _shown(hook: Hook) -> str:
    return supported_kind() if hook is Hook.TC else hook
