"""Runs all checks of a host, and changes nothing: `droplet-agent --check`.

Every failed check has a remedy; a passed one may have advice for a large underlay.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace

from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.check import interfaces, machine
from agent.datapath.check.hooks import configured_hooks
from agent.datapath.check.result import CheckResult
from agent.datapath.kernel import KernelConfig, with_uplinks
from agent.datapath.net.netlink import Netlink


async def check_host(config: KernelConfig) -> list[CheckResult]:
    """Run all checks; each has exactly one result, in the order in which to fix them."""
    config = await _with_uplinks(config)
    results = []
    for name, question in _HOST_QUESTIONS.items():
        try:
            results.append(question(config))
        except OSError as error:
            results.append(_unanswered(name, error))
    for name, ask in _OTHER_QUESTIONS.items():
        try:
            results.append(await ask(config))
        except OSError as error:
            results.append(_unanswered(name, error))
    return results


def _unanswered(name: str, error: OSError) -> CheckResult:
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return CheckResult(name, False, "not checked: see the interface above", "fix that, then run --check again")
    return CheckResult(name, False, f"the check failed: {error}", "fix the failed checks above, then run --check again")


async def _with_uplinks(config: KernelConfig) -> KernelConfig:
    """Return the settings with the features that a start would compile, as far as the uplinks can be read."""
    with contextlib.suppress(OSError):
        async with Netlink() as netlink:
            uplinks = await read_uplinks(netlink, config.interfaces)
        return replace(config, features=with_uplinks(config.features, uplinks))
    return config


_HOST_QUESTIONS: dict[str, Callable[[KernelConfig], CheckResult]] = {
    "capabilities": machine.capabilities,
    "kernel": machine.kernel_version,
    "bpf": machine.bpf_calls,
    "bpf file system": machine.bpf_file_system,
    "libc headers": machine.libc_headers,
    "cache": machine.cache,
    "neighbours": machine.neighbours,
    "losses": machine.losses,
}
_OTHER_QUESTIONS: dict[str, Callable[[KernelConfig], Awaitable[CheckResult]]] = {
    "compiler": machine.compiler,
    "interface": interfaces.interfaces,
    "hooks": configured_hooks,
    "xdp": interfaces.native_xdp,
    "endpoints": interfaces.endpoint_interfaces,
    "redirects": interfaces.redirects,
}
