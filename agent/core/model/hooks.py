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
TRANSIT_RESUME = {Hook.XDP: "transit_resume", Hook.TC: "tc_resume"}
"""The program that continues with frames from the underlay behind users' functions, by hook."""
AGENT_RESUME = {Hook.XDP: "agent_resume", Hook.TC: "tc_agent_resume"}
"""The program that continues with frames of endpoints behind users' functions, by hook."""
RESUMES = {hook: (TRANSIT_RESUME[hook], AGENT_RESUME[hook]) for hook in Hook}
POINTS = ("from_endpoint", "to_endpoint", "forwarded", "from_underlay", "passed", "dropped")
"""The stage points, in the order of their numbers, which begin with 1: enum stage_point in `bpf/stage.h`."""
SHELLS = {
    Hook.XDP: tuple(f"function_{point}" for point in POINTS),
    Hook.TC: tuple(f"tc_function_{point}" for point in POINTS),
}
"""The programs around users' functions, by hook, in the order of the points."""
PROCESS_SLOT = {Hook.XDP: "function_process", Hook.TC: "tc_function_process"}
"""The program in the slot of a function in a process, by hook."""
PROCESS_ANSWER = {Hook.XDP: "function_answer", Hook.TC: "tc_function_answer"}
"""The program at `near` for what the process answers; that of XDP comes first."""
PROCESS_SOCKET = "function_socket"
"""The program of XDP at `far` that gives packets to the process."""
PROCESSES = {
    Hook.XDP: (PROCESS_SLOT[Hook.XDP], PROCESS_ANSWER[Hook.XDP], PROCESS_SOCKET),
    Hook.TC: (PROCESS_SLOT[Hook.TC], PROCESS_ANSWER[Hook.TC]),
}
"""The programs that are loaded for each function in a process, by hook: `bpf/entry/process.h`."""
PROGRAMS = {hook: (TRANSIT[hook], TRANSIT_AGENT[hook], TRANSIT_ERRORS[hook]) for hook in Hook}
"""All programs of a hook that handle frames, by the name of their function."""
