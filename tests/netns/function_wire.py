"""A data plane for functions in tests: puts packets in at `near`, and takes the answers out there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.function_pair import NEAR, Listener, Pair, Sizes, Sockets, listening
from controller_sim.lab.namespaces import call_in
from droplet_functions import Function, Meta, Packet, Verdict
from droplet_functions.handover import Stop
from droplet_functions.meta import Answer, read_answer

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
_ETH_P_ALL, _PACKET_OUTGOING, _SO_RCVBUFFORCE = 3, 4, 33


class Wire:
    """The near end of a pair."""

    def __init__(self, pair: Pair) -> None:
        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            made.bind((NEAR, _ETH_P_ALL))
            return made

        self._socket = call_in(pair.namespace, opened)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        self._socket.settimeout(PATIENCE)

    def send(self, packet: bytes, meta: Meta | None = None) -> None:
        """Let the function have a packet."""
        self._socket.send((meta or Meta()).pack(len(packet)) + packet)

    def frame(self) -> bytes:
        """Return the next frame that came from the function; TimeoutError when none comes."""
        while True:
            raw, address = self._socket.recvfrom(1 << 16)
            if address[2] != _PACKET_OUTGOING:
                return raw

    def answer(self) -> Answer:
        """Return the next answer."""
        return read_answer(self.frame())

    def asked(self, packet: bytes, meta: Meta | None = None) -> Answer:
        """Let the function have a packet, and return its answer."""
        self.send(packet, meta)
        return self.answer()

    def close(self) -> None:
        self._socket.close()


class Host:
    """A pair, its wire, and an agent that listens; everything is removed at the end."""

    def __init__(self, letter: str = "a", queues: int = 1, mtu: int = 1600) -> None:
        self.pair = Pair(f"fn{os.getpid()}{letter}", queues, mtu)

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="fn-")
        self.path = Path(self.folder.name, "agent.sock")
        self.pair.__enter__()
        self.wire = Wire(self.pair)
        self._listening = listening(self.path)
        self.agent: Listener = self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.__exit__(kind, error, trace)
        self.wire.close()
        self.pair.__exit__(kind, error, trace)
        self.folder.cleanup()

    @contextmanager
    def sockets(self, sizes: Sizes | None = None) -> Iterator[Sockets]:
        """Make sockets on the pair, and close this side's descriptors at the end."""
        made = Sockets(self.pair, sizes)
        try:
            yield made
        finally:
            made.close()


class Running:
    """A function that runs in a thread of this process; what it raised is raised when it ends."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.function.run()
        except BaseException as error:
            self._errors.append(error)

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the function does not end"
        if self._errors:
            raise self._errors[0]


@contextmanager
def running(
    host: Host, handler: Callable[[Packet], Verdict], sizes: Sizes | None = None, **more: Any
) -> Iterator[Function]:
    """Run a function on a host's pair in a thread, and stop it as an agent does."""
    function = Function("one", socket=host.path, **more)
    function.on_packet(handler)
    with host.sockets(sizes) as sockets:
        thread = Running(function)
        try:
            host.agent.serve("one", sockets)
            yield function
            host.agent.say(Stop())
        finally:
            function.stop()
            thread.join()


@contextmanager
def process(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a function in a process without any capability; it is killed if it has not ended by itself."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DROPLET_FUNCTION_SOCKET": str(path)}
    started = subprocess.Popen(
        [*drop, sys.executable, "-c", code, "one"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()
