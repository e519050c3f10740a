"""The kernel's hooks at which the programs run: XDP, and tc by tcx or clsact."""

from __future__ import annotations

from enum import StrEnum


class Hook(StrEnum):
    """Where programs are attached. Each hook is one translation unit, `xdp.c` or `tc.c`, with all its programs."""

    XDP = "xdp"
    TC = "tc"


TRANSIT = {Hook.XDP: "transit_xdp", Hook.TC: "tc_transit"}
"""The program for frames from the underlay, by hook."""
TRANSIT_AGENT = {Hook.XDP: "transit_agent", Hook.TC: "tc_agent"}
"""The program for frames of endpoints, by hook."""
TRANSIT_ERRORS = {Hook.XDP: "transit_errors", Hook.TC: "tc_errors"}
"""The program that answers packets that cannot be delivered, by hook; it is reached by tail call."""
PROGRAMS = {hook: (TRANSIT[hook], TRANSIT_AGENT[hook], TRANSIT_ERRORS[hook]) for hook in Hook}
"""All programs of a hook that handle frames, by the name of their function."""
