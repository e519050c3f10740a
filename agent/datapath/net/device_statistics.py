"""Reads from an interface's own statistics how many redirected frames its driver did not send (linux/ethtool.h).

A fallback for kernels without programs on tracepoints: names differ by driver, the counts include the frames of all
programs, and frames that the kernel refuses before it calls the driver are missing.
"""

from __future__ import annotations

import ctypes
import fcntl
import re
import socket
import struct

SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO, ETHTOOL_GSTRINGS, ETHTOOL_GSTATS = 0x3, 0x1B, 0x1D
ETH_SS_STATS = 1
NAME = 32
"""ETH_GSTRING_LEN: bytes of a statistic's name."""
UNSENT = re.compile(r"xdp.*(err|full|fail)")
"""Drivers' names for XDP frames that they did not accept: `tx_queue_0_xdp_xmit_errors`, `tx_xdp_full`."""

_DRIVER = struct.Struct("=I176xI12x")
"""struct ethtool_drvinfo { u32 cmd; ...; u32 n_stats; ... }, 196 bytes."""
_STRINGS = struct.Struct("=III")
"""struct ethtool_gstrings { u32 cmd; u32 string_set; u32 len; u8 data[] }."""
_STATISTICS = struct.Struct("=II")
"""struct ethtool_stats { u32 cmd; u32 n_stats; u64 data[] }."""
_REQUEST = struct.Struct("@16sP16x")
"""struct ifreq { char ifr_name[16]; void *ifr_data; ... }, 40 bytes."""


def unsent_frames(control: socket.socket, ifname: str) -> int:
    """Return how many redirected frames a driver did not send, 0 if it does not report that.

    The interface is one of the namespace of `control`.
    """
    try:
        found = statistics(control, ifname)
    except OSError:
        return 0
    return sum(count for name, count in found.items() if UNSENT.search(name))


def statistics(control: socket.socket, ifname: str) -> dict[str, int]:
    """Return all statistics of a driver by name; OSError (EOPNOTSUPP) when it has none."""
    _, number = _DRIVER.unpack(_ask(control, ifname, _DRIVER.pack(ETHTOOL_GDRVINFO, 0)))
    strings = _ask(control, ifname, _STRINGS.pack(ETHTOOL_GSTRINGS, ETH_SS_STATS, number) + bytes(NAME * number))
    values = _ask(control, ifname, _STATISTICS.pack(ETHTOOL_GSTATS, number) + bytes(8 * number))
    names = (strings[at : at + NAME].partition(b"\0")[0] for at in range(_STRINGS.size, len(strings), NAME))
    counts = struct.unpack_from(f"={number}Q", values, _STATISTICS.size)
    return {name.decode(errors="replace"): count for name, count in zip(names, counts, strict=True)}


def _ask(control: socket.socket, ifname: str, question: bytes) -> bytes:
    value = ctypes.create_string_buffer(question, len(question))
    fcntl.ioctl(control, SIOCETHTOOL, _REQUEST.pack(ifname.encode(), ctypes.addressof(value)))
    return value.raw
