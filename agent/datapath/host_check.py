"""Checks whether an agent can run on this host, and changes nothing: `droplet-agent --check`.

Every failed check has a remedy; a passed one may have advice for a large underlay.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import platform
import re
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.core.model.features import Features, family_of
from agent.core.model.map_layout import MAX_LOCAL_DROPLETS
from agent.core.model.overhead import MIN_MTU, uplink_mtu
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.hook_choice import loaded_hooks
from agent.core.uplinks.linux_version import version_of
from agent.core.uplinks.xdp_mode import NATIVE, Device, decide, remedy_of, shows_when_attached
from agent.datapath.attach.attach_modes import read_devices
from agent.datapath.attach.uplinks import kind, read_uplinks, served_by
from agent.datapath.attach.xdp import PAGE_MTU, REMEDY, TAKES_NONE, AttachMode, attached_program, why_refused
from agent.datapath.attach.xdp_features import xdp_features
from agent.datapath.attached_programs import is_ours
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import content_hash, refuse_foreign
from agent.datapath.bpf.lost_frame_counter import SWITCHED_OFF, why_not_counted
from agent.datapath.bpf.pins import is_bpffs
from agent.datapath.foreign_programs import foreign_xdp
from agent.datapath.hook_check import hooks_of, uses_xdp
from agent.datapath.kernel import KernelConfig, with_uplinks
from agent.datapath.net.ethtool import driver_of
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.namespaces import open_control_socket
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.datapath.veth.pairs import marked_endpoint

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
KERNEL_NEEDED = (5, 18)
"""XDP programs that get whole packets from live test frames; managed neighbours came with 5.16."""
NEIGHBOUR_LIMITS = {family: Path(f"/proc/sys/net/{family}/neigh/default/gc_thresh3") for family in ("ipv4", "ipv6")}

SMALLEST_PROGRAM = struct.pack("=BBhiBBhi", 0xB7, 0, 0, bpf.XdpAction.PASS, 0x95, 0, 0, 0)
"""Two instructions: r0 = XDP_PASS; exit."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result: whether it is `ok`, what was found, and the remedy if it is not ok; if `ok`, advice.

    A `warning` does not prevent a start.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    warning: bool = False


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


def _capabilities(_config: KernelConfig) -> CheckResult:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", text, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    # The kernel takes CAP_SYS_ADMIN for CAP_BPF (bpf_token_capable), and older container engines know no CAP_BPF.
    if effective >> CAPABILITIES["CAP_SYS_ADMIN"] & 1:
        effective |= 1 << CAPABILITIES["CAP_BPF"]
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        remedy = f"run as root, or give the service AmbientCapabilities={' '.join(CAPABILITIES)}"
        return CheckResult("capabilities", False, f"missing: {', '.join(missing)}", remedy)
    return CheckResult("capabilities", True, ", ".join(CAPABILITIES))


def _kernel(_config: KernelConfig) -> CheckResult:
    release = platform.release()
    needed = ".".join(map(str, KERNEL_NEEDED))
    ok = version_of(release) >= KERNEL_NEEDED
    return CheckResult("kernel", ok, release, "" if ok else f"install a kernel of version {needed} or newer")


def _bpf(_config: KernelConfig) -> CheckResult:
    """Create the smallest map and close it: the only proof that bpf(2) is not locked down."""
    try:
        os.close(bpf.create_map(bpf.MapType.ARRAY, 4, 4, 1, name="check"))
    except OSError as error:
        remedy = "allow bpf(2): run with the capabilities above, outside a seccomp filter that forbids it"
        return CheckResult("bpf", False, str(error), remedy)
    return CheckResult("bpf", True, "maps can be created")


def _bpf_file_system(config: KernelConfig) -> CheckResult:
    name = "bpf file system"
    if is_bpffs(config.bpffs):
        return CheckResult(name, True, f"mounted at {config.bpffs}")
    kinds = Path("/proc/filesystems").read_text(encoding="ascii").split()
    if "bpf" not in kinds:
        return CheckResult(name, False, "the kernel does not support it", "use a kernel with CONFIG_BPF_SYSCALL")
    parent = next((one for one in (config.bpffs, *config.bpffs.parents) if one.exists()), Path("/"))
    if not os.access(parent, os.W_OK) and not config.bpffs.is_dir():
        return CheckResult(name, False, f"{config.bpffs} cannot be created", f"mount -t bpf bpf {config.bpffs}")
    return CheckResult(name, True, f"not mounted at {config.bpffs}; the agent will mount it")


def _neighbours(config: KernelConfig) -> CheckResult:
    """Check how many neighbours the kernel keeps: one limit for all interfaces of all network namespaces."""
    limits = {}
    for family, path in NEIGHBOUR_LIMITS.items():
        with contextlib.suppress(FileNotFoundError):  # visible in the first network namespace only
            limits[family] = int(path.read_text(encoding="ascii"))
    return neighbour_capacity(limits, config.sizes.droplets)


def neighbour_capacity(limits: Mapping[str, int], droplets: int) -> CheckResult:
    """Return the result about limits by family (`ipv4`, `ipv6`) for a host with a map of this many droplets. Pure."""
    if not limits:
        return CheckResult("neighbours", True, "their limit is not visible in this network namespace")
    detail = ", ".join(f"at most {limit:,} of {family}" for family, limit in limits.items())
    few = [f"net.{family}.neigh.default.gc_thresh3" for family, limit in limits.items() if limit < droplets]
    hint = f"if the host's own subnets have more droplets than that, raise {' and '.join(few)}" if few else ""
    return CheckResult("neighbours", True, detail, hint)


async def _compiler(config: KernelConfig) -> CheckResult:
    """Import bcc in a child process, as the compiler does: the library is too large to load into this one."""
    if all(path.exists() for path in _objects(config)):
        return CheckResult("compiler", True, "not needed: the programs are in the cache")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import bcc; print(bcc.__file__); bcc.BPF",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await child.communicate()
    if child.returncode == 0:
        return CheckResult("compiler", True, out.decode(errors="replace").strip())
    lines = error.decode(errors="replace").strip().splitlines()
    detail = lines[-1] if lines else f"python exited with {child.returncode}"
    remedy = "install the distribution's bcc (Debian: python3-bpfcc) and make it visible to this Python"
    return CheckResult("compiler", False, detail, remedy)


def _objects(config: KernelConfig) -> list[Path]:
    """Return where the compiled programs of all hooks in use are, or will be."""
    hooks = loaded_hooks(config.hooks, version_of(platform.release()))
    return [config.cache / f"{content_hash(features=config.features, hook=hook)}.object" for hook in hooks]


def _headers(config: KernelConfig) -> CheckResult:
    if all(path.exists() for path in _objects(config)):
        return CheckResult("libc headers", True, "not needed: the programs are in the cache")
    architecture = f"/usr/include/{platform.machine()}-linux-gnu"
    wanted = [("/usr/include/linux/bpf.h",), (f"{architecture}/asm/types.h", "/usr/include/asm/types.h")]
    missing = [choices[0] for choices in wanted if not any(Path(one).exists() for one in choices)]
    if missing:
        return CheckResult("libc headers", False, f"missing: {', '.join(missing)}", "install linux-libc-dev")
    return CheckResult("libc headers", True, "the kernel's interface headers are installed")


def _cache(config: KernelConfig) -> CheckResult:
    parent = next(one for one in (config.cache, *config.cache.parents) if one.exists())
    remedy = "set `cache` to a directory that only the agent uses"
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return CheckResult("cache", False, f"{parent} cannot be written", remedy)
    for path in (config.cache, *_objects(config)):
        if path.exists():
            try:
                refuse_foreign(path, path.stat())
            except OSError as error:
                return CheckResult("cache", False, f"{path}: {error.strerror}", remedy)
    return CheckResult("cache", True, str(config.cache))


async def _interface(config: KernelConfig) -> CheckResult:
    async with Netlink() as netlink:
        found = [await _one_interface(netlink, name, config.features) for name in config.interfaces]
        if all(one.ok for one in found):
            uplinks = await read_uplinks(netlink, config.interfaces)
            places = sum(len(uplink.ingress) for uplink in uplinks)
            if places > MAX_LOCAL_DROPLETS:
                remedy = f"name fewer interfaces, or give the bond fewer members: at most {MAX_LOCAL_DROPLETS} in all"
                return CheckResult("interface", False, f"frames would arrive on {places} interfaces", remedy)
    return _together("interface", found)


async def _one_interface(netlink: Netlink, name: str, features: Features) -> CheckResult:
    link = await netlink.link(ifname=name)
    if link is None:
        remedy = "set `interfaces` to the names of the interfaces with underlay addresses (ip -br addr)"
        return CheckResult("interface", False, f"{name} does not exist", remedy)
    try:
        (found,) = await read_uplinks(netlink, [name])
    except OSError as error:
        return CheckResult("interface", False, f"{name}: {error.strerror}", "choose another interface")
    bond = served_by(link, await netlink.links()) if not found.addresses else ""
    if bond:
        return CheckResult("interface", False, f"{name} is a member of {bond}", f"name {bond} in `interfaces`")
    return _fit(found, features)


def min_uplink_mtu(uplink: Uplink, features: Features) -> int:
    """Return the smallest MTU of an uplink that leaves endpoints what their families need, by its best address."""
    least = max(MIN_MTU[family] for family in features.families)
    return min(uplink_mtu(least, family_of(address)) for address in uplink.addresses)


def _fit(found: Uplink, features: Features) -> CheckResult:
    name = found.name
    if len(found.mac) != 6:
        return CheckResult("interface", False, f"{name} is not Ethernet", "choose an Ethernet interface")
    if not found.addresses:
        return CheckResult("interface", False, f"{name} has no address", f"ip addr add ... dev {name}")
    if found.mtu < (least := min_uplink_mtu(found, features)):
        remedy = f"raise its MTU to at least {least}; 1500 or more is usual"
        return CheckResult("interface", False, f"{name} has an MTU of {found.mtu}", remedy)
    vlan = f", VLAN {found.vlan}" if found.vlan else ""
    members = f", {len(found.ingress) - 1} members" if len(found.ingress) > 1 else ""
    detail = (
        f"{name}: {len(found.addresses)} address{'es' * (len(found.addresses) != 1)}, MTU {found.mtu}{vlan}{members}"
    )
    return CheckResult("interface", True, detail)


async def _hooks(config: KernelConfig) -> CheckResult:
    return CheckResult("hooks", *await hooks_of(config))


async def _xdp(config: KernelConfig) -> CheckResult:
    async with Netlink() as netlink:
        return _together("xdp", [await _one_xdp(netlink, config, name) for name in config.interfaces])


async def _one_xdp(netlink: Netlink, config: KernelConfig, name: str) -> CheckResult:
    if await netlink.link(ifname=name) is None:
        return CheckResult("xdp", False, f"{name} does not exist", "see the interface above")
    (uplink,) = await read_uplinks(netlink, [name])
    link = await netlink.link(index=uplink.carrier)
    if link is None:
        return CheckResult("xdp", False, f"the interface below {name} is gone", "see the interface above")
    carrier = str(attribute(link, "IFLA_IFNAME"))
    if not uses_xdp(config, uplink):
        return CheckResult("xdp", True, f"{carrier} does not need it: its programs run at tc")
    if (foreign := foreign_xdp(link, config.pins)) is not None:
        return CheckResult("xdp", False, *foreign)
    attached = attached_program(link)
    if config.attach_mode is AttachMode.OFFLOAD and (refused := _refused_by_card(link)):
        return CheckResult("xdp", False, refused, REMEDY[AttachMode.OFFLOAD])
    found = f"{carrier} is free"
    if attached is not None:
        found = f"{carrier} carries this agent's program {attached.program_id}, {attached.mode}"
    asked = attached is None or (config.attach_mode is AttachMode.NATIVE and not attached.native)
    if asked and config.attach_mode in (AttachMode.NATIVE, AttachMode.AUTO):
        return takes_native(found, link, await _features(link, uplink), config.attach_mode)
    return CheckResult("xdp", True, found)


async def _endpoints(config: KernelConfig) -> CheckResult:
    """Look for programs in the place of the transit agent; a start removes none, and other endpoints work."""
    async with Netlink() as netlink:
        links = [link for link in await netlink.links() if marked_endpoint(link, config.instance) is not None]
    found = [foreign for link in links if (foreign := foreign_xdp(link, config.pins)) is not None]
    if not found:
        detail = f"no other owner's XDP program is on this instance's interfaces for endpoints ({len(links)})"
        return CheckResult("endpoints", True, detail)
    detail = "; ".join(one.description for one in found)
    return CheckResult("endpoints", True, detail, "; ".join(one.advice for one in found), warning=True)


async def _features(link: Message, uplink: Uplink) -> int | None:
    """Return a driver's XDP features, None if unknown: those of a bond without members depend on its members."""
    if kind(link) == "bond" and len(uplink.ingress) == 1:
        return None
    return await xdp_features(uplink.carrier)


def takes_native(found: str, link: Message, features: int | None, mode: AttachMode) -> CheckResult:
    """Return the result about a link for native XDP, which `mode` requires or prefers.

    `found` describes its current state, `features` are its driver's, None if the kernel does not report them. Nothing
    is attached: that would disturb a link in use.
    """
    name, mtu = str(attribute(link, "IFLA_IFNAME")), int(attribute(link, "IFLA_MTU"))
    if features is None:
        detail = f"{found}; whether its driver supports native XDP is known only when the agent attaches"
        return CheckResult("xdp", True, detail)
    with open_control_socket() as control:
        driver = driver_of(control, name)
    if NATIVE & ~features == 0:
        doubt = f"; whether also with an MTU of {mtu} is known only when the agent attaches" if mtu > PAGE_MTU else ""
        return CheckResult("xdp", True, f"{found}, driver {driver} supports native XDP{doubt}")
    if mode is AttachMode.AUTO:
        detail = f"{found}, driver {driver} reports no native XDP; without it, the slower generic mode is used"
        return CheckResult("xdp", True, detail)
    detail = (
        f"{name}: driver {driver} supports no native XDP, or not with the interface's configuration (receive queues)"
    )
    return CheckResult("xdp", False, detail, f"{REMEDY[mode]}, or choose another interface")


async def _redirects(config: KernelConfig) -> CheckResult:
    """Predict the programs' mode from whether the uplinks accept redirected frames. Attaches nothing."""
    query, owned = LinkQuery(), partial(is_ours, pins=config.pins)
    try:
        async with Netlink() as netlink:
            uplinks = await read_uplinks(netlink, config.interfaces)
            if not uses_xdp(config, *uplinks, endpoints=True):
                return CheckResult("redirects", True, "programs will run at tc, which any interface takes frames from")
            devices = await read_devices(netlink, uplinks, query, owned)
    finally:
        query.close()
    return how_programs_run(config.attach_mode, devices)


def how_programs_run(mode: AttachMode, devices: Sequence[Device]) -> CheckResult:
    """Return the result about the interfaces that the uplinks' frames leave by. Pure."""
    decision = decide(mode, devices)
    if decision.refused:
        return CheckResult("redirects", False, decision.refused, remedy_of(decision.refused))
    if decision.generic:
        why = decision.reason or "attach_mode is generic"
        return CheckResult("redirects", True, f"programs will run in generic mode, which is slower: {why}")
    open_question = [device.name for device in devices if shows_when_attached(device)]
    if open_question:
        names = " and ".join(open_question)
        detail = f"programs will run natively if {names} takes redirected frames: known only when the agent attaches"
        return CheckResult("redirects", True, detail)
    return CheckResult("redirects", True, "the uplinks take redirected frames: programs will run natively")


def _losses(config: KernelConfig) -> CheckResult:
    """Check whether frames that the kernel drops after a verdict can be counted; an agent also works without."""
    lacking = why_not_counted() if config.count_lost_frames else SWITCHED_OFF
    if not lacking:
        return CheckResult("losses", True, "frames that the kernel drops after a program's verdict are counted")
    detail = f"frames that the kernel drops after a program's verdict will not be counted: {lacking}"
    return CheckResult("losses", True, detail)


def _refused_by_card(link: Message) -> str:
    """Return why a network card accepts no program, empty if it does: the smallest one is loaded and closed."""
    try:
        os.close(bpf.load_program(SMALLEST_PROGRAM, name="check", device=int(link["index"])))
    except OSError as error:
        plain = OSError(error.errno, f"{os.strerror(error.errno or 0)}: {TAKES_NONE}")
        return why_refused(plain, link, AttachMode.OFFLOAD)
    return ""


def _together(name: str, found: list[CheckResult]) -> CheckResult:
    """Return one result for several interfaces: that of the failed ones, if any."""
    shown = [one for one in found if not one.ok] or found
    remedies = list(dict.fromkeys(one.remedy for one in shown if one.remedy))
    return CheckResult(name, all(one.ok for one in found), "; ".join(one.detail for one in shown), "; ".join(remedies))


async def _with_uplinks(config: KernelConfig) -> KernelConfig:
    """Return the settings with the features that a start would compile, as far as the uplinks can be read."""
    with contextlib.suppress(OSError):
        async with Netlink() as netlink:
            uplinks = await read_uplinks(netlink, config.interfaces)
        return replace(config, features=with_uplinks(config.features, uplinks))
    return config


_HOST_QUESTIONS: dict[str, Callable[[KernelConfig], CheckResult]] = {
    "capabilities": _capabilities,
    "kernel": _kernel,
    "bpf": _bpf,
    "bpf file system": _bpf_file_system,
    "libc headers": _headers,
    "cache": _cache,
    "neighbours": _neighbours,
    "losses": _losses,
}
_OTHER_QUESTIONS: dict[str, Callable[[KernelConfig], Awaitable[CheckResult]]] = {
    "compiler": _compiler,
    "interface": _interface,
    "hooks": _hooks,
    "xdp": _xdp,
    "endpoints": _endpoints,
    "redirects": _redirects,
}
