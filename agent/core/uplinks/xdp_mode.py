"""Decides whether programs may run natively: a native program's redirect is lost where the uplink takes none. Pure.

An interface takes redirected frames when its driver has ndo_xdp_xmit and can use it now; the kernel says so in the
feature NDO_XMIT (Linux 6.3). In generic mode frames leave as the stack's own do, by any interface. One uplink that
takes none has all programs of the host run in generic mode: each of them may redirect to each uplink.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntFlag
from typing import NamedTuple

from agent.core.model.linux_version import Version
from protocol.status import Fault


class XdpFeatures(IntFlag):
    """enum netdev_xdp_act, as far as it is looked at: Documentation/netlink/specs/netdev.yaml."""

    BASIC = 1 << 0
    REDIRECT = 1 << 1
    NDO_XMIT = 1 << 2


NATIVE = XdpFeatures.BASIC | XdpFeatures.REDIRECT
"""What the programs need of a driver that runs them."""

SINCE_6_1 = frozenset({"atlantic", "bnxt_en", "hv_netvsc", "mana", "mtk_soc_eth", "sfc_siena"})
"""Those of `KNOWN_DRIVERS` that were new shortly before Linux 6.1, or ran XDP then without taking redirects."""
KNOWN_DRIVERS = SINCE_6_1 | {
    *("ena", "fsl_dpa", "fsl_dpaa2_eth", "fsl_enetc", "funeth", "i40e", "ice", "igb", "igc", "ixgbe", "mlx5_core"),
    *("mvneta", "mvpp2", "netsec", "qede", "rvu-nicpf", "sfc", "st_gmac", "st_xgmac", "tun", "veth", "vif"),
    "virtio_net",
}
"""Drivers that take redirected frames wherever they run XDP natively, for kernels that do not say so themselves.

These are the drivers with ndo_xdp_xmit in Linux 6.1 (drivers/net), by the names that they give to ethtool(8); `vif` is
xen-netfront. Left out are bonding, which does as its members do, and cpsw and cpsw-switch, which drop each redirected
frame below 60 bytes. nicvf, ixgbevf, mlx4_en and nfp run XDP there without it; vmxnet3, gve and fec run none. Kernels
from 6.3 on speak for their own drivers. A veth takes redirects as long as its other end has GRO or XDP, which cannot be
seen there: probes show whether it has.
"""
GivenUp = tuple[int, int]
"""An interface's index and MTU: the driver was tried so, and takes no redirects."""
FAULT_KIND = "redirects_refused"


class Device(NamedTuple):
    """What an uplink's frames leave by. `features` is None where the kernel does not tell, older than 6.3.

    `runs` says how our transit XDP runs there: `native`, `generic`, `offload` or `none`. `drivers` are its own, or with
    a bond its members'.
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
        """What it was tried as."""
        return self.ifindex, self.mtu


class Decision(NamedTuple):
    """How the programs are to run. `reason` says why in generic mode, empty where the settings ask for it.

    `refused` says why the mode that the operator asked for cannot work; `device` is the one that is to blame.
    """

    generic: bool = False
    reason: str = ""
    refused: str = ""
    device: str = ""
    given_up: frozenset[GivenUp] = frozenset()

    @property
    def faults(self) -> list[Fault]:
        """Return a fault where the mode that was asked for cannot work."""
        return [Fault(FAULT_KIND, self.device, self.refused, remedy_of(self.refused))] if self.refused else []


def decide(configured: str, devices: Iterable[Device], before: Decision | None = None) -> Decision:
    """Return how programs are to run, by the attach mode of the settings and by what the uplinks take.

    `before` is the decision that is in force: it says for which reason a program runs in generic mode now.
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
        refused = known[0] if known else None  # where nobody knows, the operator's word stands
        return Decision(False, "", refused[1], refused[0].name, given_up) if refused else Decision()
    return Decision(True, why, "", first.name, given_up)


def why_unable(device: Device, given_up: Collection[GivenUp] = (), before: Decision | None = None) -> str:
    """Say why an uplink takes no redirected frames, empty where it does or where only trying will show."""
    if device.kind == "bond" and not device.drivers:
        return ""  # without members it takes what they will take
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
    """Whether it is not known yet that an uplink takes redirected frames: some drivers say so once they run XDP."""
    return bool(device.features is not None and not device.features & XdpFeatures.NDO_XMIT and not why_unable(device))


def _shows_when_tried(device: Device) -> bool:
    return device.kind != "veth" and device.features is not None and bool(device.features & XdpFeatures.BASIC)


def _why_unknown(device: Device) -> str:
    """Say why an uplink is not trusted on a kernel that does not tell."""
    known = KNOWN_DRIVERS if device.kernel >= (6, 1) else KNOWN_DRIVERS - SINCE_6_1
    unknown = [driver for driver in device.drivers if driver not in known]
    if not unknown and device.runs != "generic":
        return ""
    what = f"driver {', '.join(unknown)}" if unknown else "a driver that runs XDP in generic mode"
    return f"{device.name}: this kernel, older than 6.3, does not say whether {what} takes redirected frames"


def hint_of(device: Device) -> str:
    """Say what of an uplink may keep frames from arriving though nothing here fails, empty where nothing is known."""
    if device.kind != "veth" or (device.features is not None and device.features & XdpFeatures.NDO_XMIT):
        return ""
    return f"{device.name} is a veth, and the other end has no GRO or does not say so. "


def remedy_of(reason: str) -> str:
    """Say what to do about a reason."""
    auto = "set attach_mode to auto, which has the programs run in generic mode"
    if "veth" in reason and "GRO" in reason:
        return f"turn GRO on at the other end (ethtool -K <peer> gro on), or {auto}"
    return f"{auto}, or choose another interface"
