"""Decides whether programs may run in native mode: native redirects are lost if the uplink does not accept them. Pure.

An interface accepts redirected frames if its driver has ndo_xdp_xmit and can use it now; the kernel reports that as the
feature NDO_XMIT (Linux 6.3). In generic mode frames leave by the normal transmit path, by any interface. If one uplink
accepts none, all programs of the host run in generic mode, because each of them may redirect to each uplink.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntFlag
from typing import NamedTuple

from agent.core.uplinks.linux_version import Version
from protocol.status import Fault


class XdpFeatures(IntFlag):
    """The members of enum netdev_xdp_act that are used here: Documentation/netlink/specs/netdev.yaml."""

    BASIC = 1 << 0
    REDIRECT = 1 << 1
    NDO_XMIT = 1 << 2


NATIVE = XdpFeatures.BASIC | XdpFeatures.REDIRECT
"""The features that the programs need from a driver."""

SINCE_6_1 = frozenset({"atlantic", "bnxt_en", "hv_netvsc", "mana", "mtk_soc_eth", "sfc_siena"})
"""Those of `KNOWN_DRIVERS` that were added shortly before Linux 6.1, or ran XDP until then without ndo_xdp_xmit."""
KNOWN_DRIVERS = SINCE_6_1 | {
    *("ena", "fsl_dpa", "fsl_dpaa2_eth", "fsl_enetc", "funeth", "i40e", "ice", "igb", "igc", "ixgbe", "mlx5_core"),
    *("mvneta", "mvpp2", "netsec", "qede", "rvu-nicpf", "sfc", "st_gmac", "st_xgmac", "tun", "veth", "vif"),
    "virtio_net",
}
"""Drivers that accept redirected frames whenever they run XDP natively, for kernels that do not report it.

These are the drivers with ndo_xdp_xmit in Linux 6.1 (drivers/net), by their names in ethtool(8); `vif` is xen-netfront.
Left out are bonding, which depends on its members, and cpsw and cpsw-switch, which drop redirected frames shorter than
60 bytes. In 6.1, nicvf, ixgbevf, mlx4_en and nfp run XDP without it; vmxnet3, gve and fec run no XDP. Kernels from 6.3
on report it themselves. A veth accepts redirects as long as its other end has GRO or XDP, which cannot be read from
this end: probes show it.
"""
GivenUp = tuple[int, int]
"""An interface's index and MTU with which the driver was tried and did not accept redirects."""
FAULT_KIND = "redirects_refused"


class Device(NamedTuple):
    """The device by which an uplink's frames leave. `features` is None if the kernel is older than 6.3.

    `runs` is the mode of our transit XDP there: `native`, `generic`, `offload` or `none`. `drivers` holds its driver,
    or those of a bond's members.
    """

    name: str
    ifindex: int
    mtu: int
    kind: str
    drivers: tuple[str, ...]
    features: int | None
    runs: str
    kernel: Version

    @property
    def tried(self) -> GivenUp:
        """The index and MTU with which it was tried."""
        return self.ifindex, self.mtu


class Decision(NamedTuple):
    """The mode of the programs. `reason` says why it is generic; empty if the settings ask for it.

    `refused` says why the configured mode cannot work; `device` is the device that causes it.
    """

    generic: bool = False
    reason: str = ""
    refused: str = ""
    device: str = ""
    given_up: frozenset[GivenUp] = frozenset()

    @property
    def faults(self) -> list[Fault]:
        """Return a fault if the configured mode cannot work."""
        return [Fault(FAULT_KIND, self.device, self.refused, remedy_of(self.refused))] if self.refused else []


def decide(configured: str, devices: Iterable[Device], before: Decision | None = None) -> Decision:
    """Return the mode of the programs, from the attach mode of the settings and the abilities of the uplinks.

    `before` is the current decision, with the reason why programs run in generic mode now.
    """
    if configured == "generic":
        return Decision(generic=True)
    given_up = before.given_up if before else frozenset()
    unable = [(device, why) for device in devices if (why := why_unable(device, given_up, before))]
    given_up = frozenset(device.tried for device, _ in unable if _shows_when_tried(device))
    if not unable:
        return Decision(given_up=given_up)
    first, why = unable[0]
    if configured == "native":
        known = [(device, why) for device, why in unable if device.features is not None]
        refused = known[0] if known else None  # if it is unknown, the setting decides
        return Decision(False, "", refused[1], refused[0].name, given_up) if refused else Decision()
    return Decision(True, why, "", first.name, given_up)


def why_unable(device: Device, given_up: Collection[GivenUp] = (), before: Decision | None = None) -> str:
    """Return why an uplink accepts no redirected frames; empty if it does, or if only an attempt will show."""
    if device.kind == "bond" and not device.drivers:
        return ""  # without members, the future ones decide
    if device.features is None:
        return _why_unknown(device)
    if device.features & XdpFeatures.NDO_XMIT:
        return ""
    driver = ", ".join(device.drivers) or device.kind
    if device.kind == "veth":
        return f"{device.name}: the other end of this veth has neither GRO nor XDP, and drops redirected frames"
    if not device.features & XdpFeatures.BASIC:
        return f"{device.name}: driver {driver} takes no redirected frames and runs no native XDP"
    fell_back = device.runs == "generic" and before is not None and not before.generic
    if device.runs == "native" or fell_back or device.tried in given_up:
        return f"{device.name}: driver {driver} takes no redirected frames"
    return ""


def shows_when_attached(device: Device) -> bool:
    """Whether it is still unknown if an uplink accepts redirected frames: some drivers report it once they run XDP."""
    return bool(device.features is not None and not device.features & XdpFeatures.NDO_XMIT and not why_unable(device))


def _shows_when_tried(device: Device) -> bool:
    return device.kind != "veth" and device.features is not None and bool(device.features & XdpFeatures.BASIC)


def _why_unknown(device: Device) -> str:
    """Return why an uplink is not trusted on a kernel that does not report it."""
    known = KNOWN_DRIVERS if device.kernel >= (6, 1) else KNOWN_DRIVERS - SINCE_6_1
    unknown = [driver for driver in device.drivers if driver not in known]
    if not unknown and device.runs != "generic":
        return ""
    what = f"driver {', '.join(unknown)}" if unknown else "a driver that runs XDP in generic mode"
    return f"{device.name}: this kernel, older than 6.3, does not say whether {what} takes redirected frames"


def hint_of(device: Device) -> str:
    """Return a property of an uplink that may lose frames without any error on this host; empty if none is known."""
    if device.kind != "veth" or (device.features is not None and device.features & XdpFeatures.NDO_XMIT):
        return ""
    return f"{device.name} is a veth, and the other end has no GRO or does not say so. "


def remedy_of(reason: str) -> str:
    """Return the remedy for a reason."""
    auto = "set attach_mode to auto, which has the programs run in generic mode"
    if "veth" in reason and "GRO" in reason:
        return f"turn GRO on at the other end (ethtool -K <peer> gro on), or {auto}"
    return f"{auto}, or choose another interface"
