"""The maps of a function in a process, as a program without instructions: the agent's own programs use them."""

from __future__ import annotations

from agent.core.model.map_layout import FRAME_STATE
from agent.datapath.bpf.syscall import MapType
from agent.datapath.functions.user_program import PENDING, SOCKETS, UserMap, UserProgram

MOST_PENDING = 8192
"""Packets that a process may have; of more, the answers to the oldest are refused."""
LANES = 64
"""Pairs of one function at a time: one, and two while a process takes over from another."""
PROCESS = UserProgram(
    b"",
    maps=(
        UserMap(PENDING, MapType.LRU_HASH, 8, FRAME_STATE.size, MOST_PENDING),
        UserMap(SOCKETS, MapType.XSKMAP, 4, 4, LANES),
    ),
)
