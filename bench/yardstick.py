"""What a control plane cannot do without: decode the documents and write the entries by batch. A process of its own.

`python -m bench.yardstick FOLDER` reads every file of a folder as one document (MessagePack, as published), packs its
endpoints into the layout of the map `endpoints`, writes them into a hash map of its own by batch, and prints what that
took as JSON. No validation, no references, no acknowledgements: the agent is measured beside it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.core.model import map_layout
from agent.datapath.bpf import syscall as bpf
from controller_sim.control.compiler import MAX_ENDPOINTS
from protocol.documents import Document

VNI = 1001
HOST = map_layout.V4_MAPPED + socket.inet_aton("172.18.0.12")
"""Where the entries say that their endpoints are: any droplet will do."""


class Run(NamedTuple):
    """One run: seconds of CPU time for decoding and writing, wall seconds of the whole process from start to end."""

    endpoints: int
    cpu_seconds: float
    wall_seconds: float


def entries(bodies: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Decode documents one by one and yield the map entry of each endpoint."""
    decoder = msgspec.msgpack.Decoder(Document)
    for body in bodies:
        for endpoint in decoder.decode(body).endpoints:
            address = map_layout.V4_MAPPED + socket.inet_aton(endpoint.addresses[0])
            mac = bytes.fromhex(endpoint.mac.replace(":", ""))
            yield map_layout.OVERLAY_KEY.pack(VNI, address), map_layout.ENDPOINT.pack(HOST, 0, 0, 0, mac)


def keep(folder: Path, bodies: Iterable[bytes]) -> None:
    """Write documents into a folder, as files that `run` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, body in enumerate(bodies):
        (folder / f"{number:06}").write_bytes(body)


def run(folder: Path) -> Run:
    """Run the yardstick as a new process and return what it took."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", __name__, str(folder)], stdout=subprocess.PIPE, check=True)
    wall = time.perf_counter() - began
    found = json.loads(done.stdout)
    return Run(found["endpoints"], found["cpu_seconds"], wall)


def _work(folder: Path) -> dict[str, float]:
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())]
    capacity = MAX_ENDPOINTS * max(1, len(bodies))
    fd = bpf.create_map(bpf.MapType.HASH, map_layout.OVERLAY_KEY.size, map_layout.ENDPOINT.size, capacity)
    try:
        began = time.process_time()
        count = bpf.update_batch(fd, entries(bodies))
        return {"endpoints": count, "cpu_seconds": time.process_time() - began}
    finally:
        os.close(fd)


if __name__ == "__main__":
    print(json.dumps(_work(Path(sys.argv[1]))))
