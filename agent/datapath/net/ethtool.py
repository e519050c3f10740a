"""Turns an interface's offloads on and off and names its driver, by the ethtool ioctl (linux/ethtool.h, SIOCETHTOOL).

By hand, because pyroute2 0.9.7 cannot ask for the driver (ETHTOOL_GDRVINFO) and reads the names of all offloads each
time: 1.6 ms an interface, by hand 6 us. The agent asks that of each of its thousands of endpoints whenever it compares
itself with the kernel, by a socket of the endpoint's namespace, where pyroute2 opens one in the thread's own.
Statistics of a driver, which are read seldom, come by pyroute2 (`device_statistics`).

What an endpoint's interface needs is `agent.core.model.offloads`' affair. The substrate's interfaces need one thing:
XDP sees VLAN tags only where the hardware does not take them off.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from agent.core.model.offloads import RULES, Offload, describe_offload, wrong_offloads
from agent.errors import OperatorError

SIOCETHTOOL = 0x8946
ETHTOOL_GSTRINGS, ETHTOOL_GSSET_INFO, ETH_SS_FEATURES, NAME = 0x1B, 0x37, 4, 32
ETHTOOL_GFEATURES, ETHTOOL_SFEATURES = 0x3A, 0x3B
ETHTOOL_GDRVINFO, ETHTOOL_GFLAGS, ETHTOOL_SFLAGS = 0x3, 0x25, 0x26
ETH_FLAG_RXVLAN = 1 << 8

_VALUE = struct.Struct("=II")
"""struct ethtool_value { u32 cmd; u32 data }."""
_SET_INFO = struct.Struct("=IxxxxQI")
"""struct ethtool_sset_info { u32 cmd; u32 reserved; u64 sset_mask; u32 data[1] }."""
_STRINGS = struct.Struct("=III")
"""struct ethtool_gstrings { u32 cmd; u32 string_set; u32 len; u8 data[] }."""
_GOT = struct.Struct("=IIII")
"""struct ethtool_get_features_block { u32 available; u32 requested; u32 active; u32 never_changed }."""
_ASKED = struct.Struct("=II")
"""struct ethtool_set_features_block { u32 valid; u32 requested }."""
_DRIVER = struct.Struct("=I32s160x")
"""struct ethtool_drvinfo { u32 cmd; char driver[32]; ... }, 196 bytes."""
_REQUEST = struct.Struct("@16sP16x")
"""struct ifreq { char ifr_name[16]; void *ifr_data; ... }, 40 bytes."""


def _ethtool(control: socket.socket, ifname: str, command: int, data: int = 0) -> int:
    _, answer = _VALUE.unpack(_ioctl(control, ifname, _VALUE.pack(command, data)))
    return int(answer)


def _ioctl(control: socket.socket, ifname: str, question: bytes) -> bytes:
    value = ctypes.create_string_buffer(question, len(question))
    request = _REQUEST.pack(ifname.encode(), ctypes.addressof(value))
    fcntl.ioctl(control, SIOCETHTOOL, request)
    return value.raw


class _Layout(NamedTuple):
    """The bits of the offloads that matter here, and the number of 32-bit blocks. The same for the whole kernel."""

    bits: dict[str, int]
    blocks: int


_layouts: list[_Layout] = []
"""The kernel's layout, once it was asked for."""


def _layout(control: socket.socket, ifname: str) -> _Layout:
    if not _layouts:
        info = _ioctl(control, ifname, _SET_INFO.pack(ETHTOOL_GSSET_INFO, 1 << ETH_SS_FEATURES, 0))
        count = _SET_INFO.unpack(info)[2]
        question = _STRINGS.pack(ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(NAME * count)
        strings = _ioctl(control, ifname, question)[_STRINGS.size :]
        names = [strings[at : at + NAME].rstrip(b"\0").decode() for at in range(0, len(strings), NAME)]
        _layouts.append(_Layout({name: bit for bit, name in enumerate(names) if name in RULES}, (count + 31) // 32))
    return _layouts[0]


def read_offloads(control: socket.socket, ifname: str) -> dict[str, Offload]:
    """Read the relevant offloads of an interface in the namespace of `control`; OSError (ENODEV) if it is gone."""
    layout = _layout(control, ifname)
    question = _VALUE.pack(ETHTOOL_GFEATURES, layout.blocks) + bytes(_GOT.size * layout.blocks)
    answer = _ioctl(control, ifname, question)
    blocks = list(_GOT.iter_unpack(answer[_VALUE.size :]))
    found = {}
    for name, bit in layout.bits.items():
        available, _, active, _ = blocks[bit // 32]
        found[name] = Offload(bool(active >> bit % 32 & 1), bool(available >> bit % 32 & 1))
    return found


def set_endpoint_offloads(control: socket.socket, ifname: str) -> bool:
    """Set the offloads that an endpoint needs, if they differ; return whether anything was changed.

    OperatorError (EOPNOTSUPP) if the interface accepted the request without effect.
    """
    wrong = wrong_offloads(read_offloads(control, ifname))
    if not wrong:
        return False
    _change(control, ifname, wrong)
    if still := wrong_offloads(read_offloads(control, ifname)):
        message = (
            f"{ifname}: {'; '.join(describe_offload(name, not on) for name, on in still.items())}, and driver "
            f"{driver_of(control, ifname)} does not change that, so the endpoint's packets would be lost or altered: "
            "update the kernel, and see ethtool -k"
        )
        raise OperatorError(errno.EOPNOTSUPP, message)
    return True


def _change(control: socket.socket, ifname: str, wanted: Mapping[str, bool]) -> None:
    layout = _layout(control, ifname)
    valid, on = [0] * layout.blocks, [0] * layout.blocks
    for name, state in wanted.items():
        block, bit = divmod(layout.bits[name], 32)
        valid[block] |= 1 << bit
        on[block] |= state << bit
    pairs = b"".join(_ASKED.pack(*pair) for pair in zip(valid, on, strict=True))
    _ioctl(control, ifname, _VALUE.pack(ETHTOOL_SFEATURES, layout.blocks) + pairs)


def driver_of(control: socket.socket, ifname: str) -> str:
    """Return the name of an interface's driver, `unknown` if it reports none."""
    try:
        _, name = _DRIVER.unpack(_ioctl(control, ifname, _DRIVER.pack(ETHTOOL_GDRVINFO, b"")))
    except OSError:
        return "unknown"
    return bytes(name).rstrip(b"\0").decode(errors="replace") or "unknown"


def leave_tags_on(control: socket.socket, ifname: str) -> bool:
    """Make the hardware leave 802.1Q tags on received frames; return whether anything was changed.

    OSError (EOPNOTSUPP) if it still strips them. An interface without such an offload needs nothing.
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
        raise OperatorError(errno.EOPNOTSUPP, message)
    return True
