"""Turns an interface's offloads on and off and names its driver, by the ethtool ioctl (linux/ethtool.h, SIOCETHTOOL).

XDP passes on the frame that it sees: an endpoint must therefore finish its own checksums and segments (no transmit
checksum offload, from which TSO follows), and receive by NAPI (GRO on), else a redirect to its veth is dropped. And it
sees tags only where the hardware does not take them off.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

from agent.datapath.told import ToldError

SIOCETHTOOL = 0x8946
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
ETHTOOL_GGRO, ETHTOOL_SGRO = 0x2B, 0x2C
ETHTOOL_GDRVINFO, ETHTOOL_GFLAGS, ETHTOOL_SFLAGS = 0x3, 0x25, 0x26
ETH_FLAG_RXVLAN = 1 << 8

_VALUE = struct.Struct("=II")
"""struct ethtool_value { u32 cmd; u32 data }."""
_DRIVER = struct.Struct("=I32s160x")
"""struct ethtool_drvinfo { u32 cmd; char driver[32]; ... }, 196 bytes."""
_REQUEST = struct.Struct("@16sP16x")
"""struct ifreq { char ifr_name[16]; void *ifr_data; ... }, 40 bytes."""


@dataclass(frozen=True, slots=True)
class Offloads:
    """What of an interface's offloads matters here."""

    receive_by_napi: bool
    transmit_checksum: bool


ENDPOINT_OFFLOADS = Offloads(receive_by_napi=True, transmit_checksum=False)


def _ethtool(control: socket.socket, ifname: str, command: int, data: int = 0) -> int:
    _, answer = _VALUE.unpack(_ioctl(control, ifname, _VALUE.pack(command, data)))
    return int(answer)


def _ioctl(control: socket.socket, ifname: str, question: bytes) -> bytes:
    value = ctypes.create_string_buffer(question, len(question))
    request = _REQUEST.pack(ifname.encode(), ctypes.addressof(value))
    fcntl.ioctl(control, SIOCETHTOOL, request)
    return value.raw


def read_offloads(control: socket.socket, ifname: str) -> Offloads:
    """Read the offloads of an interface in the namespace of `control`; OSError (ENODEV) when it is not there."""
    return Offloads(
        receive_by_napi=bool(_ethtool(control, ifname, ETHTOOL_GGRO)),
        transmit_checksum=bool(_ethtool(control, ifname, ETHTOOL_GTXCSUM)),
    )


def set_endpoint_offloads(control: socket.socket, ifname: str) -> bool:
    """Set what an endpoint needs, where it differs; return whether anything was changed.

    OSError (EOPNOTSUPP) when the interface took the request and did not do it.
    """
    found = read_offloads(control, ifname)
    if found == ENDPOINT_OFFLOADS:
        return False
    if not found.receive_by_napi:
        _ethtool(control, ifname, ETHTOOL_SGRO, 1)
    if found.transmit_checksum:
        _ethtool(control, ifname, ETHTOOL_STXCSUM, 0)
    if read_offloads(control, ifname) != ENDPOINT_OFFLOADS:
        message = (
            f"{ifname} does not turn receiving by NAPI (GRO) on and transmit checksums off, without which its packets "
            "are lost; the agent tries again"
        )
        raise ToldError(errno.EOPNOTSUPP, message)
    return True


def driver_of(control: socket.socket, ifname: str) -> str:
    """Return the name of an interface's driver, `unknown` when it does not tell."""
    try:
        _, name = _DRIVER.unpack(_ioctl(control, ifname, _DRIVER.pack(ETHTOOL_GDRVINFO, b"")))
    except OSError:
        return "unknown"
    return bytes(name).rstrip(b"\0").decode(errors="replace") or "unknown"


def leave_tags_on(control: socket.socket, ifname: str) -> bool:
    """Have the hardware leave 802.1Q tags on received frames; return whether anything was changed.

    OSError (EOPNOTSUPP) when it takes them off all the same. An interface without such an offload needs nothing.
    """
    try:
        flags = _ethtool(control, ifname, ETHTOOL_GFLAGS)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    if not flags & ETH_FLAG_RXVLAN:
        return False
    _ethtool(control, ifname, ETHTOOL_SFLAGS, flags & ~ETH_FLAG_RXVLAN)
    if _ethtool(control, ifname, ETHTOOL_GFLAGS) & ETH_FLAG_RXVLAN:
        message = (
            f"{ifname}: driver {driver_of(control, ifname)} takes VLAN tags off received frames and does not stop when "
            "told to. Give the droplet an interface without VLAN, or one of another driver"
        )
        raise ToldError(errno.EOPNOTSUPP, message)
    return True
