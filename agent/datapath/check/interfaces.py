"""Checks of the uplinks and of endpoints' interfaces: addresses, MTU, other owners' programs, and native XDP."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import partial

from agent.core.model.features import Features, family_of
from agent.core.model.map_layout import MAX_LOCAL_DROPLETS
from agent.core.model.overhead import MIN_MTU, uplink_mtu
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.xdp_mode import NATIVE, Device, decide, remedy_of, shows_when_attached
from agent.datapath.attach.attach_modes import read_devices
from agent.datapath.attach.uplinks import kind, read_uplinks, served_by
from agent.datapath.attach.xdp import PAGE_MTU, REMEDY, TAKES_NONE, AttachMode, attached_program, why_refused
from agent.datapath.attach.xdp_features import xdp_features
from agent.datapath.attached_programs import is_ours
from agent.datapath.bpf import syscall as bpf
from agent.datapath.check.hooks import uses_xdp
from agent.datapath.check.result import CheckResult
from agent.datapath.foreign_programs import foreign_instance, foreign_xdp
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.ethtool import driver_of
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.namespaces import open_control_socket
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.datapath.veth.pairs import marked_endpoint

SMALLEST_PROGRAM = struct.pack("=BBhiBBhi", 0xB7, 0, 0, bpf.XdpAction.PASS, 0x95, 0, 0, 0)
"""Two instructions: r0 = XDP_PASS; exit."""


async def interfaces(config: KernelConfig) -> CheckResult:
    """Check that the uplinks exist, with addresses and an MTU that leaves endpoints enough."""
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


async def native_xdp(config: KernelConfig) -> CheckResult:
    """Check that the uplinks are free and take the program in the configured mode, where it runs at XDP."""
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
    if (other := foreign_instance(link, config.pins)) is not None:
        return CheckResult("xdp", False, *other)
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


async def endpoint_interfaces(config: KernelConfig) -> CheckResult:
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


async def redirects(config: KernelConfig) -> CheckResult:
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
