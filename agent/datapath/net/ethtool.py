"""Turns an interface's offloads on and off, names its driver and reads its statistics, by pyroute2's ethtool ioctls.

pyroute2 sends them through a socket of the calling thread's namespace, and reads the names of all offloads each time.
Here the socket is one of the interface's namespace, and the names, which are the whole kernel's, are read once. That
makes 27 us of 380 us of CPU time for an interface, and every comparison with the kernel reads thousands.

What an endpoint's interface needs is `agent.core.model.offloads`' affair. The underlay's interfaces need one thing:
XDP sees VLAN tags only where the hardware does not take them off.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Mapping
from typing import Any

from pyroute2.ethtool.ioctl import (
    ETH_SS_FEATURES,
    DictStruct,
    IoctlEthtool,
    NoSuchDevice,
    NotSupportedError,
)

from agent.core.model.offloads import (
    OFFLOADS,
    Offload,
    Sending,
    describe_offload,
    lost_by,
    required_offloads,
    wrong_offloads,
)
from agent.errors import OperatorError

ETHTOOL_GDRVINFO = 3
MERGES = "rx-gro-hw"
"""The kernel's name of the offload that merges received packets in the device."""
TAGS_OFF = "rx-vlan-hw-parse"
"""The kernel's name of the offload that takes 802.1Q tags off received frames."""

_feature_names: list[str] = []
"""The kernel's names of all offloads in the order of their bits, once they were read."""


class _DriverInfo(DictStruct):  # type: ignore[misc]  # pyroute2 has no types
    """struct ethtool_drvinfo { u32 cmd; char driver[32]; ... }, 196 bytes. pyroute2 has no such request."""

    _fields_ = (("cmd", ctypes.c_uint32), ("driver", ctypes.c_char * 32), ("rest", ctypes.c_uint8 * 160))


class Interface(IoctlEthtool):  # type: ignore[misc]
    """An interface in the namespace of a socket, which stays the caller's. The kernel's refusals are OSErrors."""

    def __init__(self, control: socket.socket, ifname: str) -> None:
        self.sock = control
        self.change_ifname(ifname)

    def ioctl(self) -> None:
        """Send the request. OSError: EOPNOTSUPP also when the kernel did only a part of it."""
        try:
            super().ioctl()
        except NotSupportedError:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None
        except NoSuchDevice:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None

    def get_stringset(self, set_id: int = ETH_SS_FEATURES, drvinfo_offset: int = 0, null_terminate: int = 1) -> Any:
        """Return the names of offloads, which are read once, or of another set."""
        if set_id != ETH_SS_FEATURES:
            return super().get_stringset(set_id, drvinfo_offset, null_terminate)
        if not _feature_names:
            _feature_names.extend(super().get_stringset(set_id, drvinfo_offset, null_terminate))
        return _feature_names

    def change(self, wanted: Mapping[str, bool]) -> None:
        """Set offloads by name; the caller looks whether they changed: a driver may take the request and do nothing."""
        features = self.get_features()
        for name, on in wanted.items():
            features[name] = on
        try:
            self.set_features(features)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise

    def driver(self) -> str:
        """Return the driver's name."""
        info = _DriverInfo(cmd=ETHTOOL_GDRVINFO)
        self.ifreq.gstrings = ctypes.addressof(info)  # the member of the union that points to anything
        self.ioctl()
        return bytes(info.driver).decode(errors="replace")


def read_offloads(control: socket.socket, ifname: str) -> dict[str, Offload]:
    """Read the relevant offloads of an interface in the namespace of `control`; OSError (ENODEV) if it is gone."""
    features = Interface(control, ifname).get_features()
    return {
        name: Offload(features.is_active(name), features.is_available(name)) for name in OFFLOADS if name in features
    }


def set_endpoint_offloads(control: socket.socket, ifname: str, sending: Sending) -> bool:
    """Set the offloads that an endpoint needs, if they differ; return whether anything was changed.

    OperatorError (EOPNOTSUPP) if the interface accepted the request without effect.
    """
    found = read_offloads(control, ifname)
    if not wrong_offloads(found, sending):
        return False
    Interface(control, ifname).change(required_offloads(found, sending))
    if still := lost_by(wrong_offloads(read_offloads(control, ifname), sending), sending):
        message = (
            f"{ifname}: {'; '.join(describe_offload(name, not on) for name, on in still.items())}, and driver "
            f"{driver_of(control, ifname)} does not change that, so the endpoint's packets would be lost or altered: "
            "update the kernel, and see ethtool -k"
        )
        raise OperatorError(errno.EOPNOTSUPP, message)
    return True


def driver_of(control: socket.socket, ifname: str) -> str:
    """Return the name of an interface's driver, `unknown` if it reports none."""
    try:
        return Interface(control, ifname).driver() or "unknown"
    except OSError:
        return "unknown"


def can_merge(control: socket.socket, ifname: str) -> bool:
    """Return whether a device hands over several received packets as one now; OSError (ENODEV) if it is gone."""
    features = Interface(control, ifname).get_features()
    return MERGES in features and bool(features.is_active(MERGES))


def leave_tags_on(control: socket.socket, ifname: str) -> bool:
    """Make the hardware leave 802.1Q tags on received frames; return whether anything was changed.

    OperatorError (EOPNOTSUPP) if it still takes them off. An interface without such an offload needs nothing.
    """
    interface = Interface(control, ifname)
    if not _takes_tags_off(interface):
        return False
    # Not pyroute2's set_offload_flag: it also turns ntuple filters off (ETH_FLAG_EXT_MASK lacks them).
    interface.change({TAGS_OFF: False})
    if _takes_tags_off(interface):
        message = (
            f"{ifname}: driver {driver_of(control, ifname)} takes VLAN tags off received frames and does not stop when "
            "told to. Give the droplet an interface without VLAN, or one of another driver"
        )
        raise OperatorError(errno.EOPNOTSUPP, message)
    return True


def _takes_tags_off(interface: Interface) -> bool:
    try:
        features = interface.get_features()
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    return TAGS_OFF in features and bool(features.is_active(TAGS_OFF))
