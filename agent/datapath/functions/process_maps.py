"""The maps of a function in a process, as a program without instructions: the agent's own programs use them."""

from __future__ import annotations

from agent.core.model.map_layout import FRAME_STATE, PROCESS_QUEUES
from agent.datapath.bpf.syscall import MapType
from agent.datapath.functions.user_program import PENDING, SOCKETS, UserMap, UserProgram

MOST_PENDING = 8192
"""Packets that a process may have; of more, the answers to the oldest are refused."""
LANES = 16 * PROCESS_QUEUES
"""Sockets of one function at a time: PROCESS_QUEUES for each of up to 16 processes that take over from each other."""
PROCESS = UserProgram(
    b"",
    maps=(
        UserMap(PENDING, MapType.LRU_HASH, 8, FRAME_STATE.size, MOST_PENDING),
        UserMap(SOCKETS, MapType.XSKMAP, 4, 4, LANES),
    ),
)
