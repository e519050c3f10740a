"""Reads from an interface's own statistics how many redirected frames its driver did not send (`ethtool -S`).

A fallback for kernels without programs on tracepoints: names differ by driver, the counts include the frames of all
programs, and frames that the kernel refuses before it calls the driver are missing.
"""

from __future__ import annotations

import re

from agent.datapath.net.ethtool import Interface
from agent.datapath.net.namespaces import open_control_socket

UNSENT = re.compile(r"xdp.*(err|full|fail)")
"""Drivers' names for XDP frames that they did not accept: `tx_queue_0_xdp_xmit_errors`, `tx_xdp_full`."""


def unsent_frames(ifname: str) -> int:
    """Return how many redirected frames a driver did not send, 0 where it does not say.

    The interface is one of this thread's network namespace.
    """
    try:
        found = statistics(ifname)
    except OSError:
        return 0
    return sum(count for name, count in found.items() if UNSENT.search(name))


def statistics(ifname: str) -> dict[str, int]:
    """Return all statistics of a driver by name; OSError: EOPNOTSUPP when it has none, ENODEV."""
    with open_control_socket() as control:
        return {str(name): int(count) for name, count in Interface(control, ifname).get_statistics()}
