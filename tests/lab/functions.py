"""Users' functions in a lab: published as documents, counted by the maps of the kernel, asked by packets."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.core.model import map_layout
from agent.core.model.map_layout import STAGE_REASONS, STAGE_SLOTS, U32, MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions.record import Record, read_record
from controller_sim.lab.namespaces import call_in
from controller_sim.talk.transfer import family_of
from lab.fixtures import SystemLab
from lab.function_counts import Counted
from lab.waiting import until
from protocol import codec
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Document, Function, FunctionProgram, FunctionScope

SENDING_PORT = 7000
TIMEOUT = 20.0


def source(body: str, declarations: str = "") -> str:
    """Return the C source of a function with these statements, which begin in line 6 behind a line of declarations."""
    return f'#include "stage.h"\n\n{declarations}\nint stage_function(struct stage *stage)\n{{\n{body}\n}}\n'


def at_port(act: str) -> str:
    """Return statements that act on datagrams to the port in the configuration, and let all others go on."""
    return f"""\
	const __u16 *port = stage_configuration(stage);
	__u16 from, to;

	if (stage_ports(stage, &from, &to) || to != *port)
		return STAGE_GO_ON;
	{act}"""


def port_bytes(port: int) -> bytes:
    """Return the configuration of a function of `at_port`."""
    return port.to_bytes(2, sys.byteorder)


def function(id_: str, point: str, text: str, **fields: Any) -> Function:
    """Return a function with a source; `fields` are those of its document, and of its scope."""
    scope = FunctionScope(**{kind: fields.pop(kind) for kind in FunctionScope.__struct_fields__ if kind in fields})
    return Function(id_, point, FunctionProgram(source=text), scope=scope, **fields)  # type: ignore[arg-type]


def body_of(*functions: Function) -> bytes:
    return codec.encode(Document(functions=functions))


def put(lab: SystemLab, host: str, document: str, *functions: Function) -> Acknowledgement:
    """Publish a document of functions to a host, and wait until it is realized; without functions, its removal."""
    revision = lab.publish(host, document, body_of(*functions) if functions else None)
    found = answer(lab, host, document, revision)
    assert found.state is State.REALIZED, found
    return found


def answer(lab: SystemLab, host: str, document: str, revision: int) -> Acknowledgement:
    """Wait until a revision is realized or cannot be, and return the acknowledgement that says so."""

    def look() -> Acknowledgement | None:
        newest = lab.newest(host, document)
        done = newest is not None and newest.revision == revision and newest.state is not State.PENDING
        return newest if done else None

    found = until(look, f"the end of revision {revision} of {document}")
    assert found is not None
    return found


@contextlib.contextmanager
def installed(lab: SystemLab, host: str, document: str, *functions: Function) -> Iterator[None]:
    """Have functions on a host for the time of a block."""
    put(lab, host, document, *functions)
    try:
        yield
    finally:
        put(lab, host, document)


def records(lab: SystemLab, host: str) -> list[Record]:
    """Return what the pins on a host say of functions, for a while also of a version before the newest one."""
    found = [read_record(path) for path in sorted((lab.pins(host) / "functions").glob("**/record"))]
    return [one for one in found if one is not None]


def counted(lab: SystemLab, host: str, id_: str) -> Counted:
    """Return what a function counted on a host since its slot was taken by the first one."""
    ((point, slot),) = {(one.point, one.slot) for one in records(lab, host) if one.id == id_}
    index = (point - 1) * STAGE_SLOTS + slot
    with lab.map(host, MapName.FUNCTION_COUNTERS) as counters, lab.map(host, MapName.FUNCTION_REASONS) as reasons:
        values = bpf.lookup_percpu(counters, U32.pack(index), map_layout.FUNCTION_TRAFFIC.size)
        sums = [sum(numbers) for numbers in zip(*map(map_layout.FUNCTION_TRAFFIC.unpack, values), strict=True)]
        by_reason = {}
        for reason in range(STAGE_REASONS):
            numbers = bpf.lookup_percpu(reasons, U32.pack(index * STAGE_REASONS + reason), 8)
            if total := sum(int.from_bytes(number, sys.byteorder) for number in numbers):
                by_reason[reason] = total
    return Counted(*sums[:8], by_reason)


class Datagrams:
    """Datagrams from one endpoint to an address and port, and where they may arrive."""

    def __init__(self) -> None:
        self._opened: list[socket.socket] = []

    def socket(self, namespace: str, address: str, port: int) -> socket.socket:
        """Open a socket in a namespace, until the end of the block."""

        def opened() -> socket.socket:
            made = socket.socket(family_of(address), socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
            made.settimeout(TIMEOUT)
            return made

        self._opened.append(call_in(namespace, opened))
        return self._opened[-1]

    def close(self) -> None:
        for one in self._opened:
            one.close()


@contextlib.contextmanager
def datagrams() -> Iterator[Datagrams]:
    made = Datagrams()
    try:
        yield made
    finally:
        made.close()


def heard(receiver: socket.socket) -> bytes:
    """Return the next datagram's payload; TimeoutError if none comes."""
    return receiver.recvfrom(1 << 16)[0]


def nothing_heard(receiver: socket.socket) -> bool:
    """Say whether no datagram waits in a socket."""
    receiver.setblocking(False)
    try:
        receiver.recvfrom(1 << 16)
    except BlockingIOError:
        return True
    finally:
        receiver.settimeout(TIMEOUT)
    return False


def drops(lab: SystemLab, ends: tuple[str, str], family: int, port: int) -> bool:
    """Say whether a datagram from one endpoint to a port of another is lost; one to another port follows it."""
    with datagrams() as sockets:
        own, to = (lab.address(one, family) for one in ends)
        sender = sockets.socket(lab.inside(ends[0]), own, SENDING_PORT)
        marked, free = (sockets.socket(lab.inside(ends[1]), to, number) for number in (port, SENDING_PORT + 1))
        for number in (port, SENDING_PORT + 1):
            sender.sendto(b"dropped?", (to, number))
        assert heard(free) == b"dropped?"
        return nothing_heard(marked)


def grows_to(lab: SystemLab, host: str, id_: str, before: Counted, **wanted: int) -> Counted:
    """Wait until a function's counters have grown by at least so much; return by how much all of them have."""

    def look() -> Counted | None:
        grown = counted(lab, host, id_) - before
        return grown if all(getattr(grown, name) >= number for name, number in wanted.items()) else None

    found = until(look, f"{wanted} of {id_} on {host}")
    assert found is not None
    return found


def function_pins(lab: SystemLab, host: str) -> list[Path]:
    """Return the folders of all functions that are pinned on a host, one for each point, of every layout."""
    return sorted(lab.lab.paths.pins(host).glob("*/functions/*/*"))
