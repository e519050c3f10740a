"""Other chains of XDP programs, beside functions at stage points: libxdp's dispatcher, and plain tail calls.

Every chain ends with a program that redirects, which also runs alone. The plain tail calls have what no chain can do
without, and nothing else: no isolation, no counters, no packet that is parsed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.model.map_layout import U32
from agent.datapath.bpf import syscall as bpf
from bench import dispatcher
from bench import frames as f
from bench.forwarding import FRAMES, Entry, Turns
from bench.function_pair import code, redirecting
from bench.lines import EGRESS, INGRESS
from bench.stage_lines import DISPATCHED, REDIRECT, TAIL_CALLS
from bench.wires import TAP, WIRE, Host

ENDS = {INGRESS: (WIRE, TAP), EGRESS: (TAP, WIRE)}
"""Where frames come in and leave, by direction."""
_TAIL_CALL = 12


@dataclass
class Peers:
    """What is ready to run; `refusal` says why the dispatcher is not among it, empty where it is."""

    entries: list[Turns] = field(default_factory=list)
    refusal: str = ""


@contextmanager
def peers(folder: Path, new_host: Callable[[], Host], say: Callable[[str], None]) -> Iterator[Peers]:
    """Build the chains, each of the dispatcher's on hosts of its own, and take them down again."""
    found = Peers()
    with ExitStack() as stack:
        host = new_host()
        for direction, (_, leaves) in ENDS.items():
            last = _loaded(stack, redirecting(host.ifindex[leaves]))
            found.entries.append(_entry(REDIRECT, direction, host, last))
            for count, name in TAIL_CALLS.items():
                found.entries.append(_entry(name, direction, host, _tail_calls(stack, count, last)))
        try:
            dispatcher.ensure_possible(say)
            found.entries += _dispatched(stack, folder, new_host)
        except dispatcher.DispatcherError as error:
            found.refusal = str(error)
        yield found


def _loaded(stack: ExitStack, instructions: bytes) -> int:
    descriptor = bpf.load_program(instructions, name="chain")
    stack.callback(os.close, descriptor)
    return descriptor


def _tail_calls(stack: ExitStack, count: int, last: int) -> int:
    """Return the first of so many no-op programs, each of which calls the next one."""
    table = bpf.create_map(bpf.MapType.PROG_ARRAY, 4, 4, count + 1, name="chain")
    stack.callback(os.close, table)
    following = last
    for place in range(count, 0, -1):
        bpf.update(table, U32.pack(place), U32.pack(following))
        following = _loaded(stack, noop(table, place))
    return following


def noop(table: int, following: int) -> bytes:
    """Return an XDP program that does nothing but call the one at a place of a table."""
    return code(
        *((0x18, 0x12, 0, table), (0, 0, 0, 0), (0xB7, 3, 0, following), (0x85, 0, 0, _TAIL_CALL)),
        *((0xB7, 0, 0, bpf.XdpAction.ABORTED), (0x95, 0, 0, 0)),
    )


def _dispatched(stack: ExitStack, folder: Path, new_host: Callable[[], Host]) -> list[Turns]:
    """Attach a chain of each length to both interfaces of a host."""
    library, found = dispatcher.Libxdp(), []
    empty = dispatcher.compile_program("noop", folder)
    for count, name in DISPATCHED.items():
        host = new_host()
        for direction, (comes, leaves) in ENDS.items():
            last = dispatcher.compile_program("redirect", folder, LEAVES_BY=host.ifindex[leaves])
            chain = library.attach(host, comes, [*[empty] * count, last])
            stack.callback(chain.detach)
            found.append(_entry(name, direction, host, chain.program))
    return list(found)


def _entry(name: str, direction: str, host: Host, program: int) -> Entry:
    comes = host.ifindex[ENDS[direction][0]]
    frame = f.in_geneve(host.mac) if direction == INGRESS else f.sent_by_endpoint()
    return Entry(
        name, direction, host, program, frame, comes, host.delivered if direction == INGRESS else host.sent, FRAMES
    )
