"""Has the kernel merge tunnel packets before the programs at tc see them, on hosts whose cards do not.

The kernel merges TCP in tunnel packets (GRO) only on UDP ports that a tunnel device has opened (udp_gro_receive in
net/ipv4/udp_offload.c). So an uplink at tc whose device hands over single packets gets such a device, one for each port
of the host: with external metadata it carries nothing, and drops what reaches it. Where another owner's device has the
port, as that of Open vSwitch, the kernel merges for that one.

A device with external metadata would hand whatever a sender puts into a tunnel to the host's own stack: its socket has
the port on all of the host's addresses. So an XDP program, attached before it is set up, drops all that it receives.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Mapping
from struct import pack

import structlog
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from agent.core.faults.log_once import LogOnce
from agent.core.model.features import Features
from agent.datapath.attach.xdp import AttachableProgram, AttachMode, ProgramOwnership, attach, attached_program
from agent.datapath.bpf import syscall as bpf
from agent.datapath.net.netlink import Message, Netlink, attribute

NAME = "dpgro{}"
"""Names of the devices, by UDP port."""
DROP_NAME = "droplet_drop"
_DROP = pack("=BBhi", 0xB7, 0, 0, 1) + pack("=BBhi", 0x95, 0, 0, 0)
"""r0 = XDP_DROP; exit (struct bpf_insn of linux/bpf.h)."""
_UNABLE = (errno.EOPNOTSUPP, errno.EINVAL)

log = structlog.get_logger()


def mark_of(instance: str) -> str:
    """Return the alias of an instance's devices."""
    return f"droplet-gro/{instance}"


class TunnelGro:
    """The devices of one instance, in the namespace of its netlink socket."""

    def __init__(self, netlink: Netlink, instance: str, features: Features) -> None:
        self._netlink = netlink
        self._instance = instance
        self._mark = mark_of(instance)
        self._kinds = kinds(features)
        self._refused = set[int]()
        self._reasons = LogOnce()

    async def remove_others(self, links: Iterable[Message]) -> None:
        """Remove devices of ours among links that belong to ports of former settings."""
        await remove_devices(self._netlink, links, self._instance, [NAME.format(port) for port in self._kinds])

    async def ensure(self, wanted: bool) -> None:
        """Make the devices that are missing, or remove them. What the kernel refuses is logged.

        A port that another owner's device has is tried again by the next call, other refusals are not.
        """
        for port, names in self._kinds.items():
            if wanted and port in self._refused:
                continue
            try:
                await self._ensure(port, names, wanted)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    self._refused.add(port)
                if self._reasons.is_new(port, error.strerror or ""):
                    log.info("tunnel_gro_not_enabled", port=port, reason=error.strerror)
            else:
                self._reasons.clear(port)

    async def _ensure(self, port: int, names: Iterable[str], wanted: bool) -> None:
        link = await self._netlink.link(ifname=NAME.format(port))
        ours = link is not None and attribute(link, "IFLA_IFALIAS") == self._mark
        if wanted and link is None:
            await self._make(port, names)
        elif wanted and link is not None and ours and not (link["flags"] & IFF_UP and attached_program(link)):
            await self._set_up(link)
        elif not wanted and link is not None and ours:
            await _delete(self._netlink, link)

    async def _make(self, port: int, names: Iterable[str]) -> None:
        """Make a device of the first kind that the kernel knows; OSError if it knows none, or the port is taken."""
        *others, last = names
        for kind in others:
            try:
                await self._make_one(port, kind)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise
            else:
                log.info("tunnel_gro_enabled", port=port, kind=kind)
                return
        await self._make_one(port, last)
        log.info("tunnel_gro_enabled", port=port, kind=last)

    async def _make_one(self, port: int, kind: str) -> None:
        name = NAME.format(port)
        options = {f"{kind}_port": port, f"{kind}_collect_metadata": True}
        await self._netlink.request("link", "add", ifname=name, kind=kind, **options)
        link = await self._netlink.link(ifname=name)
        if link is None:
            raise OSError(errno.EIO, "the kernel does not show the device that it has just made", name)
        try:
            await self._netlink.request("link", "set", index=link["index"], ifalias=self._mark)
        except OSError:
            await _delete(self._netlink, link)
            raise
        await self._set_up(link)

    async def _set_up(self, link: Message) -> None:
        """Have a device drop all that it receives, then set it up; OSError, and no device, if one of them fails."""
        try:
            if attached_program(link) is None:
                await _drop_all(self._netlink, link)
            await self._netlink.request("link", "set", index=link["index"], state="up")
        except OSError:
            await _delete(self._netlink, link)
            raise


async def _drop_all(netlink: Netlink, link: Message) -> None:
    program = bpf.load_program(_DROP, name=DROP_NAME)
    try:
        drop = AttachableProgram(program, bpf.program_info(program).id, DROP_NAME)
        nobodys = ProgramOwnership(lambda _: False, bpf.program_by_id)
        await attach(netlink, int(link["index"]), drop, nobodys, AttachMode.GENERIC)
    finally:
        os.close(program)


def kinds(features: Features) -> Mapping[int, tuple[str, ...]]:
    """Return the kinds of device that merge packets of each UDP port, the best first.

    A VXLAN device merges Geneve packets without options, too: both headers have the VNI in the same place, and
    vxlan_gro_receive() compares the rest.
    """
    found: dict[int, tuple[str, ...]] = {features.geneve_port: ("geneve", "vxlan")}
    if features.vxlan_port:
        found[features.vxlan_port] = ("vxlan",)
    return found


async def remove_devices(netlink: Netlink, links: Iterable[Message], instance: str, kept: Collection[str] = ()) -> int:
    """Remove an instance's devices among links, except those with the `kept` names; return how many there were."""
    unwanted = [
        link
        for link in links
        if attribute(link, "IFLA_IFALIAS") == mark_of(instance) and attribute(link, "IFLA_IFNAME") not in kept
    ]
    for link in unwanted:
        await _delete(netlink, link)
    return len(unwanted)


async def _delete(netlink: Netlink, link: Message) -> None:
    try:
        await netlink.request("link", "del", index=link["index"])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
