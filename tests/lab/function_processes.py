"""Functions in processes in a lab: their documents, the processes themselves, and what is seen of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.fixtures import SystemLab
from lab.function_topology import FAMILIES, OTHER
from lab.functions import SENDING_PORT, Datagrams, heard
from lab.waiting import until
from protocol.documents import Function, FunctionProcess, FunctionProgram

ROOT = Path(__file__).parents[2]
USER = 65534
SERVE = """
import sys
from droplet_functions import GO_ON, SEND_BACK, Function, Point, drop, rewrite, send_to
from droplet_functions.headers import parse
function = Function(sys.argv[1])
targets = {4: sys.argv[2], 6: sys.argv[3]}

def inner(packet):
    if packet.meta.point != Point.FROM_UNDERLAY:
        return packet.data
    geneve = packet.layers().udp.offset + 8
    return packet.data[geneve + 8 + (packet.data[geneve] & 63) * 4:]

@function.on_packet
def handle(packet):
    data = inner(packet)
    layers = parse(data)
    udp = layers.udp
    if not udp or udp.destination_port != 7200 + packet.meta.point:
        return GO_ON
    verdict = data[udp.offset + 8]
    if verdict == 2:
        return drop(5)
    if verdict == 3:
        data[0:12] = bytes(data[6:12]) + bytes(data[0:6])
        source, destination = str(layers.ip.source), str(layers.ip.destination)
        rewrite.set_source(layers, destination)
        rewrite.set_destination(parse(data), source)
        rewrite.set_source_port(parse(data), udp.destination_port)
        rewrite.set_destination_port(parse(data), udp.source_port)
        return SEND_BACK
    if verdict == 4:
        rewrite.set_destination(layers, targets[layers.ip.version])
        return send_to(targets[layers.ip.version])
    return GO_ON

function.run()
"""
GARBAGE = """
import random, sys
from droplet_functions import GO_ON, Function
function = Function(sys.argv[1])
chance = random.Random(1)

@function.on_packet
def handle(packet):
    (session,) = function._engine._sessions()
    for ring in session._sockets[0]._maps:
        for _ in range(64):
            ring[chance.randrange(len(ring))] = chance.randrange(256)
    umem = session._umem
    umem[:] = chance.randbytes(len(umem))
    for _ in range(50):
        session._sockets[0]._socket.send(b"")
    return GO_ON

function.run()
"""
"""Of a process that writes anything into its rings and frames."""


def process_function(host: str, point: str, **fields: str) -> Function:
    """Return the function of a point whose process obeys what it is asked."""
    vpc = "" if point == "from_underlay" else "red"
    program = FunctionProgram(process=FunctionProcess(str(USER)))
    return Function(f"{point}-{host}", point, program, vpc=vpc, **fields)  # type: ignore[arg-type]


def socket_of(lab: SystemLab, host: str, id_: str) -> Path:
    return lab.lab.paths.functions(host) / f"{id_}.sock"


@contextlib.contextmanager
def process(
    lab: SystemLab, host: str, id_: str, code: str = SERVE, user: int = USER
) -> Iterator[subprocess.Popen[str]]:
    """Run a process without any privilege, until the end of the block."""
    targets = [lab.address(f"other-{host}", family) for family in FAMILIES]
    command = [
        "setpriv",
        f"--reuid={user}",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ]
    path = socket_of(lab, host, id_)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DROPLET_FUNCTION_SOCKET": str(path)}
    started = subprocess.Popen(
        [*command, sys.executable, "-c", code, id_, *targets], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def faults(lab: SystemLab, host: str) -> set[str]:
    return {one.subject for one in lab.status(host).faults if one.kind == "function_process"}


def pairs(lab: SystemLab, host: str) -> int:
    return lab.ip(lab.names.droplet(host), "link").count(": fnn")


def until_served(lab: SystemLab, host: str, *ids: str) -> None:
    until(lambda: not faults(lab, host) & {f"function {id_}" for id_ in ids}, f"processes of {ids} on {host}")


def open_folders(lab: SystemLab) -> None:
    """Let other users reach the sockets, as they do in /run."""
    for folder in (lab.lab.paths.directory, lab.lab.paths.directory / "functions"):
        folder.chmod(0o711)


class Shop:
    """Datagrams of VPC blue from one host to the other."""

    def __init__(self, lab: SystemLab, host: str, family: int, sockets: Datagrams) -> None:
        sender, receiver = f"shop-{host}", f"shop-{OTHER[host]}"
        self.address = lab.address(receiver, family)
        self.sender = sockets.socket(lab.inside(sender), lab.address(sender, family), SENDING_PORT)
        self.receiver = sockets.socket(lab.inside(receiver), self.address, 7300)

    def send(self, payload: bytes) -> None:
        self.sender.sendto(payload, (self.address, 7300))

    def arrives(self, payload: bytes) -> bool:
        """Send one datagram, and say whether it arrives within a short time."""
        self.send(payload)
        self.receiver.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                if heard(self.receiver) == payload:
                    return True
        return False
